//! Where a process runs: a cgroup and a network namespace.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A cgroup and a network namespace.
#[derive(Debug, Clone)]
pub struct Place {
    /// The cgroup's directory.
    pub cgroup: PathBuf,
    /// The namespace's file.
    pub netns: PathBuf,
}

impl Place {
    /// A command that will run there. The shell enters the cgroup before anything else, so every socket
    /// of the program belongs to it; `ip netns exec` would hide the cgroup's mount.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("/bin/sh");
        command
            .arg("-c")
            .arg("echo $$ > \"$0/cgroup.procs\" && n=$1 && shift && exec nsenter --net=\"$n\" -- \"$@\"")
            .arg(&self.cgroup)
            .arg(&self.netns)
            .arg(program)
            .stdin(Stdio::null());
        command
    }

    /// Runs a program to its end and returns its standard output.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = self.output(program, arguments)?;
        if !output.status.success() {
            bail!(
                "{program} {} failed with {}: {}{}",
                arguments.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        self.command(program).args(arguments).output().with_context(|| format!("{program} cannot be started"))
    }

    /// Starts a program whose output goes to a file.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, mut command: Command, log: &Path) -> Result<Running> {
        let file = std::fs::File::create(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .context("the program cannot be started")?;
        Ok(Running { child, log: log.to_owned() })
    }
}

/// A running program; ended when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal by name, as kill(1) takes it.
    pub fn signal(&self, name: &str) {
        let _ = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status();
    }

    /// Asks it to end and waits.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&mut self) -> Result<()> {
        self.signal("TERM");
        eventually(Duration::from_secs(10), "the program ends", || Ok(!self.is_running()))
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until something is so.
///
/// # Errors
/// When it is not within the limit, with the last error if there was one.
pub fn eventually(limit: Duration, what: &str, mut check: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + limit;
    loop {
        let result = check();
        if matches!(result, Ok(true)) {
            return Ok(());
        }
        if Instant::now() >= end {
            result?;
            bail!("did not happen within {limit:?}: {what}");
        }
        std::thread::sleep(Duration::from_millis(15));
    }
}
