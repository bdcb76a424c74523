//! `lark log`: which lines the agent writes, changed while it runs.

use std::process::ExitCode;

use clap::Args;
use lark_core::view::LogView;

use super::{Query, client, output};

/// Which lines.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// Levels that count instead of --log for a while: LEVEL or MODULE=LEVEL,...
    ///
    /// Default: none, and what is in force is shown. For example lark_tunnel=debug. What is not named stays as
    /// --log has it; a level without a module replaces all. `reset` goes back at once.
    pub filter: Option<String>,
    /// After how many seconds the agent goes back to --log, 1 to 86400.
    ///
    /// Default 600.
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// Where to ask, and how to print.
    #[command(flatten)]
    pub query: Query,
}

pub(super) async fn run(args: &LogArgs) -> anyhow::Result<ExitCode> {
    let socket = &args.query.admin_socket;
    let view: LogView = match args.filter.as_deref() {
        None => client::get(socket, "/v1/log").await?,
        Some(filter) => {
            client::post(socket, &format!("/v1/log?seconds={}&filter={filter}", args.seconds)).await?
        }
    };
    output::print(&view, args.query.output, |view| {
        let mut table = output::Table::new(&["FILTER", "BACK IN", "THEN"]);
        let back = view.back_in_seconds.map_or_else(|| "-".to_owned(), output::age);
        table.row(vec![view.filter.clone(), back, view.configured.clone()]);
        table.render()
    })?;
    Ok(ExitCode::SUCCESS)
}
