use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use aya::programs::loaded_programs;
use lark_abi::{Config, DestinationKey, DestinationValue, DirectKey, DirectValue, Guard, PodEntry};
use lark_bpf::{Kernel, KernelConfig};
use lark_sys::cgroup::Cgroup;
use serde_json::{Map, Value, json};
use socket2::{Domain, Socket, Type};

use crate::cost::quantile;

/// Of the pod, of a mesh destination, of one outside of the mesh, and of whoever dials the pod.
const OWN: &str = "10.200.0.1";
const MESH: &str = "10.200.0.2";
const OUTSIDE: &str = "10.201.0.1";
const STRANGER: &str = "10.200.0.3";
/// A pod of the same node that a verdict leaves to it.
const NEIGHBOUR: &str = "10.200.0.4";
/// Verdicts about other pods: those of a node with a hundred dual-stack pods.
const VERDICTS: u32 = 19_800;

/// One way of a connect: what the pod's entry says, where it goes, from where, whether it is refused, and the
/// program whose runs are counted.
struct Case {
    name: &'static str,
    flags: Option<u32>,
    to: &'static str,
    from: Option<&'static str>,
    refused: bool,
    /// Whether the verdicts of `sameNode: direct` are written by then; those without them come first.
    by_verdicts: bool,
    program: &'static str,
}

const CONNECT: &str = "lark_connect4";
const LOOKUP: &str = "lark_lookup";
const SECOND_LINE: &str = "lark_leave";
const CASES: [Case; 10] = [
    Case {
        name: "uncaptured",
        flags: None,
        to: OUTSIDE,
        from: None,
        refused: false,
        by_verdicts: false,
        program: "",
    },
    Case {
        name: "permissive_taken_without_verdicts",
        flags: Some(PodEntry::ACTIVE),
        to: MESH,
        from: None,
        by_verdicts: false,
        refused: false,
        program: CONNECT,
    },
    Case {
        name: "strict_taken_without_verdicts",
        flags: Some(PodEntry::ACTIVE | PodEntry::STRICT),
        to: MESH,
        from: None,
        by_verdicts: false,
        refused: false,
        program: CONNECT,
    },
    Case {
        name: "permissive_miss",
        flags: Some(PodEntry::ACTIVE),
        to: OUTSIDE,
        from: None,
        by_verdicts: true,
        refused: false,
        program: CONNECT,
    },
    Case {
        name: "strict_miss",
        flags: Some(PodEntry::ACTIVE | PodEntry::STRICT),
        to: OUTSIDE,
        from: None,
        by_verdicts: true,
        refused: false,
        program: CONNECT,
    },
    Case {
        name: "permissive_taken",
        flags: Some(PodEntry::ACTIVE),
        to: MESH,
        from: None,
        by_verdicts: true,
        refused: false,
        program: CONNECT,
    },
    Case {
        name: "strict_taken",
        flags: Some(PodEntry::ACTIVE | PodEntry::STRICT),
        to: MESH,
        from: None,
        by_verdicts: true,
        refused: false,
        program: CONNECT,
    },
    Case {
        name: "direct",
        flags: Some(PodEntry::ACTIVE),
        to: NEIGHBOUR,
        from: None,
        by_verdicts: true,
        refused: false,
        program: CONNECT,
    },
    Case {
        name: "strict_refused",
        flags: Some(PodEntry::STRICT),
        to: MESH,
        from: None,
        by_verdicts: true,
        refused: true,
        program: CONNECT,
    },
    Case {
        name: "guard_refused",
        flags: None,
        to: OWN,
        from: Some(STRANGER),
        by_verdicts: true,
        refused: true,
        program: LOOKUP,
    },
];

