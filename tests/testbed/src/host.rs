//! A node that is a whole host: a real systemd as the first process of namespaces of its own, over a file
//! system that shows this machine's and keeps every change to itself.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::bed::{Node, Testbed};
use crate::place::{Place, Running, eventually};
use crate::servers::need;

/// Runs in new namespaces, in the host's cgroup, and becomes systemd. Arguments: a directory for the new
/// root, a directory to show as /srv/release. No unit of this machine is started but journal and bus.
const BOOT: &str = r#"
set -e
mount -t tmpfs tmpfs "$0"
mkdir "$0/changed" "$0/work" "$0/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$0/changed,workdir=$0/work" "$0/root"
cd "$0/root"
for kind in proc sysfs tmpfs:run tmpfs:tmp tmpfs:dev cgroup2:sys/fs/cgroup bpf:sys/fs/bpf; do
    at=${kind#*:}; [ "$at" = sysfs ] && at=sys
    mount -t "${kind%:*}" lark-host "$at"
done
for device in null zero full random urandom tty; do
    : > "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/shm dev/pts srv/release
mount -t devpts -o newinstance,ptmxmode=0666 lark-host dev/pts
ln -s pts/ptmx dev/ptmx
mount --bind "$1" srv/release
# Settings of the kernel are this machine's.
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
rm -rf etc/systemd/system/* etc/lark var/lib/lark var/lib/private
cat > etc/systemd/system/lark-host.target <<'END'
[Unit]
Wants=systemd-journald.service dbus.socket
END
pivot_root . mnt
umount -l /mnt
exec env -i container=lark PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=lark-host.target
"#;

/// Namespaces that a host does not share with this machine, as unshare(1) and nsenter(1) call them.
const NAMESPACES: [&str; 5] = ["--mount", "--pid", "--cgroup", "--ipc", "--uts"];

/// A host that runs. It ends with its bed.
#[derive(Debug)]
pub struct Host {
    /// Where it is on the wire.
    pub node: Node,
    init: String,
    _process: Running,
}

impl Host {
    /// Boots one on a node, and shows it `release` as /srv/release. It has no unit of this machine's
    /// /etc/systemd/system and no /etc/lark.
    ///
    /// # Errors
    /// When it does not come up; with what was said.
    pub fn boot(bed: &Testbed, node: &Node, release: &Path) -> Result<Self> {
        need("/lib/systemd/systemd", "systemd")?;
        need("dbus-daemon", "dbus")?;
        let own = Place { cgroup: bed.cgroup_of(&format!("host-{}", node.name))?, ..node.place.clone() };
        let root = bed.directory().join(format!("host-{}", node.name));
        std::fs::create_dir_all(&root)?;
        let mut command = own.command("unshare");
        command.args(NAMESPACES);
        command.args(["--fork", "--kill-child", "--propagation", "private", "sh", "-c", BOOT]);
        command.arg(&root).arg(release);
        let mut process = own.start(command, &root.with_extension("log"))?;
        let mut init = String::new();
        eventually(Duration::from_secs(30), "the host's systemd is up", || {
            if !process.is_running() {
                bail!("it ended");
            }
            let first = std::fs::read_to_string(own.cgroup.join("init.scope/cgroup.procs"))?;
            init = first.lines().next().context("no process is in init.scope")?.to_owned();
            let up =
                inside(&node.place, &init).args(["systemctl", "is-active", "lark-host.target"]).output()?;
            Ok(up.status.success())
        })
        .with_context(|| process.log())?;
        Ok(Self { node: node.clone(), init, _process: process })
    }

    /// Runs commands as root of the host types them, to the first that fails, and returns what they say.
    ///
    /// # Errors
    /// When one fails; with all that was said.
    pub fn run(&self, commands: &str) -> Result<String> {
        let mut shell = inside(&self.node.place, &self.init);
        // A terminal shows both streams as they come.
        shell.args(["bash", "-c", "exec 2>&1; cd /srv/release; set -eo pipefail; eval \"$0\"", commands]);
        let output = shell.stdin(Stdio::null()).output().context("nsenter cannot be started")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let journal = inside(&self.node.place, &self.init)
                .args(["journalctl", "--no-pager", "--quiet", "--output=cat", "--lines=60"])
                .output()?;
            bail!(
                "host {}: {commands}: {}: {said}\njournal:\n{}",
                self.node.name,
                output.status,
                String::from_utf8_lossy(&journal.stdout)
            );
        }
        Ok(said)
    }

    /// Brings a file to another host, as scp(1) would.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn copy(&self, file: &str, to: &Self, target: &str) -> Result<()> {
        let (from, to) = (self.path(file), to.path(target));
        std::fs::copy(&from, &to)
            .with_context(|| format!("{} cannot be copied to {}", from.display(), to.display()))?;
        Ok(())
    }

    /// A file of the host's, as this machine sees it.
    fn path(&self, file: &str) -> std::path::PathBuf {
        Path::new("/proc").join(&self.init).join("root").join(file.trim_start_matches('/'))
    }
}

fn inside(place: &Place, init: &str) -> std::process::Command {
    let mut command = place.command("nsenter");
    command.args(["--target", init]).args(NAMESPACES).arg("--");
    command
}
