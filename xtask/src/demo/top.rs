//! What `lark top` shows while pods ask each other: on a terminal of its own, so that it is what a person would see.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lark_testbed::{Nginx, Pod, Running, eventually};

use super::{Story, tell};
use crate::picture::terminal;

/// Rows that are to be seen on node two, each an edge.
const EDGES: usize = 3;

impl Story {
    /// Captures, lets all three pods ask each other, and draws what `lark top` shows of that on node two.
    pub(super) fn watch(&self, file: &Path) -> Result<()> {
        self.label()?;
        tell("· ingress asks web and db, and web asks db; now and then what is not there, or fails");
        let _second = Nginx::start(&self.bed, &self.db)?;
        let _asking = [
            self.ask(&self.ingress, &self.web, "", 40)?,
            self.ask(&self.ingress, &self.web, "missing", 2)?,
            self.ask(&self.ingress, &self.db, "", 8)?,
            self.ask(&self.web, &self.db, "who", 25)?,
            self.ask(&self.web, &self.db, "unavailable", 1)?,
        ];
        let mut shown = String::new();
        // Right after its start an agent has less than ten seconds to tell of.
        let looked = |row: &str| row.split_whitespace().last().and_then(|word| word.parse::<u32>().ok());
        eventually(Duration::from_secs(60), "every edge is shown for ten seconds, and what fails", || {
            shown = self.top()?;
            let rows = shown.lines().filter(|line| line.contains("Deployment/"));
            let shows = rows.filter(|row| looked(row).is_some_and(|seconds| seconds >= 10)).count();
            Ok(shows == EDGES && shown.contains("\x1b[33m") | shown.contains("\x1b[31m"))
        })
        .with_context(|| shown.clone())?;
        let title = "lark top, on node two of cargo xtask demo";
        fs::write(file, terminal::draw(title, &shown))
            .with_context(|| format!("{} cannot be written", file.display()))?;
        tell(&format!("{}\n· drawn into {}", self.two.table(&["top", "--looks", "1"])?, file.display()));
        Ok(())
    }

    /// Asks for a path so often a second until it is dropped.
    fn ask(&self, from: &Pod, to: &Pod, path: &str, rate: u32) -> Result<Running> {
        let mut curl = from.place.command("curl");
        curl.args(["-s", "--rate", &format!("{rate}/s"), "-o", "/dev/null"]);
        curl.arg(format!("http://{}:8080/{path}?[1-1000000]", to.ip));
        let log = format!("ask-{}-{}-{path}.log", from.name, to.name);
        from.place.start(curl, &self.bed.directory().join(log))
    }

    /// One look of `lark top` at node two, as it is sent to a terminal.
    fn top(&self) -> Result<String> {
        let command =
            format!("{} top --looks 1 --admin-socket {}", self.binary.display(), self.two.socket().display());
        let output = Command::new("script")
            .args(["--quiet", "--return", "--command", &command, "/dev/null"])
            .env_remove("NO_COLOR")
            .output()
            .context("script cannot be started; it is in Debian's package bsdutils")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{command}: {said}");
        Ok(said)
    }
}
