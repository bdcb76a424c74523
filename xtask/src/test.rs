//! `cargo xtask test`: every test of the workspace. Nothing is left out where it cannot run: that
//! is a failure which says what is missing.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use lark_sys::{capability, kernel};

use crate::install::{self, say};

/// Flags.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Arguments for the test runner after `--`, for example a filter.
    #[arg(last = true)]
    runner: Vec<String>,
}

/// Runs the task.
///
/// # Errors
/// When a test fails, or the machine cannot run them all.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    able()?;
    say("doc tests");
    install::run(cargo().args(["test", "--quiet", "--locked", "--workspace", "--doc"]))?;
    let arguments: Vec<&str> = args.runner.iter().map(String::as_str).collect();
    run_tests(&arguments, &[])
}

/// Runs tests, all or those that the runner's arguments choose, with what they need.
///
/// # Errors
/// When a test fails, or the machine cannot run them all.
pub(crate) fn run_tests(arguments: &[&str], environment: &[(&str, &Path)]) -> anyhow::Result<()> {
    able()?;
    install::debian(install::DEMO.iter().chain(&install::TESTS))?;
    let Metadata { target_directory, workspace_root, .. } = metadata()?;
    let nextest = install::nextest(&target_directory)?;
    let python = install::python(&workspace_root, &target_directory)?;
    let binary = lark(false)?;
    say("tests");
    install::run(
        Command::new(nextest)
            .args(["nextest", "run", "--locked", "--workspace", "--no-fail-fast"])
            .args(arguments)
            .envs(environment.iter().copied())
            .env("LARK_BIN", binary)
            .env("LARK_PYTHON", python)
            .env("PATH", wide_path()?),
    )
}

/// Whether privileged tests can run here.
///
/// # Errors
/// One sentence that says what is missing.
pub(crate) fn able() -> anyhow::Result<()> {
    let missing = capability::missing().context("what this process may do cannot be read from /proc")?;
    ensure!(
        missing.is_empty(),
        "programs are loaded into the kernel and network namespaces made, for which {} {} missing: run as root; \
         a container needs them too",
        missing.iter().map(|c| c.name).collect::<Vec<_>>().join(", "),
        if missing.len() == 1 { "is" } else { "are" },
    );
    kernel::probe()?;
    Ok(())
}

/// Builds the `lark` binary and tells where it is. The debug build is made together with the tests: by itself
/// it would have other features of its dependencies, and all of them would be built twice.
///
/// # Errors
/// When it does not build.
pub(crate) fn lark(release: bool) -> anyhow::Result<PathBuf> {
    let mut build = cargo();
    build.args(["build", "--quiet", "--locked"]);
    if release {
        say("building lark (release)");
        build.args(["--package", "lark", "--release"]);
    } else {
        say("building lark and the tests");
        build.args(["--workspace", "--bins", "--tests"]);
    }
    install::run(&mut build)?;
    Ok(target_directory()?.join(if release { "release" } else { "debug" }).join("lark"))
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The workspace's target directory.
///
/// # Errors
/// When cargo cannot read the workspace.
pub(crate) fn target_directory() -> anyhow::Result<PathBuf> {
    Ok(metadata()?.target_directory)
}

/// PATH with the directories in which `install::find` looks too, so that tests find what it found.
fn wide_path() -> anyhow::Result<std::ffi::OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let postgres = install::find("postgres").and_then(|file| Some(file.parent()?.to_owned()));
    let directories =
        env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from)).chain(postgres);
    env::join_paths(directories).context("PATH has an entry with a colon in it")
}

/// What `cargo metadata --no-deps` says of the workspace, as far as tasks need it.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Metadata {
    target_directory: PathBuf,
    /// Root of the workspace.
    pub(crate) workspace_root: PathBuf,
    /// Its members.
    pub(crate) packages: Vec<Package>,
}

/// One member.
#[derive(Debug, Clone, serde::Deserialize)]
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// What it depends on.
    pub(crate) dependencies: Vec<Dependency>,
}

/// One Cargo edge.
#[derive(Debug, Clone, serde::Deserialize)]
pub(crate) struct Dependency {
    /// Name of the package depended on.
    pub(crate) name: String,
    /// `dev`, `build`, or nothing for a normal one.
    pub(crate) kind: Option<String>,
}

/// Asks cargo.
///
/// # Errors
/// When cargo cannot read the workspace.
pub(crate) fn metadata() -> anyhow::Result<Metadata> {
    let output = cargo()
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .output()
        .context("cargo cannot be run")?;
    ensure!(
        output.status.success(),
        "cargo cannot read the workspace: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    serde_json::from_slice(&output.stdout).context("cargo metadata has a form that is not known here")
}