/// Connects of a pod in a namespace of this process's own, by what the hooks decide: nanoseconds of the system
/// call at the median and the 99th percentile, and of the hook itself at the mean.
pub(crate) fn measure(connects: usize, destinations: u32) -> Result<Value> {
    let interfaces = lark_sys::links::interfaces()?;
    ensure!(
        !interfaces.iter().any(|interface| interface.is_up),
        "this adds addresses to the loopback device, so it wants a network namespace of its own: \
         unshare --net lark-scale hooks"
    );
    ip(&["link", "set", "lo", "up"])?;
    for address in [OWN, MESH, OUTSIDE, STRANGER, NEIGHBOUR] {
        ip(&["addr", "add", &format!("{address}/32"), "dev", "lo"])?;
    }
    let place = Place::new()?;
    let mut kernel = Kernel::open(&KernelConfig {
        pin_root: place.pins.join("v1"),
        destinations_max: destinations.saturating_add(2),
    })?;
    kernel.set_config(Config { layout: lark_abi::LAYOUT_VERSION, flags: 0, heartbeat_stale_ns: u64::MAX })?;
    kernel.heartbeat()?.beat()?;
    let others = (0..destinations).map(|n| key(IpAddr::from((0x0a00_0000 | n).to_be_bytes()), 0));
    let redirect = DestinationValue { action: DestinationValue::REDIRECT };
    let mesh = [key(MESH.parse()?, 0), key(NEIGHBOUR.parse()?, 0)];
    kernel.sync_destinations(others.chain(mesh).map(|key| (key, redirect)))?;
    kernel.guards().sync_ranges([
        ("10.0.0.0".parse()?, 9),
        (MESH.parse()?, 24),
        ("10.96.0.0".parse()?, 12),
    ])?;
    kernel.guards().sync([(key(OWN.parse()?, 0), Guard { pod: 1, action: Guard::REFUSE })])?;
    let listener = TcpListener::bind("0.0.0.0:0")?;
    let port = listener.local_addr()?.port();
    let drain = listener.try_clone()?;
    std::thread::spawn(move || drain.incoming().for_each(drop));
    let pod = Cgroup::open(&place.cgroup)?;
    // The neighbour's hooks are the pod's own, so that its connections are confirmed.
    enter(&place.cgroup)?;
    let neighbour = TcpListener::bind((NEIGHBOUR, 0))?;
    enter(&place.home)?;
    let neighbours = neighbour.local_addr()?.port();
    std::thread::spawn(move || neighbour.incoming().for_each(drop));
    let entry = |flags: u32| {
        let mut entry = PodEntry {
            pod_id: 1,
            flags,
            workers: 1,
            own_v4: IpAddr::from([10, 200, 0, 9]).into(),
            ..PodEntry::default()
        };
        entry.loopback_v4[0] = port;
        entry
    };
    let _stats =
        aya::sys::enable_stats(aya::sys::Stats::RunTime).context("enable the kernel's statistics")?;
    let mut figures = Map::new();
    figures.insert("destinations_in_map".to_owned(), json!(destinations + 2));
    let mut has_verdicts = false;
    for case in &CASES {
        if case.by_verdicts && !has_verdicts {
            verdicts(&mut kernel)?;
            has_verdicts = true;
        }
        if let Some(flags) = case.flags {
            kernel.capture("pod", pod.as_fd(), pod.id(), entry(flags))?;
        }
        if case.program == LOOKUP {
            let netns = fs::File::open("/proc/self/ns/net")?;
            kernel.guard("pod", netns.as_fd(), netns.metadata()?.ino())?;
        }
        enter(if case.flags.is_some() { &place.cgroup } else { &place.home })?;
        let before = runs(&kernel, case.program)?;
        let mut times = (0..connects)
            .map(|_| connect(case, if case.to == NEIGHBOUR { neighbours } else { port }))
            .collect::<Result<Vec<f64>>>()?;
        let after = runs(&kernel, case.program)?;
        enter(&place.home)?;
        times.sort_by(f64::total_cmp);
        for (part, name) in [(0.5, "p50"), (0.99, "p99")] {
            figures.insert(format!("{}_{name}_ns", case.name), json!(quantile(&times, part)));
        }
        if !case.program.is_empty() {
            let (time, count) = (after.0 - before.0, after.1 - before.1);
            ensure!(count >= connects as f64, "{} ran {count} times for {connects} connects", case.program);
            figures.insert(format!("{}_hook_ns", case.name), json!(time / count));
        }
        kernel.release("pod")?;
        kernel.unguard("pod")?;
    }
    second_line(&mut kernel, &place, connects, &mut figures)?;
    Ok(Value::Object(figures))
}

/// Lets the pod dial its neighbour itself, and many others as well.
fn verdicts(kernel: &mut Kernel) -> Result<()> {
    let acceptor = lark_abi::direct::acceptor_of(lark_sys::netns::NetNs::current()?.cookie()?);
    let generation = kernel.directs().raise()?;
    let about = |address: IpAddr| DirectKey {
        address_be: lark_abi::Address::from(address).words_be,
        pod: 1,
        port: 0,
        padding: 0,
    };
    let others = (0..VERDICTS).map(|n| about(IpAddr::from((0x0a80_0000 | n).to_be_bytes())));
    let all = others.chain([about(NEIGHBOUR.parse()?)]);
    let all: Vec<_> = all.map(|key| (key, DirectValue { generation, acceptor })).collect();
    ensure!(kernel.directs().write_all(&all)?.left_out == 0, "the verdicts do not fit");
    Ok(())
}

