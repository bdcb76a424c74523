use super::{File, Finding, Tree};

/// Tops of paths that a document may name in backticks; what it names so has to exist.
const TOPS: [&str; 8] = [".ci/", ".config/", "agent/", "deploy/", "docs/", "ebpf/", "tests/", "xtask/"];

/// The document that names what enforces each invariant: its tests have to exist.
const INVARIANTS: &str = "ARCHITECTURE.md";

/// Documents point to files that exist, and to tests that exist.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| file.path.ends_with(".md")) {
        for (number, line) in (1..).zip(file.text.lines()) {
            for target in targets(line) {
                if !tree.has(&resolve(file, target)) {
                    findings.push(file.finding(number, format!("links to {target}, which is not there")));
                }
            }
            let quoted = || line.split('`').skip(1).step_by(2);
            for path in quoted().filter(|word| is_path(word)) {
                if !tree.has(path.trim_end_matches('/')) {
                    findings.push(file.finding(number, format!("names {path}, which is not there")));
                }
            }
            for test in quoted().filter(|word| file.path == INVARIANTS && is_test(word)) {
                if !tree.rust().any(|source| source.text.contains(&format!("fn {test}("))) {
                    findings.push(file.finding(number, format!("names test {test}, which is not there")));
                }
            }
        }
    }
    findings
}

/// Relative targets of `[text](target)`.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| {
        let target = rest.split([')', '#', ' ']).next()?;
        (!target.is_empty() && !target.contains(':')).then_some(target)
    })
}

fn resolve(file: &File, target: &str) -> String {
    let mut parts: Vec<&str> = file.path.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => _ = parts.pop(),
            name => parts.push(name),
        }
    }
    parts.join("/")
}

fn is_path(word: &str) -> bool {
    TOPS.iter().any(|top| word.starts_with(top))
        && word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))
}

/// A sentence in snake case, as tests are called.
fn is_test(word: &str) -> bool {
    word.matches('_').count() >= 3
        && word.chars().all(|c| c.is_ascii_lowercase() || "_0123456789".contains(c))
}

#[cfg(test)]
mod tests {
    use super::super::{places, tree};
    use super::check;

    #[test]
    fn links_and_paths_to_nowhere_are_found() {
        let tree = tree([
            (
                "README.md",
                "[limits](docs/limits.md) [gone](docs/gone.md)\n`agent/src/main.rs` `agent/lost.rs`",
            ),
            ("docs/limits.md", "[up](../README.md#status) [web](https://example.org/) `agent/src/`"),
            ("agent/src/main.rs", ""),
        ]);
        assert_eq!(places(&check(&tree)), ["README.md:1", "README.md:2"]);
    }

    #[test]
    fn invariants_without_their_test_are_found() {
        let tree = tree([
            (
                "ARCHITECTURE.md",
                "`a_reset_stays_a_reset` (tunnel)\n`nobody_has_written_it` `pod_sock_ops.rs`",
            ),
            ("tests/tunnel/main.rs", "#[test]\nfn a_reset_stays_a_reset() {}\n"),
        ]);
        assert_eq!(places(&check(&tree)), ["ARCHITECTURE.md:2"]);
    }
}
