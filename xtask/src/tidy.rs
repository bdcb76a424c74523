//! `cargo xtask tidy`: the project's rules that Cargo, rustc and clippy cannot check. A file per
//! rule, each with a test that the rule catches what it is for.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, bail};

use crate::install::say;
use crate::test::{Package, metadata};

/// Crates that a crate may import.
mod edges;
/// Faults, their tests and docs/failures.md agree.
mod failures;
/// Markdown and the code map point to files that exist.
mod links;
/// Every crate is under the workspace's lints.
mod lints;
/// Nothing unfinished is left behind.
mod marks;
/// Modules of `lark` that a module may import.
mod modules;
/// The files say nothing about the machine they were written on.
mod portable;
/// One eBPF program a file, all maps in one file.
mod programs;
/// No clock, no I/O in pure crates.
mod pure;
/// Lengths, sizes and names of files.
mod shape;
/// Rust without comments and strings.
mod source;
/// Unsafe code only where it is expected, and with its reason.
mod unsafety;

/// A file of the repository.
struct File {
    /// From the root, with slashes.
    path: String,
    /// Empty when it is not UTF-8.
    text: String,
    /// Bytes.
    size: usize,
}

/// What rules look at.
struct Tree {
    files: Vec<File>,
    packages: Vec<Package>,
}

/// A breach of a rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    /// From 1; 0 when it is about the whole file.
    line: usize,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.message),
            line => write!(f, "{}:{line}: {}", self.path, self.message),
        }
    }
}

impl File {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn finding(&self, line: usize, message: impl Into<String>) -> Finding {
        Finding { path: self.path.clone(), line, message: message.into() }
    }
}

impl Tree {
    fn rust(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.is_rust())
    }

    fn has(&self, path: &str) -> bool {
        let folder = format!("{path}/");
        self.files.iter().any(|file| file.path == path || file.path.starts_with(&folder))
    }
}

const RULES: [fn(&Tree) -> Vec<Finding>; 11] = [
    edges::check,
    failures::check,
    links::check,
    lints::check,
    marks::check,
    modules::check,
    portable::check,
    programs::check,
    pure::check,
    shape::check,
    unsafety::check,
];

/// Runs the task.
///
/// # Errors
/// When a rule is broken; every breach is printed.
pub(crate) fn run() -> anyhow::Result<()> {
    let metadata = metadata()?;
    let mut files = Vec::new();
    collect(&metadata.workspace_root, &metadata.workspace_root, &mut files)?;
    let tree = Tree { files, packages: metadata.packages };
    let findings: Vec<Finding> = RULES.iter().flat_map(|rule| rule(&tree)).collect();
    for finding in &findings {
        say(&finding.to_string());
    }
    match findings.len() {
        0 => {
            say(&format!("tidy: {} files, {} rules, nothing to say", tree.files.len(), RULES.len()));
            Ok(())
        }
        1 => bail!("1 rule broken"),
        n => bail!("{n} rules broken"),
    }
}

fn collect(root: &Path, directory: &Path, files: &mut Vec<File>) -> anyhow::Result<()> {
    let context = || format!("{} cannot be read", directory.display());
    let mut entries = fs::read_dir(directory).with_context(context)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let kind = entry.file_type()?;
        // What .gitignore leaves out; in a worktree .git is a file.
        if [".git", "node_modules", "target"].contains(&entry.file_name().to_string_lossy().as_ref()) {
            continue;
        }
        if kind.is_dir() {
            collect(root, &path, files)?;
        } else if kind.is_file() {
            let bytes = fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
            files.push(File {
                path: path.strip_prefix(root)?.to_string_lossy().into_owned(),
                size: bytes.len(),
                text: String::from_utf8(bytes).unwrap_or_default(),
            });
        }
    }
    Ok(())
}

/// A tree for the rules' tests.
#[cfg(test)]
fn tree<const N: usize>(files: [(&str, &str); N]) -> Tree {
    let files = files.map(|(path, text)| File { path: path.into(), text: text.into(), size: text.len() });
    Tree { files: files.into(), packages: Vec::new() }
}

/// What a rule says, as `path:line` each.
#[cfg(test)]
fn places(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(|finding| format!("{}:{}", finding.path, finding.line)).collect()
}
