//! The other layout of control groups: tests run as this machine has them, hybrid or pure; here they run
//! once more with cgroup v2 alone on /sys/fs/cgroup.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// Runs one test of the calling test program in a mount namespace in which /sys/fs/cgroup is cgroup v2
/// and nothing else, as systemd sets a machine up by default since version 247.
///
/// # Errors
/// When the mounts cannot be changed, or the test fails; with what it said.
pub fn on_pure_cgroup_v2(test: &str) -> Result<()> {
    let script = "umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && \
                  exec \"$0\" --exact --nocapture \"$1\"";
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(std::env::current_exe()?)
        .arg(test)
        .output()
        .context("unshare cannot be started; it is in Debian's package util-linux")?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || !said.contains("1 passed") {
        bail!("{test} on pure cgroup v2: {said}{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
