use super::{Finding, Tree};

/// Where crates come from, for everybody.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Folders of somebody's machine. Taken apart so that this file does not break its own rule.
const MACHINE: [&str; 4] =
    [concat!("/ho", "me/"), concat!("/Use", "rs/"), concat!("/wo", "rk/"), concat!("/ro", "ot/")];

/// Files say nothing about the machine they were written on.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        for (number, line) in (1..).zip(file.text.lines()) {
            if let Some(folder) = MACHINE.iter().find(|folder| begins_path(line, folder)) {
                findings.push(file.finding(number, format!("a path of one machine ({folder}...)")));
            }
            if file.path.ends_with("Cargo.lock")
                && line.strip_prefix("source = ").is_some_and(|source| source.trim_matches('"') != REGISTRY)
            {
                findings.push(file.finding(number, "a crate that does not come from crates.io"));
            }
            let settings = file.path.ends_with(".cargo/config.toml") || file.path.ends_with("Cargo.toml");
            if settings && (line.starts_with("[source") || line.starts_with("[registr")) {
                findings.push(file.finding(number, "a registry of one machine"));
            }
        }
    }
    findings
}

/// Whether an absolute path begins so, rather than a relative one having such a part.
fn begins_path(line: &str, folder: &str) -> bool {
    line.match_indices(folder)
        .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "_-./}".contains(c)))
}

#[cfg(test)]
mod tests {
    use super::super::{places, tree};
    use super::{MACHINE, check};

    #[test]
    fn machine_paths_and_other_registries_are_found() {
        let path = format!("let file = \"{}me/lark.yaml\";", MACHINE[0]);
        let tree = tree([
            ("agent/src/main.rs", &path),
            ("Cargo.lock", "source = \"registry+https://mirror.example/index\""),
            (".cargo/config.toml", "[alias]\n[source.crates-io]"),
            ("docs/a.md", "[x](../tests/work/x.md)"),
        ]);
        assert_eq!(places(&check(&tree)), ["agent/src/main.rs:1", "Cargo.lock:1", ".cargo/config.toml:2"]);
    }
}
