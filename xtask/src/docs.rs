//! `cargo xtask docs`: the documents that are made from the code, and man pages.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::install::{self, say};
use crate::test::{cargo, metadata};

/// Flags.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Make them anew and compare, change nothing.
    #[arg(long)]
    check: bool,
    /// Write man pages into this directory, made if need be.
    #[arg(long, value_name = "DIR")]
    man: Option<PathBuf>,
}

/// Runs the task.
///
/// # Errors
/// When they cannot be made, or with `--check` differ from what is there.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let made = tempfile::tempdir().context("a directory for the documents cannot be made")?;
    let pages = made.path().join("man");
    fs::create_dir(&pages)?;
    // An example and not a part of xtask: `cargo xtask ebpf` must build while lark does not.
    let example = ["run", "--quiet", "--locked", "--package", "lark", "--example", "docs", "--"];
    install::run(cargo().args(example).arg(made.path()).arg(&pages))?;
    let root = metadata()?.workspace_root;
    let mut stale = Vec::new();
    for file in files(made.path())? {
        let name = file.file_name().unwrap_or_default();
        let place = root.join("docs").join(name);
        let new = fs::read_to_string(&file)?;
        if fs::read_to_string(&place).is_ok_and(|old| old == new) {
            continue;
        }
        stale.push(format!("docs/{}", name.to_string_lossy()));
        if !args.check {
            fs::write(&place, new).with_context(|| format!("{} cannot be written", place.display()))?;
        }
    }
    stale.extend(crate::dashboards::make(&root, args.check)?);
    if let Some(directory) = &args.man {
        fs::create_dir_all(directory).with_context(|| format!("{} cannot be made", directory.display()))?;
        for page in files(&pages)? {
            fs::copy(&page, directory.join(page.file_name().unwrap_or_default()))
                .with_context(|| format!("{} cannot be written into", directory.display()))?;
        }
    }
    match (args.check, stale.join(", ")) {
        (_, stale) if stale.is_empty() => say("docs: as the code says"),
        (true, stale) => bail!("not what the code says: {stale}; run `cargo xtask docs` and commit"),
        (false, stale) => say(&format!("docs: wrote {stale}")),
    }
    Ok(())
}

/// The plain files of a directory.
fn files(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("{}", directory.display()))? {
        let path = entry?.path();
        if path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
