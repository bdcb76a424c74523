//! The emulated machine.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::install::say;

/// Ends with whoever started it.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots, and returns the lines that the console has shown until the machine was off.
pub(super) fn run(kernel: &Path, initrd: &Path, limit: Duration, verbose: bool) -> Result<Vec<String>> {
    let mut machine = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1536"])
        .args(["-nographic", "-no-reboot", "-nic", "none", "-append", "console=ttyS0 quiet panic=-1"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map(Machine)
        .context("qemu-system-x86_64 cannot be run")?;
    let console = machine.0.stdout.take().context("the machine has no console")?;
    let (told, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if told.send(line).is_err() {
                break;
            }
        }
    });
    let end = Instant::now() + limit;
    let mut said = Vec::new();
    loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                if verbose {
                    say(&line);
                }
                said.push(line);
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(said),
            Err(RecvTimeoutError::Timeout) => {
                for line in said.iter().skip(said.len().saturating_sub(30)) {
                    say(line);
                }
                bail!("the machine was not done within {} s; its last lines are above", limit.as_secs());
            }
        }
    }
}
