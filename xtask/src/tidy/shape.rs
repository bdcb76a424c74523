use super::{Finding, Tree};

/// Lines of a Rust file at which it has to be taken apart.
const LINES: usize = 600;

/// Longer ones, each with its reason.
const LONGER: [(&str, &str); 0] = [];

/// Bytes of any file: the repository is source, not a store.
const BYTES: usize = 512 * 1024;

/// Larger ones: the programs with what the kernel needs to name their types and lines, which users do not build.
const LARGER: [(&str, usize); 1] = [("agent/bpf/object/lark.bpf.o", 1024 * 1024)];

/// Names that say nothing.
const EMPTY_NAMES: [&str; 8] = ["common", "helper", "helpers", "manager", "misc", "stuff", "util", "utils"];

/// Files are short, small, and named for what they hold.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        let most = LARGER.iter().find(|(path, _)| *path == file.path).map_or(BYTES, |(_, most)| *most);
        if file.size > most {
            findings.push(file.finding(0, format!("has {} bytes; {most} are the most", file.size)));
        }
        if !file.is_rust() {
            continue;
        }
        let lines = file.text.lines().count();
        if lines > LINES && !LONGER.iter().any(|(path, _)| *path == file.path) {
            findings.push(file.finding(0, format!("has {lines} lines; {LINES} are the most")));
        }
        if file.path.split(['/', '.']).any(|part| EMPTY_NAMES.contains(&part)) {
            findings.push(file.finding(0, "has a name that does not say what is in it"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::{places, tree};
    use super::check;

    #[test]
    fn long_large_and_empty_named_files_are_found() {
        let long = "\n".repeat(601);
        let large = "x".repeat(512 * 1024 + 1);
        let tree = tree([
            ("agent/core/src/route.rs", &long),
            ("docs/picture.svg", &large),
            ("agent/src/util.rs", ""),
            ("agent/src/main.rs", "\n"),
        ]);
        assert_eq!(
            places(&check(&tree)),
            ["agent/core/src/route.rs:0", "docs/picture.svg:0", "agent/src/util.rs:0"]
        );
    }
}
