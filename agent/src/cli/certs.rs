//! `lark certs`.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use lark_core::view::CertView;

use super::cluster::{ClusterQuery, Told, ask};
use super::output;

pub(super) async fn run(args: &ClusterQuery) -> anyhow::Result<ExitCode> {
    let certs: Told<Vec<CertView>> = ask(args, "certs").await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let head = ["IDENTITY", "STATE", "EXPIRES IN", "SERIAL", "LAST ERROR"];
    certs.print_list(args, &head, |c| {
        let left = c.expires_at.map(|at| match at.checked_sub(now) {
            Some(left) => output::age(left),
            None => format!("{} ago", output::age(now - at)),
        });
        vec![
            c.identity.clone(),
            c.state.clone(),
            left.unwrap_or_else(|| "-".to_owned()),
            c.serial.clone().unwrap_or_else(|| "-".to_owned()),
            output::or_dash(c.last_error.as_deref().unwrap_or_default()),
        ]
    })?;
    Ok(ExitCode::SUCCESS)
}
