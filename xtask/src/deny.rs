//! `cargo xtask deny`: deny.toml against every crate that Lark is built from, the programs for the BPF
//! virtual machine included.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::install::{self, say};
use crate::test::{metadata, target_directory};

/// Lock files of this repository but that of tests/fuzz: nothing of it is shipped, and beside what fuzzing needs
/// it has the crates that are checked here.
const MANIFESTS: [&str; 2] = ["Cargo.toml", "ebpf/programs/Cargo.toml"];

/// Runs the task.
///
/// # Errors
/// When a crate is not as deny.toml wants it; cargo-deny has printed which and why.
pub(crate) fn run() -> anyhow::Result<()> {
    let deny = install::deny(&target_directory()?)?;
    let root = metadata()?.workspace_root;
    let advisories = database();
    if advisories.is_none() {
        say("no advisory database at hand, so advisories are not checked; `cargo deny fetch db` brings one");
    }
    for manifest in MANIFESTS {
        let check = |what: &[&str]| {
            install::run(
                Command::new(&deny)
                    .args(["--locked", "--log-level", "warn", "--manifest-path"])
                    .arg(root.join(manifest))
                    .arg("--config")
                    .arg(root.join("deny.toml"))
                    .args(["check", "--hide-inclusion-graph"])
                    // One file for both: what one does not need, the other may.
                    .args(["--allow", "license-not-encountered", "--allow", "unmatched-skip"])
                    .args(what),
            )
        };
        check(&["bans", "licenses", "sources"])?;
        if advisories.is_some() {
            check(&["--disable-fetch", "advisories"])?;
        }
    }
    Ok(())
}

/// Where cargo-deny keeps advisories, if somebody fetched them.
fn database() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cargo")))?;
    let databases = home.join("advisory-dbs");
    let mut found = fs::read_dir(&databases).ok()?.flatten().filter(|entry| entry.path().is_dir());
    found.next().map(|_| databases)
}
