//! `cargo xtask fuzz`: builds the targets of tests/fuzz with coverage counters and runs each from its kept
//! corpus. What a run finds on the way goes under the target directory; `--keep` takes of it what reaches
//! code that the corpus does not.

use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, bail, ensure};

use crate::install::{self, say};
use crate::test::{cargo, metadata, target_directory};

/// Flags.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long all targets together may run on each core, in seconds, the build not counted; each gets an
    /// equal part.
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
    /// Run only this target; may be given several times.
    ///
    /// Default: all of them.
    #[arg(long, value_name = "NAME")]
    target: Vec<String>,
    /// Add to the kept corpora what was found and reaches code that they do not.
    #[arg(long)]
    keep: bool,
}

/// The largest input, in bytes: more than a header block with its frames.
const MAX_LEN: usize = 32 * 1024;
/// Seconds that one input may take.
const TIMEOUT: u64 = 10;
/// Most memory of a target, in MiB.
const MEMORY: usize = 1024;

/// Counters for libFuzzer and checks of arithmetic, as cargo-fuzz asks for them. The parsers are safe Rust, so
/// that coverage is wanted and no sanitizer, and with it neither a nightly compiler nor cargo-fuzz itself, which
/// takes longer to build than the targets run.
const RUSTFLAGS: &str = " -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing \
     -Cllvm-args=-simplifycfg-branch-fold-threshold=0 -Cllvm-args=-sanitizer-coverage-stack-depth \
     -Cdebug-assertions -Ccodegen-units=1";

/// Runs the task.
///
/// # Errors
/// When a target does not build, or fails on an input; libFuzzer has printed which.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let home = metadata()?.workspace_root.join("tests/fuzz");
    let target = target_directory()?;
    let targets = targets(&home, &args.target)?;
    say("building the fuzz targets");
    let triple = triple()?;
    install::run(
        cargo()
            .args(["build", "--quiet", "--locked", "--release", "--target", &triple])
            .args(targets.iter().flat_map(|name| ["--bin", name]))
            .arg("--manifest-path")
            .arg(home.join("Cargo.toml"))
            .arg("--target-dir")
            .arg(home.join("target"))
            .env("RUSTFLAGS", RUSTFLAGS),
    )?;
    let binaries = home.join("target").join(&triple).join("release");
    let cores = thread::available_parallelism().map_or(1, NonZero::get).min(targets.len());
    let rounds = u64::try_from(targets.len().div_ceil(cores))?;
    let each = (args.seconds / rounds).max(1);
    say(&format!("{} targets, {each} s each, {cores} at a time", targets.len()));
    let waiting = Mutex::new(targets.iter());
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(name) = waiting.lock().ok().and_then(|mut names| names.next()) {
                    let corpora = Corpora::of(&home, &target, name);
                    let done =
                        corpora.and_then(|corpora| corpora.fuzz(&binaries.join(name), each, args.keep));
                    if let (Err(error), Ok(mut failures)) = (done, failures.lock()) {
                        failures.push(format!("{name}: {error:#}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_default();
    if failures.is_empty() {
        say("no target failed");
        return Ok(());
    }
    bail!("{}", failures.join("\n"))
}

/// The names of the targets: those asked for, or all.
fn targets(home: &Path, wanted: &[String]) -> anyhow::Result<Vec<String>> {
    let sources = home.join("fuzz_targets");
    let mut all = Vec::new();
    for entry in fs::read_dir(&sources).with_context(|| format!("{} cannot be read", sources.display()))? {
        let path = entry?.path();
        all.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    all.sort();
    if wanted.is_empty() {
        return Ok(all);
    }
    for name in wanted {
        ensure!(all.contains(name), "there is no target {name}; there are {}", all.join(", "));
    }
    Ok(wanted.to_vec())
}

/// What targets are built for: this machine. Named, so that build scripts and macros get no counters.
fn triple() -> anyhow::Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("rustc cannot be run")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc does not say for which machine it builds")
}

/// Inputs of one target.
struct Corpora {
    kept: PathBuf,
    found: PathBuf,
    failed: PathBuf,
}

impl Corpora {
    fn of(home: &Path, target: &Path, name: &str) -> anyhow::Result<Self> {
        let corpora = Self {
            kept: home.join("corpus").join(name),
            found: target.join("fuzz").join(name),
            failed: target.join("fuzz-failed").join(name),
        };
        for directory in [&corpora.kept, &corpora.found, &corpora.failed] {
            fs::create_dir_all(directory).with_context(|| format!("{}", directory.display()))?;
        }
        Ok(corpora)
    }

    fn fuzz(&self, binary: &Path, seconds: u64, keep: bool) -> anyhow::Result<()> {
        let mut command = Command::new(binary);
        command
            .args([&self.found, &self.kept])
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-max_len={MAX_LEN}"))
            .arg(format!("-timeout={TIMEOUT}"))
            .arg(format!("-rss_limit_mb={MEMORY}"))
            .arg(format!("-artifact_prefix={}/", self.failed.display()))
            .args(["-verbosity=0", "-print_final_stats=1"]);
        install::run(&mut command).with_context(|| {
            format!(
                "the input is in {}; mend it, and keep the input in {}",
                self.failed.display(),
                self.kept.display()
            )
        })?;
        if keep {
            install::run(
                Command::new(binary).args(["-merge=1", "-verbosity=0"]).args([&self.kept, &self.found]),
            )?;
        }
        Ok(())
    }
}
