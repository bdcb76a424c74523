use super::source::{code, has_word};
use super::{Finding, Tree};

/// What a module of package `lark` may import.
struct Room {
    name: &'static str,
    /// Our crates.
    crates: &'static [&'static str],
    /// Other modules of the package.
    modules: &'static [&'static str],
    /// Words that must not occur, paths or parts of paths.
    never: &'static [&'static str],
}

const KEYS: &[&str] = &["rustls", "kube", "tonic", "Svid", "SvidStore", "SigningKey", "rcgen"];

/// The design's table of rooms, for the modules. `app` wires all and is free.
const ROOMS: [Room; 9] = [
    Room {
        name: "capture",
        crates: &["lark_abi", "lark_bpf", "lark_core", "lark_sys"],
        modules: &[],
        never: KEYS,
    },
    Room {
        name: "deliver",
        crates: &["lark_abi", "lark_bpf", "lark_core", "lark_sys"],
        modules: &["capture"],
        never: KEYS,
    },
    Room {
        name: "proxy",
        crates: &["lark_abi", "lark_bpf", "lark_core", "lark_sys", "lark_tunnel"],
        modules: &["capture", "deliver", "observe"],
        never: KEYS,
    },
    Room { name: "observe", crates: &["lark_core"], modules: &[], never: KEYS },
    Room { name: "admin", crates: &["lark_core"], modules: &["observe"], never: KEYS },
    Room {
        name: "controller",
        crates: &["lark_core", "lark_discovery", "lark_identity"],
        // `cli` for the flags of logging, `app` for the signal to stop, `admin` and `observe` for how an
        // API and metrics are served.
        modules: &["admin", "app", "cli", "observe"],
        never: &["aya", "kube"],
    },
    Room {
        name: "reach",
        crates: &["lark_core", "lark_discovery"],
        modules: &[],
        never: &["rustls", "kube", "tonic", "prometheus", "Svid", "snapshot", "route"],
    },
    Room {
        name: "cli",
        crates: &["lark_core"],
        // `controller` for its flags, `reach` for the way to one in a cluster.
        modules: &["controller", "reach"],
        never: &["rustls", "kube", "tonic", "prometheus", "Svid", "snapshot", "route"],
    },
    Room {
        name: "dashboard",
        crates: &["lark_core"],
        // `admin` for how answers are served, `cli` for the flags and for asking.
        modules: &["admin", "cli"],
        never: &["rustls", "kube", "tonic", "prometheus", "Svid", "snapshot", "route"],
    },
];

const OURS: [&str; 7] =
    ["lark_abi", "lark_bpf", "lark_core", "lark_discovery", "lark_identity", "lark_sys", "lark_tunnel"];

const MODULES: [&str; 10] =
    ["admin", "app", "capture", "cli", "controller", "dashboard", "deliver", "observe", "proxy", "reach"];

/// Modules of `lark` keep to their rooms, and each module has one.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust() {
        let Some(inside) = file.path.strip_prefix("agent/src/") else { continue };
        let module = inside.split(['/', '.']).next().unwrap_or_default();
        if ["main", "lib", "app"].contains(&module) {
            continue;
        }
        let Some(room) = ROOMS.iter().find(|room| room.name == module) else {
            findings.push(file.finding(0, "is in no room of xtask/src/tidy/modules.rs"));
            continue;
        };
        for (number, line) in (1..).zip(code(&file.text).lines()) {
            for name in OURS.iter().filter(|name| !room.crates.contains(name) && has_word(line, name)) {
                findings.push(file.finding(number, format!("`{module}` must not import {name}")));
            }
            for other in MODULES.iter().filter(|other| **other != module && !room.modules.contains(other)) {
                if has_word(line, &format!("crate::{other}")) {
                    findings.push(file.finding(number, format!("`{module}` must not import `{other}`")));
                }
            }
            for word in room.never.iter().filter(|word| has_word(line, word)) {
                findings.push(file.finding(number, format!("`{module}` must not know {word}")));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::{places, tree};
    use super::check;

    #[test]
    fn imports_beyond_the_room_are_found() {
        let tree = tree([
            ("agent/src/capture/pod.rs", "use lark_tunnel::Dialer;\nuse crate::observe::Observer;"),
            ("agent/src/observe/edges.rs", "fn f(svid: &lark_identity::Svid) {}"),
            ("agent/src/cli/edges.rs", "use lark_bpf::Kernel;"),
            ("agent/src/novel/mod.rs", ""),
        ]);
        assert_eq!(
            places(&check(&tree)),
            [
                "agent/src/capture/pod.rs:1",
                "agent/src/capture/pod.rs:2",
                "agent/src/observe/edges.rs:1",
                "agent/src/observe/edges.rs:1",
                "agent/src/cli/edges.rs:1",
                "agent/src/novel/mod.rs:0",
            ]
        );
    }

    #[test]
    fn comments_and_the_room_itself_pass() {
        let tree = tree([
            (
                "agent/src/capture/pod.rs",
                "//! Not lark_tunnel.\nuse lark_bpf::Kernel;\nuse crate::capture::X;",
            ),
            ("agent/src/app/mod.rs", "use lark_tunnel::Dialer;"),
        ]);
        assert_eq!(check(&tree), []);
    }
}
