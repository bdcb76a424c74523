//! `lark certs`.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use lark_core::view::CertView;

use super::{Query, client, output};

pub(super) async fn run(query: &Query) -> anyhow::Result<ExitCode> {
    let certs: Vec<CertView> = client::get(&query.admin_socket, "/v1/certs").await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    output::print(&certs, query.output, |all| {
        let mut table = output::Table::new(&["IDENTITY", "STATE", "EXPIRES IN", "SERIAL", "LAST ERROR"]);
        for c in all {
            let left = c.expires_at.map(|at| match at.checked_sub(now) {
                Some(left) => output::age(left),
                None => format!("{} ago", output::age(now - at)),
            });
            table.row(vec![
                c.identity.clone(),
                c.state.clone(),
                left.unwrap_or_else(|| "-".to_owned()),
                c.serial.clone().unwrap_or_else(|| "-".to_owned()),
                output::or_dash(c.last_error.as_deref().unwrap_or_default()),
            ]);
        }
        table.render()
    })?;
    Ok(ExitCode::SUCCESS)
}
