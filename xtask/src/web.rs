//! `cargo xtask web`: builds the page that is committed and embedded, so that a build of Lark needs no Node.js;
//! and tries it in a browser.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::ebpf::{files, hash};
use crate::install::{self, say};
use crate::node::{self, Node};
use crate::test;

const DIRECTORY: &str = "agent/web";
const BUILT: &str = "agent/web/dist";
const RECORD: &str = "agent/web/dist.toml";
/// What the page is made from.
const SOURCES: [&str; 7] = [
    "agent/web/index.html",
    "agent/web/package.json",
    "agent/web/package-lock.json",
    "agent/web/public",
    "agent/web/src",
    "agent/web/tsconfig.json",
    "agent/web/vite.config.js",
];

/// Flags.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Say whether the committed files were made from these sources; needs no Node.js, changes nothing.
    #[arg(long)]
    check: bool,
    /// Check, build it anew and compare, and try the page in a browser.
    #[arg(long, conflicts_with = "check")]
    test: bool,
    /// Try this binary of lark instead of one built for it.
    #[arg(long, value_name = "FILE", requires = "test")]
    lark: Option<PathBuf>,
}

/// Runs the task.
///
/// # Errors
/// When it does not build, is not current, or a test fails.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let root = test::metadata()?.workspace_root;
    if args.check || args.test {
        check(&root)?;
    }
    if args.check {
        return Ok(());
    }
    let page = Page::ready(&root)?;
    if args.test {
        let made = tempfile::tempdir().context("a directory for the page cannot be made")?;
        page.build(made.path())?;
        ensure!(
            contents(made.path())? == contents(&root.join(BUILT))?,
            "{BUILT} is not what its sources give; run `cargo xtask web` and commit what it writes"
        );
        let lark = args.lark.clone().map_or_else(|| test::lark(false), Ok)?;
        return page.tests("page.test.js", &lark, &[]);
    }
    page.build(&root.join(BUILT))?;
    fs::write(root.join(RECORD), record(&root)?).with_context(|| format!("{RECORD} cannot be written"))?;
    say(&format!("web: wrote {BUILT}"));
    Ok(())
}

fn record(root: &Path) -> anyhow::Result<String> {
    Ok(format!(
        "# Written by `cargo xtask web`; `cargo xtask web --check` compares it.\nsources = \"{}\"\nbuilt = \"{}\"\n",
        hash(root, &SOURCES)?,
        hash(root, &[BUILT])?
    ))
}

/// Whether the committed files are those that were made from these sources.
fn check(root: &Path) -> anyhow::Result<()> {
    let recorded = fs::read_to_string(root.join(RECORD)).unwrap_or_default();
    ensure!(
        recorded == record(root)?,
        "{BUILT} was not made from these sources; run `cargo xtask web` and commit what it writes"
    );
    let lock = fs::read_to_string(root.join(DIRECTORY).join("package-lock.json"))?;
    ensure!(
        !lock.contains("\"resolved\""),
        "{DIRECTORY}/package-lock.json names the registry of one machine: take its `resolved` lines out"
    );
    say("web: the committed page is what was made from its sources");
    Ok(())
}

fn contents(directory: &Path) -> anyhow::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let read = |file: PathBuf| Ok((file.strip_prefix(directory)?.to_owned(), fs::read(&file)?));
    files(directory)?.into_iter().map(read).collect()
}

/// The page's sources, with everything that they need to be built and tried.
pub(crate) struct Page {
    directory: PathBuf,
    node: Node,
    pictures: PathBuf,
}

impl Page {
    /// With its packages installed.
    ///
    /// # Errors
    /// When Node.js or a package cannot be had.
    pub(crate) fn ready(root: &Path) -> anyhow::Result<Self> {
        let target = test::target_directory()?;
        let node = node::ready(&target)?;
        let directory = root.join(DIRECTORY);
        let lock = fs::read(directory.join("package-lock.json"))?;
        // Written last: what has it is complete.
        let installed = directory.join("node_modules/.lark-lock");
        if !fs::read(&installed).is_ok_and(|installed| installed == lock) {
            say("installing the page's packages from npm");
            let flags = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
            install::run(node.npm().args(flags).current_dir(&directory))?;
            fs::write(&installed, lock)?;
        }
        Ok(Self { directory, node, pictures: target.join("page") })
    }

    /// Builds it into a directory.
    fn build(&self, into: &Path) -> anyhow::Result<()> {
        install::run(self.node_module("typescript/bin/tsc").args(["--noEmit"]))?;
        let vite = ["build", "--logLevel", "warn", "--emptyOutDir", "--outDir"];
        install::run(self.node_module("vite/bin/vite.js").args(vite).arg(into))
    }

    /// Runs a file of tests in Chromium, with a binary of lark. Pictures of what it saw are under `target/page`.
    ///
    /// # Errors
    /// When there is no browser, or a test fails.
    pub(crate) fn tests(&self, file: &str, lark: &Path, environment: &[(&str, &Path)]) -> anyhow::Result<()> {
        let lark = lark.canonicalize().with_context(|| format!("{} is not there", lark.display()))?;
        install::debian(&install::BROWSER)?;
        let chromium = install::find("chromium").context("chromium is not in PATH")?;
        say(&format!("web: {file} in {}", chromium.display()));
        install::run(
            self.node
                .command()
                .args(["--test", "--test-reporter=spec", &format!("test/{file}")])
                .current_dir(&self.directory)
                .envs(environment.iter().copied())
                .env("LARK_BIN", lark)
                .env("LARK_CHROMIUM", chromium)
                .env("LARK_PICTURES", &self.pictures),
        )
    }

    fn node_module(&self, program: &str) -> Command {
        let mut command = self.node.command();
        command.arg(self.directory.join("node_modules").join(program)).current_dir(&self.directory);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_was_not_made_from_its_sources_is_found() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let copy = tempfile::tempdir().unwrap();
        for source in SOURCES.into_iter().chain([BUILT, RECORD]) {
            for file in files(&root.join(source)).unwrap() {
                let to = copy.path().join(file.strip_prefix(root).unwrap());
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                fs::copy(&file, to).unwrap();
            }
        }
        check(copy.path()).unwrap();
        for changed in ["agent/web/src/main.tsx", "agent/web/dist/page.js", "agent/web/package-lock.json"] {
            let file = copy.path().join(changed);
            let before = fs::read(&file).unwrap();
            fs::write(&file, [before.as_slice(), b"\n"].concat()).unwrap();
            let stale = check(copy.path()).unwrap_err().to_string();
            assert!(stale.contains("run `cargo xtask web`"), "{changed}: {stale}");
            fs::write(&file, before).unwrap();
        }
    }
}
