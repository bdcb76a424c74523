use super::{Finding, Tree};

/// Cargo takes the workspace's lints only where a crate asks for them.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    tree.files
        .iter()
        .filter(|file| file.path.ends_with("/Cargo.toml"))
        // A workspace of its own, with its own lints.
        .filter(|file| !file.text.lines().any(|line| line == "[workspace]"))
        .filter(|file| !file.text.contains("[lints]\nworkspace = true\n"))
        .map(|file| file.finding(0, "lacks `[lints] workspace = true`"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::{places, tree};
    use super::check;

    #[test]
    fn a_crate_without_the_lints_is_found() {
        let tree = tree([
            ("agent/Cargo.toml", "[package]\nname = \"lark\"\n"),
            ("xtask/Cargo.toml", "[package]\n\n[lints]\nworkspace = true\n"),
        ]);
        assert_eq!(places(&check(&tree)), ["agent/Cargo.toml:0"]);
    }
}
