//! `lark policy`: which policies there are, what they say, and whether that is what is expected.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use lark_core::view::{PolicyCase, PolicyCaseView, PolicyExplainView, PolicyView};

use super::{Format, Query, client, output};

/// Largest table of expected decisions that is read, in bytes.
const FILE_MAX: u64 = 16 * 1024 * 1024;

/// What to do with policies.
#[derive(Debug, Clone, Args)]
pub struct PolicyArgs {
    /// Which of them.
    #[command(subcommand)]
    pub command: PolicyCommand,
}

/// The verbs of `lark policy`.
#[derive(Debug, Clone, Subcommand)]
pub enum PolicyCommand {
    /// Show policies, what they select, and those that could not be read.
    List(Query),
    /// Tell what policies say of a connection, at which agent, and what would change it.
    Explain(ExplainArgs),
    /// Compare what policies say with a table of what is expected; exits with 1 if something differs.
    Test(TestArgs),
}

/// Flags of `lark policy explain`.
#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    /// The workload that would connect, NAMESPACE/NAME.
    ///
    /// No default. It may run on any node.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub from: String,
    /// The workload and port that it would connect to, NAMESPACE/NAME:PORT.
    ///
    /// No default. The port is the workload's own, not that of a Service.
    #[arg(long, value_name = "NAMESPACE/NAME:PORT")]
    pub to: String,
    /// Where to ask and how to print.
    #[command(flatten)]
    pub query: Query,
}

/// Flags of `lark policy test`.
#[derive(Debug, Clone, Args)]
pub struct TestArgs {
    /// YAML list of cases: from, to, expect (allow or deny), and by (the policy that decides) if that matters.
    ///
    /// No default.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Judge by the policies of this discovery, file:PATH, and ask no agent.
    ///
    /// Default: ask the agent on --admin-socket.
    #[arg(long, value_name = "file:PATH")]
    pub discovery: Option<String>,
    /// Where to ask and how to print.
    #[command(flatten)]
    pub query: Query,
}

pub(super) async fn run(args: &PolicyArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        PolicyCommand::List(query) => list(query).await,
        PolicyCommand::Explain(args) => explain(args).await,
        PolicyCommand::Test(args) => {
            let mut results = Vec::new();
            for case in cases(&args.file)? {
                let asked = ask(&args.query.admin_socket, &case.from, &case.to).await;
                // One that the agent does not know is a case that fails; an agent that is not there is not.
                let told = match asked {
                    Ok(explained) => case.hold_against(Ok(&explained)),
                    Err(error) if error.is::<client::Refused>() => case.hold_against(Err(&error.to_string())),
                    Err(error) => return Err(error),
                };
                results.push(told);
            }
            report(&results, args.query.output)
        }
    }
}

async fn ask(socket: &Path, from: &str, to: &str) -> anyhow::Result<PolicyExplainView> {
    client::get(socket, &format!("/v1/policy/explain?from={from}&to={to}")).await
}

/// The cases of a file.
///
/// # Errors
/// When it cannot be read, is no such table, or has no case in it.
pub fn cases(file: &Path) -> anyhow::Result<Vec<PolicyCase>> {
    let size = std::fs::metadata(file).with_context(|| format!("{} cannot be read", file.display()))?.len();
    if size > FILE_MAX {
        bail!("{} has {size} bytes, more than the {FILE_MAX} that are read", file.display());
    }
    let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let cases: Vec<PolicyCase> = serde_saphyr::from_str(&text)
        .with_context(|| format!("{} is no list of cases of from, to, expect and by", file.display()))?;
    if cases.is_empty() {
        bail!("{} has no case, so nothing would be tested", file.display());
    }
    if let Some(odd) =
        cases.iter().find(|c| [&c.from, &c.to].iter().any(|s| s.contains(['&', ' ', '#', '%'])))
    {
        bail!("{}: {} to {} are no names of workloads", file.display(), odd.from, odd.to);
    }
    Ok(cases)
}

/// Prints what became of each case; exits with 1 if one differs.
///
/// # Errors
/// When it cannot be printed.
pub fn report(results: &[PolicyCaseView], format: Format) -> anyhow::Result<ExitCode> {
    output::print(&results, format, |all| {
        let mut table = output::Table::new(&["", "FROM", "TO", "EXPECTED", "FOUND"]);
        for result in *all {
            let expected = match result.case.expect {
                lark_core::view::PolicyExpectation::Allow => "allow",
                lark_core::view::PolicyExpectation::Deny => "deny",
            };
            let by = result.case.by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
            table.row(vec![
                if result.passed { "√" } else { "✗" }.to_owned(),
                result.case.from.clone(),
                result.case.to.clone(),
                format!("{expected}{by}"),
                result.found.clone(),
            ]);
        }
        table.render()
    })?;
    Ok(ExitCode::from(u8::from(results.iter().any(|r| !r.passed))))
}

async fn list(query: &Query) -> anyhow::Result<ExitCode> {
    let policies: Vec<PolicyView> = client::get(&query.admin_socket, "/v1/policies").await?;
    output::print(&policies, query.output, |all| {
        let mut table = output::Table::new(&[
            "KIND",
            "NAMESPACE",
            "NAME",
            "EFFECT",
            "DRY RUN",
            "WITHIN",
            "SELECTOR",
            "SELECTED",
            "ERROR",
        ]);
        for p in all {
            table.row(vec![
                p.kind.clone(),
                output::or_dash(&p.namespace),
                output::or_dash(&p.name),
                p.effect.clone(),
                if p.dry_run { "yes" } else { "no" }.to_owned(),
                if p.within.is_empty() { "*" } else { &p.within }.to_owned(),
                if p.selector.is_empty() { "*" } else { &p.selector }.to_owned(),
                p.selected.to_string(),
                output::or_dash(p.error.as_deref().unwrap_or_default()),
            ]);
        }
        table.render()
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn explain(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let explained = ask(&args.query.admin_socket, &args.from, &args.to).await?;
    output::print(&explained, args.query.output, |told| {
        let mut table = output::Table::default();
        let mut row = |name: &str, value: String| table.row(vec![name.to_owned(), value]);
        row("from", told.from.clone());
        row("to", told.to.clone());
        for decision in &told.decisions {
            let verdict = if decision.allowed { "allowed" } else { "DENIED" };
            row(&decision.stage, format!("{verdict} at node {}: {}", decision.node, decision.because));
            for would in &decision.dry_run {
                row("  dry run", format!("would deny: {would}"));
            }
            row("  changed by", decision.would_change.clone());
        }
        if !told.note.is_empty() {
            row("note", told.note.clone());
        }
        row("so", if told.allowed { "allowed" } else { "DENIED" }.to_owned());
        table.render()
    })?;
    Ok(ExitCode::SUCCESS)
}
