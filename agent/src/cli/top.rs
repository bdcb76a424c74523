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
/// Graphic renditions (ECMA-48, SGR).
const BOLD: &str = "1";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";

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
    // https://no-color.org
    let has_colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let path = format!("/v1/{}", stat::question(args.by, 10));
    let mut look = 0;
    loop {
        let mut rows: Vec<RequestsView> = client::get(&args.query.admin_socket, &path).await?;
        rows.truncate(args.rows);
        let text = match args.query.output {
            Format::Table if is_screen => format!("{CLEAR}{}", screen(&rows, args.by, has_colours)),
            Format::Table => table(&rows, args.by).render(),
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

fn table(rows: &[RequestsView], by: By) -> output::Table {
    let mut table = output::Table::new(&stat::head(by));
    rows.iter().for_each(|view| table.row(stat::row(view, by)));
    table
}

/// The same for a screen: what fails is to be seen at once.
fn screen(rows: &[RequestsView], by: By, has_colours: bool) -> String {
    let success = stat::head(by).iter().position(|name| *name == "SUCCESS");
    let paint = |row: usize, column: usize| match row.checked_sub(1) {
        _ if !has_colours => "",
        None => BOLD,
        Some(row) if Some(column) == success => {
            rows.get(row).and_then(|view| view.success).map_or("", colour)
        }
        Some(_) => "",
    };
    let said = "lark top: requests of the last ten to twenty seconds, the busiest first; Ctrl-C ends";
    format!("{said}\n\n{}", table(rows, by).painted(paint))
}

const fn colour(success: f64) -> &'static str {
    if success >= 1.0 {
        GREEN
    } else if success >= 0.99 {
        YELLOW
    } else {
        RED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(success: Option<f64>) -> RequestsView {
        RequestsView { success, ..RequestsView::of(&lark_core::observe::Totals::default(), 10.0) }
    }

    #[test]
    fn what_fails_is_red_on_a_screen_and_columns_stay_in_line() {
        let rows = [view(Some(1.0)), view(Some(0.995)), view(Some(0.5)), view(None)];
        let painted = screen(&rows, By::Edge, true);
        let lines: Vec<&str> = painted.lines().skip(2).collect();
        for (line, rendition) in
            lines.iter().zip(["\x1b[1mSUCCESS", "\x1b[32m100.00%", "\x1b[33m99.50%", "\x1b[31m50.00%"])
        {
            assert!(line.contains(rendition), "{rendition:?} is not in {line:?}");
        }
        assert!(!lines[4].contains('\x1b'), "{:?}", lines[4]);
        let plain: String = ["1", "31", "32", "33", "0"]
            .iter()
            .fold(painted, |text, rendition| text.replace(&format!("\x1b[{rendition}m"), ""));
        assert_eq!(plain, screen(&rows, By::Edge, false));
        assert!(plain.ends_with(&table(&rows, By::Edge).render()));
    }
}
