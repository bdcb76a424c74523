//! `lark top`: the busiest edges, again and again.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use lark_core::view::{NodeAnswer, RequestsView};

use super::cluster::{self, Asked, ClusterQuery, Told};
use super::stat::{self, By};
use super::{Format, output};

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
    pub at: ClusterQuery,
}

pub(super) async fn run(args: &TopArgs) -> anyhow::Result<ExitCode> {
    // A program or file that reads this wants no screen.
    let format = args.at.query.output;
    let is_screen = format == Format::Table && std::io::stdout().is_terminal();
    // https://no-color.org
    let has_colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (asked, question) = (Asked::open(&args.at).await?, stat::question(args.by, 10));
    let mut look = 0;
    loop {
        let told = busiest(asked.ask(&question).await?, args.rows);
        let text = match (format, &told) {
            (Format::Table, told) if is_screen => format!("{CLEAR}{}", screen(told, args, has_colours)),
            (Format::Table, told) => plain(told, args),
            // One document a line, so that a reader can tell them apart.
            (Format::Json, Told::Here(rows)) => format!("{}\n", serde_json::to_string(rows)?),
            (Format::Json, Told::Everywhere(nodes)) => format!("{}\n", serde_json::to_string(nodes)?),
            (Format::Yaml, Told::Here(rows)) => format!("---\n{}", serde_saphyr::to_string(rows)?),
            (Format::Yaml, Told::Everywhere(nodes)) => format!("---\n{}", serde_saphyr::to_string(nodes)?),
        };
        look += 1;
        if !output::write_more(text.as_bytes())? || look == args.looks {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(Duration::from_secs(args.every)).await;
    }
}

/// The busiest rows of each who answered, which has the busiest first.
fn busiest(mut told: Told<Vec<RequestsView>>, rows: usize) -> Told<Vec<RequestsView>> {
    match &mut told {
        Told::Here(all) => all.truncate(rows),
        Told::Everywhere(nodes) => {
            nodes.iter_mut().filter_map(|node| node.answer.as_mut()).for_each(|all| all.truncate(rows));
        }
    }
    told
}

/// A table, and beside it how much of each row's requests succeeded.
struct Rows {
    table: output::Table,
    success: Vec<Option<f64>>,
    /// Who said nothing.
    missing: String,
}

fn rows(told: &Told<Vec<RequestsView>>, args: &TopArgs) -> Rows {
    let head = stat::head(args.by);
    match told {
        Told::Here(rows) => {
            let mut table = output::Table::new(&head);
            rows.iter().for_each(|view| table.row(stat::row(view, args.by)));
            Rows { table, success: rows.iter().map(|view| view.success).collect(), missing: String::new() }
        }
        Told::Everywhere(nodes) => {
            let of = |node: &NodeAnswer<Vec<RequestsView>>| {
                let rows = node.answer.iter().flatten();
                rows.map(|view| (view.requests, node.node.clone(), stat::row(view, args.by), view.success))
                    .collect::<Vec<_>>()
            };
            let mut all: Vec<_> = nodes.iter().flat_map(of).collect();
            all.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
            let mut table = output::Table::new(&[&["NODE"], head.as_slice()].concat());
            let mut success = Vec::new();
            for (_, node, mut row, of_row) in all.into_iter().take(args.rows) {
                row.insert(0, node);
                table.row(row);
                success.push(of_row);
            }
            Rows { table, success, missing: cluster::missing(nodes) }
        }
    }
}

fn plain(told: &Told<Vec<RequestsView>>, args: &TopArgs) -> String {
    let rows = rows(told, args);
    format!("{}{}", rows.table.render(), rows.missing)
}

/// The same for a screen: what fails is to be seen at once.
fn screen(told: &Told<Vec<RequestsView>>, args: &TopArgs, has_colours: bool) -> String {
    let rows = rows(told, args);
    let before = usize::from(matches!(told, Told::Everywhere(_)));
    let success = stat::head(args.by).iter().position(|name| *name == "SUCCESS").map(|at| at + before);
    let paint = |row: usize, column: usize| match row.checked_sub(1) {
        _ if !has_colours => "",
        None => BOLD,
        Some(row) if Some(column) == success => rows.success.get(row).copied().flatten().map_or("", colour),
        Some(_) => "",
    };
    let said = "lark top: requests of the last ten to twenty seconds, the busiest first; Ctrl-C ends";
    format!("{said}\n\n{}{}", rows.table.painted(paint), rows.missing)
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
    use clap::Parser;
    use lark_core::observe::Totals;

    use super::*;

    fn asked(line: &[&str]) -> TopArgs {
        let line = ["lark", "top"].iter().chain(line);
        let super::super::Command::Top(args) = super::super::Cli::try_parse_from(line).unwrap().command
        else {
            panic!("no top")
        };
        args
    }

    fn view(success: Option<f64>) -> RequestsView {
        RequestsView { success, ..RequestsView::of(&Totals::default(), 10.0) }
    }

    #[test]
    fn what_fails_is_red_on_a_screen_and_columns_stay_in_line() {
        let rows = vec![view(Some(1.0)), view(Some(0.995)), view(Some(0.5)), view(None)];
        let here = Told::Here(rows.clone());
        let everywhere = Told::Everywhere(vec![NodeAnswer::new("one", Ok(rows))]);
        for (told, args) in [(here, asked(&[])), (everywhere, asked(&["--cluster"]))] {
            let painted = screen(&told, &args, true);
            let lines: Vec<&str> = painted.lines().skip(2).collect();
            for (line, rendition) in
                lines.iter().zip(["\x1b[1mSUCCESS", "\x1b[32m100.00%", "\x1b[33m99.50%", "\x1b[31m50.00%"])
            {
                assert!(line.contains(rendition), "{rendition:?} is not in {line:?}");
            }
            assert!(!lines[4].contains('\x1b'), "{:?}", lines[4]);
            let bare: String = ["1", "31", "32", "33", "0"]
                .iter()
                .fold(painted, |text, rendition| text.replace(&format!("\x1b[{rendition}m"), ""));
            assert_eq!(bare, screen(&told, &args, false));
            assert!(bare.ends_with(&plain(&told, &args)));
        }
    }

    #[test]
    fn the_busiest_of_all_nodes_come_first_and_who_is_silent_is_named() {
        let row = |name: &str, requests| {
            let view = RequestsView::of(&Totals::default(), 10.0);
            RequestsView { destination: name.to_owned(), requests, ..view }
        };
        let told = Told::Everywhere(vec![
            NodeAnswer::new("one", Ok(vec![row("a", 9), row("b", 2), row("c", 1)])),
            NodeAnswer::new("three", Err("it sleeps".to_owned())),
            NodeAnswer::new("two", Ok(vec![row("d", 5)])),
        ]);
        let args = asked(&["--cluster", "--rows", "2"]);
        let text = plain(&busiest(told, args.rows), &args);
        let begins: Vec<&str> = text.lines().map(|line| line.split("   ").next().unwrap()).collect();
        assert_eq!(begins, ["NODE", "one", "two", "✗ three: it sleeps"], "{text}");
    }
}
