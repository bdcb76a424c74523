use std::collections::BTreeSet;

use lark_testbed::faults::{Row, rows};

use super::{Finding, Tree};
use crate::failures::{DOCUMENT, faults};

/// Where the table is.
const TABLE: &str = "tests/testbed/src/faults/table.rs";

/// Tests that inject a fault, the table of faults and docs/failures.md name the same faults.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let rows: Vec<&Row> = rows().collect();
    let sources: Vec<(&str, &str)> = tree
        .files
        .iter()
        // What the table itself is made of is no test of a fault.
        .filter(|file| file.path.starts_with("tests/") && !file.path.starts_with("tests/testbed/"))
        .filter(|file| file.is_rust())
        .map(|file| (file.path.as_str(), file.text.as_str()))
        .collect();
    let document = tree.files.iter().find(|file| file.path == DOCUMENT);
    compare(&rows, &sources, document.map_or("", |file| file.text.as_str()))
}

fn compare(rows: &[&Row], sources: &[(&str, &str)], document: &str) -> Vec<Finding> {
    let finding = |path: &str, message: String| Finding { path: path.to_owned(), line: 0, message };
    let mut findings = Vec::new();
    let known: BTreeSet<String> = rows.iter().map(|row| row.fault.to_owned()).collect();
    let documented: BTreeSet<String> = faults(document).into_iter().collect();
    for fault in known.symmetric_difference(&documented) {
        let lacks = if documented.contains(fault) { TABLE } else { DOCUMENT };
        findings.push(finding(lacks, format!("lacks the fault \"{fault}\"; run `cargo xtask failures`")));
    }
    for &(path, text) in sources {
        let named = ["Record::of(", "Record::told("].into_iter().flat_map(|call| text.split(call).skip(1));
        let literal = named.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next());
        for fault in literal.filter(|fault| !known.contains(*fault)) {
            findings
                .push(finding(path, format!("records the fault \"{fault}\", which has no row in {TABLE}")));
        }
    }
    for row in rows {
        let (program, path) = row.test;
        let Some((module, name)) = path.rsplit_once("::") else {
            findings.push(finding(TABLE, format!("{path} is not a module and a test")));
            continue;
        };
        let file = format!("tests/{program}/{}.rs", module.replace("::", "/"));
        let text = sources.iter().find(|(path, _)| *path == file).map_or("", |(_, text)| *text);
        if !text.contains(&format!("fn {name}(")) {
            findings.push(finding(TABLE, format!("names the test {name}, which is not in {file}")));
        }
        if !text.contains(&format!("\"{}\"", row.fault)) {
            findings.push(finding(&file, format!("{name} does not record the fault \"{}\"", row.fault)));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use lark_testbed::faults::Mode;

    use super::*;

    const ROW: Row = Row {
        fault: "the moon falls",
        mode: Mode::Both,
        expected: "nothing",
        test: ("dataplane", "moon::it_falls"),
    };

    #[test]
    fn a_fault_that_test_table_or_document_lack_is_found() {
        let test = "#[test]\nfn it_falls() { Record::of(\"the moon falls\") }";
        let source = [("tests/dataplane/moon.rs", test)];
        let document = "| fault | pods |\n|---|---|\n| the moon falls | both |\n";
        assert_eq!(compare(&[&ROW], &source, document), []);
        assert_eq!(compare(&[&ROW], &source, "").len(), 1);
        assert_eq!(compare(&[], &source, document).len(), 2);
        assert_eq!(compare(&[], &source, "").len(), 1);
        assert_eq!(compare(&[&ROW], &[("tests/dataplane/moon.rs", "fn it_falls() {}")], document).len(), 1);
        assert_eq!(compare(&[&ROW], &[], document).len(), 2);
    }
}
