//! Writes the documents that are made from the code: `cargo xtask docs` runs it. Not part of the binary,
//! so that the makers of man pages stay out of it.
//!
//! Arguments: a directory for reasons.md, cli.md, metrics.md and capabilities.md, and one for man pages.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use clap::{Command, CommandFactory};
use lark::cli::Cli;
use lark_core::explain::sets;

const MADE: &str = "<!-- Made from the code by `cargo xtask docs`. -->\n";

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [docs, man] = arguments.as_slice() else { bail!("two directories are needed: documents, man pages") };
    for (name, text) in [("reasons.md", reasons()), ("cli.md", cli()), ("metrics.md", metrics()?)] {
        let path = Path::new(docs).join(name);
        fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    clap_mangen::generate_to(Cli::command(), man).with_context(|| format!("no man pages in {man}"))?;
    Ok(())
}

/// One cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn reasons() -> String {
    let mut text = format!(
        "# Reasons\n\n{MADE}\nEvery word that Lark prints as the cause of something, in closed sets. `lark explain REASON` prints one row of this page.\n"
    );
    for set in sets() {
        let _ = write!(
            text,
            "\n## {}\n\n{}\n\n| reason | what it means | seen by | what to do |\n|---|---|---|---|\n",
            set.name, set.about
        );
        for row in set.rows {
            let _ = writeln!(
                text,
                "| `{}` | {} | {} | {} |",
                row.reason,
                cell(row.meaning),
                row.seen_by.words(),
                cell(row.advice)
            );
        }
    }
    text
}

fn metrics() -> anyhow::Result<String> {
    let mut text = format!(
        "# Metrics\n\n{MADE}\nAn agent serves these on port 15020 of its node under `/metrics`, in Prometheus' text format. Labels are closed sets or names of workloads' owners, never a pod or an address. The values of `reason`, `how` and `event` are explained in [reasons.md](reasons.md).\n\n| metric | kind | labels | what it is |\n|---|---|---|---|\n"
    );
    rows(&mut text, lark::app::catalogue()?);
    text.push_str(
        "\n## Of the controller\n\nOn port 15014 of the controller's address, or --metrics-listen.\n\n| metric | kind | labels | what it is |\n|---|---|---|---|\n",
    );
    rows(&mut text, lark::controller::catalogue());
    Ok(text)
}

fn rows(text: &mut String, metrics: Vec<lark::observe::Described>) {
    for metric in metrics {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} |",
            metric.name,
            metric.kind,
            labels.join(" "),
            cell(&metric.help)
        );
    }
}

fn cli() -> String {
    let mut text = format!(
        "# Command line\n\n{MADE}\nThe same as `lark VERB --help` and the man pages, which `cargo xtask docs --man DIR` writes. `lark completions SHELL` makes a shell complete verbs and flags.\n"
    );
    // Tables are as wide as they are, whatever terminal this runs in.
    verb(&mut text, &Cli::command().term_width(0), "");
    text
}

fn verb(text: &mut String, command: &Command, path: &str) {
    let path = if path.is_empty() {
        command.get_name().to_owned()
    } else {
        format!("{path} {}", command.get_name())
    };
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    let _ = write!(text, "\n## {path}\n\n{}\n", about.trim());
    let arguments: Vec<_> = command
        .get_arguments()
        .filter(|a| !a.is_hide_set() && !["help", "version"].contains(&a.get_id().as_str()))
        .collect();
    if !arguments.is_empty() {
        text.push_str("\n| flag | environment | what it does |\n|---|---|---|\n");
    }
    for argument in arguments {
        let value = argument.get_value_names().and_then(|names| names.first());
        let value = value.filter(|_| argument.get_action().takes_values()).map(ToString::to_string);
        let name = match argument.get_long() {
            Some(long) => format!("--{long}{}", value.map(|v| format!(" {v}")).unwrap_or_default()),
            None => value.unwrap_or_default(),
        };
        let variable = argument.get_env().map(|e| format!("`{}`", e.to_string_lossy())).unwrap_or_default();
        let help =
            argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(text, "| `{name}` | {variable} | {} |", cell(&help.replace("\n\n", " ")));
    }
    for sub in command.get_subcommands().filter(|c| c.get_name() != "help" && !c.is_hide_set()) {
        verb(text, sub, &path);
    }
}
