//! `cargo xtask failures`: injects every fault of the table and writes docs/failures.md from what the tests
//! have recorded.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lark_testbed::faults::{RECORDS, Record, Row, TABLE, rows};

use crate::install::say;
use crate::test;

/// The document.
pub(crate) const DOCUMENT: &str = "docs/failures.md";

/// Runs the task.
///
/// # Errors
/// When a test fails, a fault was not recorded, or the document cannot be written.
pub(crate) fn run() -> Result<()> {
    let records = tempfile::tempdir().context("a directory for the tests' records cannot be made")?;
    test::run_tests(&["-E", &filter()], &[(RECORDS, records.path())])?;
    let records = read(records.path())?;
    let lacking: Vec<&str> =
        rows().map(|row| row.fault).filter(|fault| find(&records, fault).is_none()).collect();
    ensure!(lacking.is_empty(), "the tests of these faults record nothing: {}", lacking.join("; "));
    let file = test::metadata()?.workspace_root.join(DOCUMENT);
    fs::write(&file, document(&records, &machine()?))
        .with_context(|| format!("{} cannot be written", file.display()))?;
    say(&format!("wrote {DOCUMENT}: {} faults", records.len()));
    Ok(())
}

/// The runner's expression for exactly the table's tests.
fn filter() -> String {
    let test = |row: &Row| format!("(binary({}) and test(={}))", row.test.0, row.test.1);
    // One test may inject several faults.
    rows().map(test).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(" + ")
}

fn read(directory: &Path) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let record = serde_json::from_slice(&fs::read(&path)?);
        records.push(record.with_context(|| format!("{} is no record", path.display()))?);
    }
    Ok(records)
}

fn find<'a>(records: &'a [Record], fault: &str) -> Option<&'a Record> {
    records.iter().find(|record| record.fault == fault)
}

/// Kernel and day.
fn machine() -> Result<String> {
    let day = Command::new("date").args(["--utc", "+%Y-%m-%d"]).output().context("date cannot be run")?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(format!("Linux {}, {}", kernel.trim(), String::from_utf8_lossy(&day.stdout).trim()))
}

/// Pure: the document. Rows in the table's order.
fn document(records: &[Record], machine: &str) -> String {
    let mut text = format!(
        "# Failures\n\n<!-- Made by `cargo xtask failures`, which injects every fault. -->\n\n\
         Each row is a fault, what must happen, and what a test saw when it made that happen, with real programs, \
         agents and kernel: {machine}. The table itself is tests/testbed/src/faults/table.rs; a test that injects \
         a fault without a row here, or a row without its test, fails `cargo xtask tidy`.\n\n\
         **lost** counts connections that were open and broke: only where the fault itself takes away what carries \
         them. **corrupted** counts bytes that came back changed, and bytes that were missing although the \
         connection ended in order, out of the bytes that were compared. Connects that are refused or reset before \
         their first byte are not lost; \"seen\" tells them.\n"
    );
    let (mut injected, mut compared, mut corrupted) = (0, 0, 0);
    for section in TABLE {
        let _ = write!(
            text,
            "\n## {}\n\n| fault | pods | expected | injected | seen | lost | corrupted | test |\n|---|---|---|--:|---|--:|--:|---|\n",
            section.title
        );
        for row in section.rows {
            let Some(record) = find(records, row.fault) else { continue };
            injected += record.injected;
            compared += record.compared;
            corrupted += record.corrupted;
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} of {} | `{}` `{}` |",
                cell(row.fault),
                row.mode.word(),
                cell(row.expected),
                record.injected,
                cell(&record.seen),
                record.lost,
                record.corrupted,
                size(record.compared),
                row.test.0,
                row.test.1,
            );
        }
    }
    let _ = write!(
        text,
        "\nTogether: {} faults, injected {injected} times, {corrupted} of {} corrupted.\n",
        records.len(),
        size(compared)
    );
    text
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// Bytes as people say them.
fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{} kB", bytes / 1000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}

/// Pure: the faults of the document, by the first cell of its rows.
pub(crate) fn faults(document: &str) -> Vec<String> {
    let cells = document.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    cells.filter(|cell| *cell != "fault").map(|cell| cell.replace("\\|", "|")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(fault: &str) -> Record {
        let mut record = Record::of(fault).unwrap();
        record.injected(2);
        record.compared(20_000);
        record.seen = "a | b".to_owned();
        record
    }

    #[test]
    fn the_document_has_the_tables_rows_in_its_order_whatever_order_records_come_in() {
        let mut records: Vec<Record> = rows().map(|row| record(row.fault)).collect();
        let text = document(&records, "Linux 6.18, 2026-01-01");
        records.reverse();
        assert_eq!(document(&records, "Linux 6.18, 2026-01-01"), text);
        assert_eq!(faults(&text), rows().map(|row| row.fault.to_owned()).collect::<Vec<_>>());
        assert!(text.contains("| 2 | a \\| b | 0 | 0 of 20 kB |"), "{text}");
    }

    #[test]
    fn only_tests_of_the_table_are_run() {
        let filter = filter();
        let tests: BTreeSet<_> = rows().map(|row| row.test).collect();
        assert_eq!(filter.matches("test(=").count(), tests.len());
        assert!(
            filter.contains(
                "(binary(kernel) and test(=pins::what_another_layout_has_pinned_is_refused_by_name))"
            )
        );
    }
}
