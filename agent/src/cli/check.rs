//! `lark check`: labels alone are never believed.

use std::process::ExitCode;

use lark_core::view::{CheckView, Verdict};

use super::{Query, client, output};

pub(super) async fn run(query: &Query) -> anyhow::Result<ExitCode> {
    let checks: Vec<CheckView> = client::get(&query.admin_socket, "/v1/check").await?;
    output::print(&checks, query.output, |all| {
        let mut table = output::Table::new(&["", "SUBJECT", "FOUND", "WHAT TO DO"]);
        for c in all {
            table.row(vec![
                c.verdict.sign().to_owned(),
                c.subject.clone(),
                c.found.clone(),
                c.advice.clone(),
            ]);
        }
        table.render()
    })?;
    Ok(exit_code(&checks))
}

/// 1 if anything failed, 0 otherwise: a warning is no outage.
pub(super) fn exit_code(checks: &[CheckView]) -> ExitCode {
    ExitCode::from(u8::from(checks.iter().any(|c| c.verdict == Verdict::Fail)))
}
