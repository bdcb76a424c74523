use super::{Finding, Tree};

/// What a crate may import.
struct Room {
    name: &'static str,
    /// Our crates.
    ours: &'static [&'static str],
    /// All other crates; `None` when only those of `never` are kept out.
    others: Option<&'static [&'static str]>,
    /// Crates that it must not have.
    never: &'static [&'static str],
}

const NO_KERNEL: &[&str] = &["aya", "aya-log", "kube"];

/// The design's table of rooms. Tests and build scripts may import what they like.
const ROOMS: [Room; 8] = [
    Room { name: "lark-abi", ours: &[], others: Some(&["aya"]), never: &[] },
    Room {
        name: "lark-core",
        ours: &["lark-abi"],
        others: Some(&["serde", "thiserror", "foldhash", "hashbrown", "httlib-huffman"]),
        never: &[],
    },
    Room {
        name: "lark-sys",
        ours: &["lark-abi"],
        others: Some(&["libc", "rustix", "socket2", "thiserror"]),
        never: &[],
    },
    Room {
        name: "lark-bpf",
        ours: &["lark-abi", "lark-sys"],
        others: None,
        never: &["kube", "rustls", "tonic"],
    },
    Room {
        name: "lark-discovery",
        ours: &["lark-core"],
        others: None,
        never: &["aya", "aya-log", "libc", "rustix", "rustls", "socket2"],
    },
    Room { name: "lark-identity", ours: &["lark-core"], others: None, never: NO_KERNEL },
    Room {
        name: "lark-tunnel",
        ours: &["lark-core", "lark-identity", "lark-sys"],
        others: None,
        never: NO_KERNEL,
    },
    Room {
        name: "lark",
        ours: &[
            "lark-abi",
            "lark-bpf",
            "lark-core",
            "lark-discovery",
            "lark-identity",
            "lark-sys",
            "lark-tunnel",
        ],
        others: None,
        never: &["aya", "libc", "rcgen"],
    },
];

/// Crates outside the rooms: they test, build and show.
const OUTSIDE: [&str; 5] = ["lark-apiserver", "lark-bench", "lark-tests", "lark-testbed", "xtask"];

/// A crate imports what the table allows, and each crate of ours is in the table.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in &tree.packages {
        let mut say =
            |message: String| findings.push(Finding { path: package.name.clone(), line: 0, message });
        let Some(room) = ROOMS.iter().find(|room| room.name == package.name) else {
            if !OUTSIDE.contains(&package.name.as_str()) {
                say("is not in the table of rooms in xtask/src/tidy/edges.rs".into());
            }
            continue;
        };
        for dependency in package.dependencies.iter().filter(|d| d.kind.is_none()) {
            let name = dependency.name.as_str();
            let is_ours = name == "lark" || name == "xtask" || name.starts_with("lark-");
            let allowed = if is_ours {
                room.ours.contains(&name)
            } else {
                room.others.is_none_or(|others| others.contains(&name)) && !room.never.contains(&name)
            };
            if !allowed {
                say(format!("must not import {name}"));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::check;
    use crate::test::{Dependency, Package};

    fn findings(package: &str, dependency: &str, kind: Option<&str>) -> usize {
        let mut tree = tree([]);
        let dependencies = vec![Dependency { name: dependency.into(), kind: kind.map(str::to_owned) }];
        tree.packages.push(Package { name: package.into(), dependencies });
        check(&tree).len()
    }

    #[test]
    fn an_import_outside_the_table_is_found() {
        assert_eq!(findings("lark-core", "tokio", None), 1);
        assert_eq!(findings("lark-bpf", "lark-core", None), 1);
        assert_eq!(findings("lark-tunnel", "kube", None), 1);
        assert_eq!(findings("lark", "lark-testbed", None), 1);
        assert_eq!(findings("lark-new", "serde", None), 1);
    }

    #[test]
    fn imports_of_the_table_and_of_tests_pass() {
        assert_eq!(findings("lark-core", "serde", None), 0);
        assert_eq!(findings("lark-core", "tokio", Some("dev")), 0);
        assert_eq!(findings("lark-tests", "tokio", None), 0);
    }
}
