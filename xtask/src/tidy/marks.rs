use super::{Finding, Tree};

/// What is left behind in unfinished work. Taken apart so that this file does not break its own rule.
const MARKS: [(&str, &str); 5] = [
    (concat!("TO", "DO"), "do it, or open an issue"),
    (concat!("FIX", "ME"), "do it, or open an issue"),
    (concat!("XX", "X:"), "do it, or open an issue"),
    (concat!("#[ig", "nore"), "a test that cannot run fails and says what is missing"),
    (concat!("<<<<", "<<< "), "a merge that was not finished"),
];

/// Nothing unfinished is left behind.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let source = |path: &str| [".rs", ".md", ".toml", ".yaml", ".yml"].iter().any(|end| path.ends_with(end));
    for file in tree.files.iter().filter(|file| source(&file.path) || file.path.starts_with(".ci/")) {
        for (number, line) in (1..).zip(file.text.lines()) {
            for (mark, advice) in MARKS.iter().filter(|(mark, _)| line.contains(mark)) {
                findings.push(file.finding(number, format!("{mark}: {advice}")));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::{places, tree};
    use super::{MARKS, check};

    #[test]
    fn marks_of_unfinished_work_are_found() {
        let text = MARKS.map(|(mark, _)| mark).join("\n");
        let tree = tree([("agent/src/main.rs", &text), ("LICENSE", &text)]);
        assert_eq!(check(&tree).len(), MARKS.len());
        assert_eq!(places(&check(&tree))[0], "agent/src/main.rs:1");
    }
}
