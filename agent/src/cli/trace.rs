//! `lark trace`: which way a connection would take, and why. Opens nothing.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;
use lark_core::view::TraceView;

use super::{Query, client, output};

/// Flags of `lark trace`.
#[derive(Debug, Clone, Args)]
pub struct TraceArgs {
    /// The workload that would connect, NAMESPACE/NAME.
    ///
    /// No default. It must run on this node.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub from: String,
    /// Where it would connect to, IP:PORT.
    ///
    /// No default. IPv6 in brackets.
    #[arg(long, value_name = "IP:PORT")]
    pub to: SocketAddr,
    /// Where to ask and how to print.
    #[command(flatten)]
    pub query: Query,
}

pub(super) async fn run(args: &TraceArgs) -> anyhow::Result<ExitCode> {
    let path = format!("/v1/trace?from={}&to={}", args.from, args.to);
    let trace: TraceView = client::get(&args.query.admin_socket, &path).await?;
    output::print(&trace, args.query.output, |t| {
        let mut table = output::Table::default();
        table.row(vec!["from".to_owned(), t.from.clone()]);
        table.row(vec!["to".to_owned(), t.to.clone()]);
        for step in &t.steps {
            table.row(vec![step.stage.clone(), step.found.clone()]);
        }
        table.row(vec!["so".to_owned(), t.way.clone()]);
        table.render()
    })?;
    Ok(ExitCode::SUCCESS)
}
