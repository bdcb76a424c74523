//! Takes a bed down when its owner drops it or dies: a shell in a session of its own that waits for the
//! end of a pipe which only the owner holds.

use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result};

/// Arguments: bed's name, its cgroup, its pins, its directory.
const SCRIPT: &str = r#"
cat >/dev/null
kill_all() { [ -e "$1/cgroup.kill" ] && echo 1 > "$1/cgroup.kill" 2>/dev/null; }
i=0
while [ -d "$1" ] && [ $i -lt 100 ]; do
    kill_all "$1"
    find "$1" -depth -type d -exec rmdir {} \; 2>/dev/null
    i=$((i + 1))
    [ -d "$1" ] && sleep 0.02
done
for ns in /run/netns/"$0"-*; do
    [ -e "$ns" ] && ip netns del "${ns#/run/netns/}"
done
rm -rf "$2" "$3"
"#;

/// Waits in a process of its own; takes everything down when dropped or when its owner dies.
#[derive(Debug)]
pub struct Reaper {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Reaper {
    /// Starts one: for namespaces whose names begin with `name-`, a cgroup with everything in it (processes
    /// are killed), a directory of pins and one of files.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, cgroup: &Path, pins: &Path, directory: &Path) -> Result<Self> {
        let mut child = Command::new("setsid")
            .args(["/bin/sh", "-c", SCRIPT, name])
            .args([cgroup, pins, directory])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("setsid cannot be started; it is in Debian's package util-linux")?;
        let pipe = child.stdin.take();
        Ok(Self { child, pipe })
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.child.wait();
    }
}
