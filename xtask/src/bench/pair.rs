use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use lark_testbed::{Node, Place, Pod, Running, Testbed, eventually};

use super::stage::PORT;

/// Where the client finds the pair, in its own namespace: echo, sink and source from here on.
const RELAY: u16 = 19_000;
const RELAY_INSIDE: u16 = 18_000;
const REFERENCE: u16 = 29_000;
/// Where the reference's accepting end takes tunnels.
const TUNNELS: u16 = 29_008;

/// Processes that carry connections from one pod to another, as relay and reference do.
#[derive(Debug)]
pub(crate) struct Pair {
    running: Vec<Running>,
    starts: Vec<Start>,
    flags: Vec<String>,
    port: u16,
    directory: PathBuf,
}

#[derive(Debug)]
struct Start {
    name: String,
    place: Place,
    program: PathBuf,
    arguments: Vec<String>,
}

/// A pair that is ready.
#[derive(Debug)]
pub(crate) struct Reached {
    pub(crate) port: u16,
    pub(crate) cgroups: Vec<PathBuf>,
    pub(crate) processes: Vec<u32>,
}

impl Pair {
    /// Two hops, in the places in which Lark's agents have theirs: taken in the client's namespace,
    /// dialled in the server's.
    pub(crate) fn relay(
        bed: &mut Testbed,
        program: &Path,
        from: (&Node, &Pod),
        to: (&Node, &Pod),
    ) -> Result<Self> {
        let (near, far) = (place(bed, from.0, "relay-one")?, place(bed, to.0, "relay-two")?);
        let between = |port| SocketAddr::new(to.0.ip, port);
        let mut into = relay_namespaces(&from.1.place, &near);
        into.extend(ways(loopback, RELAY, between, RELAY));
        let mut out = relay_namespaces(&far, &to.1.place);
        out.extend(ways(between, RELAY, loopback, PORT));
        Ok(Self::new(bed, RELAY, [("relay-two", far, program, out), ("relay-one", near, program, into)]))
    }

    /// One hop between two pods of a node.
    pub(crate) fn relay_inside(
        bed: &mut Testbed,
        program: &Path,
        from: (&Node, &Pod),
        to: &Pod,
    ) -> Result<Self> {
        let node = place(bed, from.0, "relay-inside")?;
        let mut arguments = relay_namespaces(&from.1.place, &to.place);
        arguments.extend(ways(loopback, RELAY_INSIDE, loopback, PORT));
        Ok(Self::new(bed, RELAY_INSIDE, [("relay-inside", node, program, arguments)]))
    }

    /// A tunnel of `h2` and tokio-rustls.
    pub(crate) fn reference(
        bed: &mut Testbed,
        program: &Path,
        from: (&Node, &Pod),
        to: (&Node, &Pod),
    ) -> Result<Self> {
        let (near, far) = (place(bed, from.0, "reference-one")?, place(bed, to.0, "reference-two")?);
        let keys = bed.directory().join("reference-keys");
        std::fs::create_dir_all(&keys)?;
        let keys = keys.to_string_lossy().into_owned();
        near.run(&program.to_string_lossy(), &["keys", &keys])?;
        let via = SocketAddr::new(to.0.ip, TUNNELS).to_string();
        let netns = |place: &Place| place.netns.to_string_lossy().into_owned();
        let out = ["accept", "--keys", &keys, "--listen", &via, "--dial-in", &netns(&to.1.place)];
        let listen_in = netns(&from.1.place);
        let into = ["dial", "--keys", &keys, "--via", &via, "--listen-in", &listen_in];
        let mut into: Vec<String> = into.map(str::to_owned).into();
        into.extend(ways(loopback, REFERENCE, loopback, PORT));
        let out = out.map(str::to_owned).into();
        Ok(Self::new(
            bed,
            REFERENCE,
            [("reference-two", far, program, out), ("reference-one", near, program, into)],
        ))
    }

    fn new<const N: usize>(bed: &Testbed, port: u16, starts: [(&str, Place, &Path, Vec<String>); N]) -> Self {
        let starts = starts.map(|(name, place, program, arguments)| Start {
            name: name.to_owned(),
            place,
            program: program.to_owned(),
            arguments,
        });
        Self {
            running: Vec::new(),
            starts: starts.into(),
            flags: Vec::new(),
            port,
            directory: bed.directory().to_owned(),
        }
    }

    /// Its processes have these flags from now on.
    pub(crate) fn flags(&mut self, flags: &[&str]) -> Result<()> {
        if self.flags == flags {
            return Ok(());
        }
        self.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        self.end()
    }

    /// Starts it if it does not run.
    pub(crate) fn reach(&mut self) -> Result<Reached> {
        if self.running.is_empty() {
            self.running =
                self.starts.iter().map(|s| s.start(&self.flags, &self.directory)).collect::<Result<_>>()?;
        }
        Ok(Reached {
            port: self.port,
            cgroups: self.starts.iter().map(|start| start.place.cgroup.clone()).collect(),
            processes: self.running.iter().map(Running::pid).collect(),
        })
    }

    /// Ends it; the next turn starts it anew.
    pub(crate) fn end(&mut self) -> Result<()> {
        self.running.drain(..).try_for_each(|mut process| process.stop())
    }
}

impl Start {
    fn start(&self, flags: &[String], directory: &Path) -> Result<Running> {
        let mut command = self.place.command(&self.program);
        command.args(&self.arguments).args(flags);
        let mut process = self.place.start(command, &directory.join(format!("{}.log", self.name)))?;
        eventually(Duration::from_secs(10), "a process of relay or reference is ready", || {
            if !process.is_running() {
                bail!("{} ended: {}", self.name, process.log());
            }
            Ok(process.log().contains("ready"))
        })?;
        Ok(process)
    }
}

/// A cgroup of its own on a node, so that its CPU can be told apart.
fn place(bed: &mut Testbed, node: &Node, name: &str) -> Result<Place> {
    Ok(bed.host_pod(node, name)?.place)
}

fn relay_namespaces(listen: &Place, dial: &Place) -> Vec<String> {
    let netns = |place: &Place| place.netns.to_string_lossy().into_owned();
    vec!["--listen-in".into(), netns(listen), "--dial-in".into(), netns(dial)]
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// `--way LISTEN=TO` for echo, sink and source.
fn ways(
    listen: impl Fn(u16) -> SocketAddr,
    from: u16,
    to: impl Fn(u16) -> SocketAddr,
    onto: u16,
) -> Vec<String> {
    (0..3).flat_map(|n| ["--way".to_owned(), format!("{}={}", listen(from + n), to(onto + n))]).collect()
}
