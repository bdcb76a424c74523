//! `lark top`: the busiest edges, again and again.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use lark_core::view::RequestsView;

use super::stat::{self, By};
use super::{Format, Query, client, output};

/// Clears the screen and goes to its upper left corner (ECMA-48: ED, CUP).
const CLEAR: &str = "\x1b[2J\x1b[H";

/// What is shown, and how often.
#[derive(Debug, Clone, Args)]
pub struct TopArgs {
    /// What a row is: edge or workload.
    ///
    /// Default edge, who asks whom. workload: who is asked.
    #[arg(long, value_enum, default_value = "edge")]
    pub by: By,
    /// Most rows, the busiest first.
    ///
    /// Default 20.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub rows: usize,
    /// How often to look, in seconds.
    ///
    /// Default 2. Each look is at the last ten to twenty seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub every: u64,
    /// How many looks before it ends.
    ///
    /// Default 0: until it is interrupted.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub looks: u64,
    /// Where to ask, and how to print.
    #[command(flatten)]
    pub query: Query,
}

pub(super) async fn run(args: &TopArgs) -> anyhow::Result<ExitCode> {
    // A program or file that reads this wants no screen.
    let is_screen = args.query.output == Format::Table && std::io::stdout().is_terminal();
    let path = format!("/v1/{}", stat::question(args.by, 10));
    let mut look = 0;
    loop {
        let mut rows: Vec<RequestsView> = client::get(&args.query.admin_socket, &path).await?;
        rows.truncate(args.rows);
        let clear = if is_screen { CLEAR } else { "" };
        let text = match args.query.output {
            Format::Table => format!("{clear}{}", table(&rows, args.by)),
            // One document a line, so that a reader can tell them apart.
            Format::Json => format!("{}\n", serde_json::to_string(&rows)?),
            Format::Yaml => format!("---\n{}", serde_saphyr::to_string(&rows)?),
        };
        look += 1;
        if !output::write_more(text.as_bytes())? || look == args.looks {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(Duration::from_secs(args.every)).await;
    }
}

fn table(rows: &[RequestsView], by: By) -> String {
    let mut table = output::Table::new(&stat::head(by));
    rows.iter().for_each(|view| table.row(stat::row(view, by)));
    table.render()
}
