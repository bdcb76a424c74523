//! `lark explain`: what a word means that Lark printed as a cause. Asks nobody.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use lark_core::explain::{Row, find, near, sets};

use super::output;

/// Flags of `lark explain`.
#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    /// A reason, cause, state or event as a log line, a table or a metric has it.
    ///
    /// Default: all of them, by set.
    #[arg(value_name = "REASON")]
    pub reason: Option<String>,
    /// How to print: table, json or yaml.
    ///
    /// Default table.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: super::Format,
}

pub(super) fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let Some(reason) = &args.reason else {
        let rows: Vec<Row> = sets().into_iter().flat_map(|set| set.rows).collect();
        output::print(&rows, args.output, |_| all())?;
        return Ok(ExitCode::SUCCESS);
    };
    let rows = find(reason);
    if rows.is_empty() {
        match near(reason).join(", ") {
            near if near.is_empty() => bail!("no reason is called {reason:?}; `lark explain` lists all"),
            near => bail!("no reason is called {reason:?}; perhaps {near}? `lark explain` lists all"),
        }
    }
    output::print(&rows, args.output, |rows| rows.iter().map(paragraph).collect::<Vec<_>>().join("\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn paragraph(row: &Row) -> String {
    let mut table = output::Table::default();
    for (name, value) in [
        ("reason", format!("{} ({})", row.reason, row.set)),
        ("means", row.meaning.to_owned()),
        ("seen by", row.seen_by.words().to_owned()),
        ("what to do", row.advice.to_owned()),
    ] {
        table.row(vec![name.to_owned(), value]);
    }
    table.render()
}

fn all() -> String {
    let mut table = output::Table::new(&["SET", "REASON", "MEANING"]);
    for row in sets().into_iter().flat_map(|set| set.rows) {
        table.row(vec![row.set.to_owned(), row.reason.to_owned(), row.meaning.to_owned()]);
    }
    format!("{}\n`lark explain REASON` says who saw it and what to do.\n", table.render())
}
