use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::judge::{Kind, Run, Verdict};

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

/// The commit that is checked out now.
pub(crate) fn commit() -> String {
    said("git", &["describe", "--always", "--dirty"])
}

/// What the run was; `commit` is what was built for it.
pub(crate) fn facts(minutes: u64, release: bool, commit: &str, run: &Run) -> Value {
    json!({
        "minutes": minutes,
        "seconds": run.samples.last().map(|sample| sample.at.round()),
        "build": if release { "release" } else { "debug" },
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "commit": commit,
        "day": said("date", &["--utc", "+%Y-%m-%d"]),
        "upgrades": run.count(Kind::Upgrade),
        "kills": run.count(Kind::Kill),
        "pods": run.pods.good + run.pods.failed + run.pods.wrong,
    })
}

/// The same in a line.
pub(crate) fn caption(facts: &Value) -> String {
    let text = |name: &str| facts[name].as_str().unwrap_or("?").to_owned();
    format!(
        "{} minutes, {} build, commit {}, Linux {}, {} cores, {}",
        facts["minutes"],
        text("build"),
        text("commit"),
        text("kernel"),
        facts["cores"],
        text("day")
    )
}

/// docs/soak.md.
pub(crate) fn document(facts: &Value, run: &Run, verdicts: &[Verdict]) -> String {
    let mut text = format!(
        "# Soak\n\n<!-- Made by `cargo xtask soak --minutes {} --docs`. -->\n\n{}.\n\n\
         Two nodes; nginx and curl, PostgreSQL and pgbench, redis, and an echo in both directions whose every byte is \
         compared, without a pause. Meanwhile {} pods came and went, certificates lived for a minute, and the second \
         node's agent was upgraded {} times and killed {} times; {} certificates were issued. The first node's agent and the controller ran throughout.\n\n\
         ![memory, descriptors, entries and failures over time](soak.svg)\n\n| | judgement |\n|---|---|\n",
        facts["minutes"],
        caption(facts),
        facts["pods"],
        facts["upgrades"],
        facts["kills"],
        run.certificates,
    );
    for verdict in verdicts {
        let _ = writeln!(
            text,
            "| {} | {} |",
            if verdict.met { "√" } else { "✗" },
            verdict.sentence.replace('|', "\\|")
        );
    }
    let _ = write!(
        text,
        "\nIn short: {}. A failure is a killed agent's if it came between the kill and a few seconds after the next \
         agent was there; upgrades explain none. Growth is the median of all slopes between samples, the first quarter \
         left out, times the time.\n",
        run.summary()
    );
    text
}
