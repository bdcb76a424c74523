//! `cargo xtask vm`: tests that need a kernel with TLS, on Debian's kernel in an emulated machine. Nothing is timed
//! there, since emulation tells no times; system calls and copied bytes are counted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::install::{self, say};
use crate::test;

mod counts;
mod image;
mod machine;

/// Kernel whose package is used, unless another is named. Later ones than 6.1 need a later QEMU than Debian 12 has.
const KERNEL: &str = "linux-image-cloud-amd64";
/// How much the counted transfer sends.
const MIB: u64 = 64;

/// Flags.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Debian package of the kernel, or one that depends on it; or a file of such a package, given once for each if it
    /// is split.
    #[arg(long, value_name = "PACKAGE", default_value = KERNEL)]
    kernel: Vec<String>,
    /// Seconds until the machine is stopped, and what it does has failed.
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    limit: u64,
    /// Only tests whose names contain this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Show everything that the machine says.
    #[arg(long)]
    verbose: bool,
}

/// A test program, as it is called in the machine.
struct Program {
    name: &'static str,
    file: PathBuf,
}

/// Runs the task.
///
/// # Errors
/// When a test fails, or the machine cannot run them all.
pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        "the emulated machine and Debian's kernel for it are x86-64, and this is not"
    );
    install::debian(&install::MACHINE)?;
    let target = test::target_directory()?.join("vm");
    fs::create_dir_all(&target).with_context(|| format!("{} cannot be made", target.display()))?;
    let kernel = image::Kernel::get(&args.kernel, &target)?;
    let programs = programs()?;
    let script = script(args.only.as_deref());
    let initrd = image::initrd(&target, &kernel, &programs, &script)?;
    say(&format!("starting {} in QEMU", kernel.release));
    let began = Instant::now();
    let said = machine::run(&kernel.file, &initrd, Duration::from_secs(args.limit), args.verbose)?;
    judge(&said)?;
    say(&format!("all passed on {} in {} s", kernel.release, began.elapsed().as_secs()));
    if args.only.is_none() {
        show(&counts::table(&said, MIB)?);
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "xtask is a program for the terminal")]
fn show(text: &str) {
    println!("{text}");
}

/// Builds the tests that concern what the kernel carries, with the features of all.
fn programs() -> Result<Vec<Program>> {
    const WANTED: [(&str, &str, &str); 3] =
        [("lark_sys", "lib", "sys"), ("lark_tunnel", "lib", "records"), ("tunnel", "test", "tunnel")];
    say("building the tests");
    let output = test::cargo()
        .args(["test", "--no-run", "--quiet", "--locked", "--workspace", "--lib", "--test", "tunnel"])
        .args(["--message-format", "json-render-diagnostics"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cargo cannot be run")?;
    ensure!(output.status.success(), "the tests do not build");
    let mut programs = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(built) = serde_json::from_str::<Built>(line) else { continue };
        let (Some(file), Some(target)) = (built.executable, built.target) else { continue };
        let kind = |kind: &str| target.kind.iter().any(|k| k == kind);
        if let Some((_, _, name)) = WANTED.iter().find(|(crate_, k, _)| *crate_ == target.name && kind(k)) {
            programs.push(Program { name, file });
        }
    }
    ensure!(
        programs.len() == WANTED.len(),
        "cargo built {} of {} test programs",
        programs.len(),
        WANTED.len()
    );
    Ok(programs)
}

/// What cargo says of something that it built.
#[derive(serde::Deserialize)]
struct Built {
    executable: Option<PathBuf>,
    target: Option<Target>,
}

#[derive(serde::Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// Test programs and their arguments.
fn script(only: Option<&str>) -> String {
    let mut script = String::from(image::BEGIN);
    let filter = only.unwrap_or_default();
    for (name, arguments) in [
        ("sys", "ktls splice"),
        ("records", "record pod stream"),
        // What emulation is too slow for is left out: that twenty connects come within one failing dial, that a peer
        // is heard every fifth of a second, floods that count by the second, and thousands of handshakes.
        // None of them asks who carries the records.
        (
            "tunnel",
            "--skip limits::streams_that_come_together --skip whoever_takes_nothing \
             --skip broken_protocols --skip thousands_of_mute_connections --skip a_thousand_handshakes_at_once",
        ),
    ] {
        let arguments = if filter.is_empty() { arguments } else { filter };
        script.push_str(&format!("tests {name} {arguments}\n"));
    }
    if only.is_none() {
        for how in ["demanded", "off"] {
            script.push_str(&format!("count {how} {MIB}\n"));
        }
    }
    script.push_str(image::END);
    script
}

/// # Errors
/// What failed, from what the machine has said.
fn judge(said: &[String]) -> Result<()> {
    let failed: Vec<&str> = said.iter().filter_map(|line| line.strip_prefix("LARK-VM: failed ")).collect();
    if !failed.is_empty() {
        for line in said {
            say(line);
        }
        bail!("in the machine {} failed", failed.join(", "));
    }
    ensure!(
        said.iter().any(|line| line == "LARK-VM: end"),
        "the machine stopped before its tests were over; it said last: {}",
        said.last().map_or("nothing", String::as_str)
    );
    let carried = |what: &str| {
        let line = said.iter().find_map(|line| line.strip_prefix(what))?;
        line.trim().parse::<u64>().ok()
    };
    for counter in ["TlsTxSw", "TlsRxSw"] {
        let count = carried(counter).unwrap_or(0);
        ensure!(count > 0, "the kernel has carried no connection: {counter} is {count}");
        say(&format!("{counter}: {count}"));
    }
    Ok(())
}

fn line(path: &Path) -> String {
    path.display().to_string()
}

/// Runs a command for what it writes.
fn ask(command: &mut Command) -> Result<Vec<u8>> {
    let name = command.get_program().display().to_string();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{name} cannot be run"))?;
    ensure!(output.status.success(), "{name} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(lines: &[&str]) -> Result<(), String> {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        judge(&lines).map_err(|error| error.to_string())
    }

    #[test]
    fn a_machine_that_stops_or_carries_nothing_has_failed() {
        let whole = ["TlsTxSw   \t3", "TlsRxSw   \t3", "LARK-VM: end"];
        assert_eq!(judged(&whole), Ok(()));
        assert!(judged(&whole[..2]).is_err_and(|e| e.contains("stopped")));
        assert!(judged(&["TlsTxSw 0", whole[1], whole[2]]).is_err_and(|e| e.contains("carried no")));
        assert!(judged(&[whole[0], whole[1], "LARK-VM: failed tunnel", whole[2]]).is_err());
        assert!(judged(&[]).is_err());
    }
}
