//! `lark check`: labels alone are never believed.

use std::process::ExitCode;

use lark_core::view::{CheckView, Verdict};

use super::cluster::{ClusterQuery, Told, ask};

pub(super) async fn run(args: &ClusterQuery) -> anyhow::Result<ExitCode> {
    let checks: Told<Vec<CheckView>> = ask(args, "check").await?;
    checks.print_list(args, &["", "SUBJECT", "FOUND", "WHAT TO DO"], |c| {
        vec![c.verdict.sign().to_owned(), c.subject.clone(), c.found.clone(), c.advice.clone()]
    })?;
    // A node that says nothing is not known to be well.
    Ok(if checks.is_whole() { exit_code(checks.answers().flatten()) } else { ExitCode::FAILURE })
}

/// 1 if anything failed, 0 otherwise: a warning is no outage.
pub(super) fn exit_code<'a>(checks: impl IntoIterator<Item = &'a CheckView>) -> ExitCode {
    ExitCode::from(u8::from(checks.into_iter().any(|c| c.verdict == Verdict::Fail)))
}
