//! `lark policy test --discovery`: expected decisions against the policies of a file, without an agent.

use std::process::ExitCode;

use anyhow::{Context, bail};
use lark_core::policy::explain;

use super::discover::Source;
use crate::cli::policy::{TestArgs, cases, report};

/// Holds the cases against the discovery that the flags name.
///
/// # Errors
/// When either file cannot be used; with a sentence.
pub fn policy_test(args: &TestArgs) -> anyhow::Result<ExitCode> {
    let Some(discovery) = &args.discovery else { bail!("--discovery is not given") };
    let Source::File(path) = Source::parse(discovery)? else {
        bail!("--discovery {discovery} must be file:PATH here; leave it away to ask an agent of the cluster");
    };
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    let snapshot = lark_discovery::file::parse(&path, &text, 1)?;
    let results: Vec<_> = cases(&args.file)?
        .into_iter()
        .map(|case| match explain(&snapshot, &case.from, &case.to) {
            Ok(explained) => case.hold_against(Ok(&explained)),
            Err(error) => case.hold_against(Err(&error)),
        })
        .collect();
    report(&results, args.query.output)
}