/// What leaves a strict pod, by a wire of two ends in this namespace: nanoseconds in the second line for each
/// segment of a connection that may leave.
fn second_line(
    kernel: &mut Kernel,
    place: &Place,
    segments: usize,
    figures: &mut Map<String, Value>,
) -> Result<()> {
    let there = place.netns()?;
    ip(&["link", "add", "host", "type", "veth", "peer", "name", "eth0", "netns", &there])?;
    ip(&["addr", "add", "10.202.0.1/24", "dev", "host"])?;
    ip(&["link", "set", "host", "up"])?;
    ip(&["-n", &there, "addr", "add", "10.202.0.2/24", "dev", "eth0"])?;
    ip(&["-n", &there, "link", "set", "eth0", "up"])?;
    kernel.guards().sync_ranges([("10.202.0.0".parse()?, 16)])?;
    // A port that is exempt answers whoever dials, by the longest of the ways that let something pass.
    let port = 8080;
    let guards = [(0, Guard::REFUSE), (port, Guard::PASS)];
    let guards = guards.map(|(port, action)| (key([10, 202, 0, 2].into(), port), Guard { pod: 1, action }));
    kernel.guards().sync(guards)?;
    let netns = lark_sys::netns::NetNs::open(&Path::new("/run/netns").join(&there))?;
    let server = netns.within(|| TcpListener::bind(("10.202.0.2", port)))??;
    let index =
        lark_sys::links::interfaces()?.into_iter().find(|i| i.name == "host").context("no wire")?.index;
    kernel.second_line("pod", &[index])?;
    let mut client = TcpStream::connect(("10.202.0.2", port))?;
    let (mut answers, _) = server.accept()?;
    answers.set_nodelay(true)?;
    let before = runs(kernel, SECOND_LINE)?;
    for _ in 0..segments {
        answers.write_all(&[7])?;
        client.read_exact(&mut [0])?;
    }
    let after = runs(kernel, SECOND_LINE)?;
    let (time, count) = (after.0 - before.0, after.1 - before.1);
    ensure!(count >= segments as f64, "{SECOND_LINE} ran {count} times for {segments} segments");
    figures.insert("second_line_ns".to_owned(), json!(time / count));
    kernel.unguard("pod")?;
    Ok(())
}

/// Nanoseconds of one connect.
fn connect(case: &Case, port: u16) -> Result<f64> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if let Some(from) = case.from {
        socket.bind(&SocketAddr::new(from.parse()?, 0).into())?;
    }
    let to = SocketAddr::new(case.to.parse()?, port).into();
    let began = Instant::now();
    let result = socket.connect(&to);
    let took = began.elapsed();
    match result {
        Ok(()) => {
            ensure!(!case.refused, "{}: was not refused", case.name);
            // A reset, so that no port is kept.
            socket.set_linger(Some(std::time::Duration::ZERO))?;
            drop(TcpStream::from(socket));
        }
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            ensure!(case.refused, "{}: refused", case.name);
        }
        Err(error) => return Err(error).context(case.name),
    }
    Ok(took.as_secs_f64() * 1e9)
}

/// Nanoseconds that a program of this kernel side has run, and how often.
fn runs(kernel: &Kernel, program: &str) -> Result<(f64, f64)> {
    let Some(id) = kernel.programs().into_iter().find(|(name, _)| name == program).map(|(_, id)| id) else {
        return Ok((0.0, 0.0));
    };
    let info = loaded_programs().filter_map(Result::ok).find(|info| info.id() == id).context("no program")?;
    let fd = info.fd()?;
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd()))?;
    let fields: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once(":\t")).collect();
    let field = |name: &str| fields.get(name).and_then(|text| text.parse().ok()).context("no statistics");
    Ok((field("run_time_ns")?, field("run_cnt")?))
}

fn key(address: IpAddr, port: u16) -> DestinationKey {
    DestinationKey { address_be: lark_abi::Address::from(address).words_be, port, padding: 0 }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let status = Command::new("ip").args(arguments).status().context("ip cannot be started")?;
    ensure!(status.success(), "ip {} failed: this needs root", arguments.join(" "));
    Ok(())
}

fn enter(cgroup: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())
        .with_context(|| format!("move into {}", cgroup.display()))
}

/// A cgroup and a place for pins; both go when it is dropped.
struct Place {
    cgroup: PathBuf,
    home: PathBuf,
    pins: PathBuf,
}

impl Place {
    fn new() -> Result<Self> {
        let name = format!("lark-hooks-{}", std::process::id());
        let home = lark_sys::cgroup::own()?.path().to_owned();
        let cgroup = lark_sys::cgroup::mount()?.join(&name);
        fs::create_dir(&cgroup).with_context(|| format!("make {}", cgroup.display()))?;
        Ok(Self { cgroup, home, pins: Path::new("/sys/fs/bpf").join(name) })
    }

    /// A network namespace for the pod, by its name.
    fn netns(&self) -> Result<String> {
        let name = self.name();
        ip(&["netns", "add", &name])?;
        Ok(name)
    }

    fn name(&self) -> String {
        self.pins.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What is left is said by nobody, and harms nobody.
        let _ = enter(&self.home);
        let _ = fs::remove_dir(&self.cgroup);
        let _ = fs::remove_dir_all(&self.pins);
        if Path::new("/run/netns").join(self.name()).exists() {
            let _ = ip(&["netns", "del", &self.name()]);
        }
    }
}
