//! The bed, its nodes and pods.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lark_sys::netns::NetNs;

use crate::place::{Place, eventually};
use crate::reaper::Reaper;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A wire with nodes and their pods. Dropping it takes everything down.
#[derive(Debug)]
pub struct Testbed {
    name: String,
    lark: Option<PathBuf>,
    cgroup: PathBuf,
    pins: PathBuf,
    directory: PathBuf,
    nodes: u8,
    /// Numbers that no pod of a node has, smallest last.
    free: Vec<Vec<u8>>,
    _reaper: Reaper,
}

/// A machine: a namespace on the wire, and a cgroup for its agent.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name.
    pub name: String,
    number: u8,
    /// Where its agent runs.
    pub place: Place,
    /// Its IPv4 address on the wire.
    pub ip: IpAddr,
    /// Its IPv6 address on the wire.
    pub ip6: IpAddr,
}

/// A pod.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its node's name.
    pub node: String,
    /// Where its processes run.
    pub place: Place,
    /// Its IPv4 address; its node's if it is on the host network.
    pub ip: IpAddr,
    /// Its IPv6 address; likewise.
    pub ip6: IpAddr,
    /// Whether it shares its node's namespace.
    pub host_network: bool,
    number: u8,
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("ip cannot be started; it is in Debian's package iproute2")?;
    if !output.status.success() {
        bail!(
            "ip {}: {} (this needs root)",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// Runs commands of ip(8) in a namespace, all by one process.
fn batch(netns: &str, commands: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["-n", netns, "-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("ip cannot be started; it is in Debian's package iproute2")?;
    if let Some(stdin) = &mut child.stdin {
        stdin.write_all(commands.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("ip -n {netns}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// The way to the pods of a node.
fn routes(node: u8) -> String {
    format!(
        "route add 10.77.{node}.0/24 via 192.168.77.{node}\nroute add fd77:{node}::/64 via fd77::{node}\n"
    )
}

impl Node {
    /// Its port on the wire's bridge.
    pub(crate) fn port(&self) -> String {
        format!("n{}", self.number)
    }
}

impl Testbed {
    /// An empty bed with its wire.
    ///
    /// # Errors
    /// When this is not root, or a tool is missing; with a sentence.
    pub fn new() -> Result<Self> {
        let name = format!("lark{}x{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let cgroup = lark_sys::cgroup::mount()?.join(&name);
        std::fs::create_dir(&cgroup)
            .with_context(|| format!("{} cannot be made: this needs root and cgroup v2", cgroup.display()))?;
        let pins = Path::new("/sys/fs/bpf").join(&name);
        let directory = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&directory)?;
        // Programs of other users serve files from here.
        std::fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let reaper = Reaper::start(&name, &cgroup, &pins, &directory)?;
        let bed =
            Self { name, lark: None, cgroup, pins, directory, nodes: 0, free: Vec::new(), _reaper: reaper };
        let wire = bed.netns("wire");
        ip(&["netns", "add", &wire])?;
        batch(&wire, "link set lo up\nlink add br0 type bridge mcast_snooping 0\nlink set br0 up\n")?;
        Ok(bed)
    }

    /// An empty bed whose agents run this binary.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_lark(lark: &Path) -> Result<Self> {
        let mut bed = Self::new()?;
        bed.lark = Some(lark.to_owned());
        Ok(bed)
    }

    /// The binary that agents run.
    ///
    /// # Errors
    /// When there is none; with what to do.
    pub fn lark(&self) -> Result<PathBuf> {
        self.lark.clone().map_or_else(crate::agents::lark_binary, Ok)
    }

    fn netns(&self, of: &str) -> String {
        format!("{}-{of}", self.name)
    }

    fn place(&self, cgroup: &str, netns: &str) -> Result<Place> {
        Ok(Place { cgroup: self.cgroup_of(cgroup)?, netns: Path::new("/run/netns").join(netns) })
    }

    /// A cgroup of the bed.
    pub(crate) fn cgroup_of(&self, name: &str) -> Result<PathBuf> {
        let cgroup = self.cgroup.join(name);
        std::fs::create_dir_all(&cgroup)?;
        Ok(cgroup)
    }

    /// A node on the wire.
    ///
    /// # Errors
    /// When its namespace cannot be made.
    pub fn node(&mut self, name: &str) -> Result<Node> {
        self.nodes += 1;
        self.free.push((1..=250).rev().collect());
        let n = self.nodes;
        std::fs::write(self.directory.join(format!("node-{n}")), name)?;
        let own = self.connect(n, name)?;
        for other in 1..n {
            let there = format!("{}-{}", self.name, self.node_name(other)?);
            batch(&there, &routes(n))?;
        }
        Ok(Node {
            name: name.to_owned(),
            number: n,
            place: self.boot(name, &own)?,
            ip: Ipv4Addr::new(192, 168, 77, n).into(),
            ip6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, n.into()).into(),
        })
    }

    /// Loses and makes anew all that a machine loses when it is reset: its agent, its network and whatever was pinned.
    /// Its pods are to be ended before; files stay.
    ///
    /// # Errors
    /// When something of it stays, or cannot be made.
    pub fn reboot(&mut self, node: &Node) -> Result<()> {
        let cgroup = &node.place.cgroup;
        std::fs::write(cgroup.join("cgroup.kill"), "1")?;
        eventually(Duration::from_secs(10), "the node's processes end", || {
            Ok(std::fs::remove_dir(cgroup).is_ok())
        })?;
        std::fs::remove_dir_all(self.pins.join(&node.name))?;
        ip(&["-n", &self.netns("wire"), "link", "del", &node.port()])?;
        ip(&["netns", "del", &self.netns(&node.name)])?;
        let own = self.connect(node.number, &node.name)?;
        self.boot(&node.name, &own)?;
        Ok(())
    }

    /// An empty network namespace, in which addresses can be used at once: a link-local one is asked for on the wire for
    /// one to two seconds otherwise, in which a router finds no neighbour and keeps what it was to forward
    /// (`ndisc_send_ns`, net/ipv6/ndisc.c).
    fn namespace(&self, name: &str) -> Result<()> {
        ip(&["netns", "add", name])?;
        let unasked = || {
            ["all", "default"]
                .iter()
                .try_for_each(|of| std::fs::write(format!("/proc/sys/net/ipv6/conf/{of}/accept_dad"), "0"))
        };
        NetNs::open(&Path::new("/run/netns").join(name))?.within(unasked)?.context("accept_dad cannot be set")
    }

    /// The network namespace of a node, on the wire, with ways to all other nodes.
    fn connect(&self, n: u8, name: &str) -> Result<String> {
        let (wire, own) = (self.netns("wire"), self.netns(name));
        self.namespace(&own)?;
        let port = format!("n{n}");
        batch(
            &wire,
            &format!(
                "link add {port} type veth peer name eth0 netns {own}\nlink set {port} master br0\nlink set {port} up\n"
            ),
        )?;
        // The bridge's own address is given, or it would be the least of its ports' and change with the pods.
        let mut commands = format!(
            "link set lo up\n\
             addr add 192.168.77.{n}/24 dev eth0\naddr add fd77::{n}/64 dev eth0 nodad\nlink set eth0 up\n\
             link add pods address 02:77:00:00:00:{n:02x} type bridge mcast_snooping 0\naddr add 10.77.{n}.254/24 dev pods\n\
             addr add fd77:{n}::ff/64 dev pods nodad\nlink set pods up\n"
        );
        for other in (1..=self.nodes).filter(|other| *other != n) {
            commands.push_str(&routes(other));
        }
        batch(&own, &commands)?;
        Ok(own)
    }

    /// Where a node's agent runs, in its namespace.
    fn boot(&self, name: &str, netns: &str) -> Result<Place> {
        let place = self.place(&format!("agent-{name}"), netns)?;
        place.run("sysctl", &["-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])?;
        Ok(place)
    }

    fn node_name(&self, number: u8) -> Result<String> {
        Ok(std::fs::read_to_string(self.directory.join(format!("node-{number}")))?)
    }

    /// A pod behind a node.
    ///
    /// # Errors
    /// When its namespace cannot be made.
    pub fn pod(&mut self, node: &Node, name: &str) -> Result<Pod> {
        let n = node.number;
        let free = self.free.get_mut(usize::from(n) - 1).context("the node is another bed's")?;
        let p = free.pop().context("a node has room for 250 pods")?;
        let (there, own) = (self.netns(&node.name), self.netns(&format!("p-{name}")));
        self.namespace(&own)?;
        let port = format!("p{p}");
        batch(
            &there,
            &format!(
                "link add {port} type veth peer name eth0 netns {own}\nlink set {port} master pods\nlink set {port} up\n"
            ),
        )?;
        batch(
            &own,
            &format!(
                "link set lo up\naddr add 10.77.{n}.{p}/24 dev eth0\naddr add fd77:{n}::{p:x}/64 dev eth0 nodad\n\
             link set eth0 up\nroute add default via 10.77.{n}.254\nroute add default via fd77:{n}::ff\n"
            ),
        )?;
        Ok(Pod {
            name: name.to_owned(),
            node: node.name.clone(),
            place: self.place(&format!("pod-{name}"), &own)?,
            ip: Ipv4Addr::new(10, 77, n, p).into(),
            ip6: Ipv6Addr::new(0xfd77, n.into(), 0, 0, 0, 0, 0, p.into()).into(),
            number: p,
            host_network: false,
        })
    }

    /// Ends a pod as a runtime does: its processes, its cgroup, its namespace. Its addresses go to the
    /// next one.
    ///
    /// # Errors
    /// When something of it stays.
    pub fn end(&mut self, node: &Node, pod: &Pod) -> Result<()> {
        std::fs::write(pod.place.cgroup.join("cgroup.kill"), "1")?;
        eventually(Duration::from_secs(10), "the pod's cgroup goes", || {
            Ok(std::fs::remove_dir(&pod.place.cgroup).is_ok())
        })?;
        let name = pod.place.netns.file_name().context("the pod has no namespace")?.to_string_lossy();
        // The node's end of the wire goes with it, at once and not when the kernel gets to it.
        ip(&["-n", &self.netns(&node.name), "link", "del", &format!("p{}", pod.number)])?;
        ip(&["netns", "del", &name])?;
        let free = self.free.get_mut(usize::from(node.number) - 1).context("the node is another bed's")?;
        free.push(pod.number);
        Ok(())
    }

    /// A pod on its node's own network.
    ///
    /// # Errors
    /// When its cgroup cannot be made.
    pub fn host_pod(&mut self, node: &Node, name: &str) -> Result<Pod> {
        Ok(Pod {
            name: name.to_owned(),
            node: node.name.clone(),
            place: self.place(&format!("pod-{name}"), &self.netns(&node.name))?,
            ip: node.ip,
            ip6: node.ip6,
            number: 0,
            host_network: true,
        })
    }

    /// Where captures of the wire are taken.
    ///
    /// # Errors
    /// When its cgroup cannot be made.
    pub fn wire_place(&self) -> Result<Place> {
        self.place("wire", &self.netns("wire"))
    }

    /// A directory for files, gone with the bed.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Directory for an agent's pins, gone with the bed.
    pub fn pins(&self, node: &Node) -> PathBuf {
        self.pins.join(&node.name).join("v1")
    }

    /// The bed's own prefix, in names of namespaces, cgroups and files.
    pub fn name(&self) -> &str {
        &self.name
    }
}
