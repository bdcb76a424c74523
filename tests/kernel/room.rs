//! A network namespace of the test's own thread, and a cgroup for each end.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use lark_abi::{Address, Config, Counter, DestinationKey, DestinationValue, PodEntry};
use lark_bpf::{Kernel, KernelConfig};
use lark_sys::cgroup::Cgroup;

static NUMBER: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Room {
    pub(crate) kernel: Kernel,
    pub(crate) pod: Cgroup,
    pub(crate) agent: Cgroup,
    pub(crate) pins: PathBuf,
    home: PathBuf,
    _reaper: lark_testbed::Reaper,
}

pub(crate) const POD_IP: &str = "10.77.0.1";
pub(crate) const POD_IP6: &str = "fd77::1";
pub(crate) const FAR: &str = "10.88.0.9";
pub(crate) const FAR6: &str = "fd88::9";

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status();
    assert!(
        status.is_ok_and(|s| s.success()),
        "{program} {arguments:?} failed: this test needs root and iproute2"
    );
}

fn enter(cgroup: &Path) {
    std::fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).unwrap_or_else(|e| {
        panic!("cannot move into {}: {e}; this test needs root and cgroup v2", cgroup.display())
    });
}

impl Room {
    pub(crate) fn new() -> Self {
        // SAFETY: nothing of this test's memory depends on the network namespace.
        #[expect(unsafe_code, reason = "the namespace is for this thread alone")]
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
            .expect("a network namespace cannot be made: this test needs root");
        run("ip", &["link", "set", "lo", "up"]);
        run("ip", &["link", "add", "wire", "type", "veth", "peer", "name", "far"]);
        run("ip", &["link", "set", "far", "up"]);
        run("ip", &["link", "set", "wire", "up"]);
        run("ip", &["addr", "add", &format!("{POD_IP}/32"), "dev", "wire"]);
        run("ip", &["-6", "addr", "add", &format!("{POD_IP6}/128"), "dev", "wire", "nodad"]);
        run("ip", &["route", "add", "default", "dev", "wire", "src", POD_IP]);
        run("ip", &["-6", "route", "add", "default", "dev", "wire", "src", POD_IP6]);

        let name = format!("lark-kernel-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let home = lark_sys::cgroup::own().unwrap().path().to_owned();
        let base = lark_sys::cgroup::mount().unwrap().join(&name);
        let pins = Path::new("/sys/fs/bpf").join(&name);
        let files = std::env::temp_dir().join(&name);
        let reaper = lark_testbed::Reaper::start(&name, &base, &pins, &files).unwrap();
        let make = |end: &str| {
            std::fs::create_dir_all(base.join(end)).unwrap();
            Cgroup::open(&base.join(end)).unwrap()
        };
        let (pod, agent) = (make("pod"), make("agent"));
        let pins = pins.join("v1");
        let mut kernel = Kernel::open(&config(&pins)).unwrap();
        kernel.set_config(Config { layout: 1, flags: 0, heartbeat_stale_ns: 2_000_000_000 }).unwrap();
        kernel.heartbeat().unwrap().beat().unwrap();
        kernel.attach_agent(std::os::fd::AsFd::as_fd(&agent), agent.id()).unwrap();
        Self { kernel, pod, agent, pins, home, _reaper: reaper }
    }

    /// Another cgroup of the room.
    pub(crate) fn cgroup(&self, name: &str) -> Cgroup {
        let path = self.pod.path().with_file_name(name);
        std::fs::create_dir(&path).unwrap();
        Cgroup::open(&path).unwrap()
    }

    pub(crate) fn as_agent<T>(&self, work: impl FnOnce() -> T) -> T {
        self.inside(self.agent.path(), work)
    }

    pub(crate) fn as_pod<T>(&self, work: impl FnOnce() -> T) -> T {
        self.inside(self.pod.path(), work)
    }

    pub(crate) fn inside<T>(&self, cgroup: &Path, work: impl FnOnce() -> T) -> T {
        enter(cgroup);
        let result = work();
        enter(&self.home);
        result
    }

    /// Listeners of the agent in the pod's namespace, and the pod captured with them.
    pub(crate) fn capture(&mut self) -> Listeners {
        let listeners = self.as_agent(|| Listeners {
            v4: listen("127.0.0.1:0"),
            v6: listen("[::1]:0"),
            device4: listen(&format!("{POD_IP}:0")),
            device6: listen(&format!("[{POD_IP6}]:0")),
        });
        let entry = listeners.entry();
        self.kernel.capture("pod.one", std::os::fd::AsFd::as_fd(&self.pod), self.pod.id(), entry).unwrap();
        listeners
    }

    pub(crate) fn mesh(&mut self, destinations: &[(&str, u16)]) {
        let entries = destinations.iter().map(|(ip, port)| {
            let address: Address = ip.parse::<IpAddr>().unwrap().into();
            (
                DestinationKey { address_be: address.words_be, port: *port, padding: 0 },
                DestinationValue { action: DestinationValue::REDIRECT },
            )
        });
        self.kernel.sync_destinations(entries).unwrap();
    }

    pub(crate) fn counter(&self, wanted: Counter) -> u64 {
        self.kernel.counters().unwrap().read().unwrap().into_iter().find(|(c, _)| *c == wanted).unwrap().1
    }
}

pub(crate) fn config(pins: &Path) -> KernelConfig {
    KernelConfig { pin_root: pins.to_owned(), destinations_max: 1024 }
}

impl Drop for Room {
    fn drop(&mut self) {
        enter(&self.home);
    }
}

pub(crate) struct Listeners {
    pub(crate) v4: TcpListener,
    pub(crate) v6: TcpListener,
    pub(crate) device4: TcpListener,
    pub(crate) device6: TcpListener,
}

impl Listeners {
    pub(crate) fn entry(&self) -> PodEntry {
        let port = |l: &TcpListener| l.local_addr().unwrap().port();
        let mut entry = PodEntry {
            pod_id: 42,
            flags: PodEntry::ACTIVE,
            workers: 1,
            own_v4: POD_IP.parse::<IpAddr>().unwrap().into(),
            own_v6: POD_IP6.parse::<IpAddr>().unwrap().into(),
            device_v4: port(&self.device4),
            device_v6: port(&self.device6),
            ..PodEntry::default()
        };
        entry.loopback_v4[0] = port(&self.v4);
        entry.loopback_v6[0] = port(&self.v6);
        entry
    }
}

fn listen(address: &str) -> TcpListener {
    let listener = lark_sys::socket::listen(address.parse().unwrap()).unwrap();
    listener.set_nonblocking(false).unwrap();
    listener
}

/// A byte each way, so that both ends are known to be established.
pub(crate) fn exchange(client: &mut TcpStream, server: &mut TcpStream) {
    client.write_all(b"?").unwrap();
    server.read_exact(&mut [0]).unwrap();
    server.write_all(b"!").unwrap();
    client.read_exact(&mut [0]).unwrap();
}

pub(crate) fn address(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// A namespace at the other end of the room's wire, with the far addresses.
pub(crate) struct Far(std::fs::File);

impl Far {
    pub(crate) fn new(room: &Room) -> Self {
        let name = format!("{}-far", room.pins.parent().unwrap().file_name().unwrap().to_string_lossy());
        run("ip", &["netns", "add", &name]);
        run("ip", &["link", "set", "far", "netns", &name]);
        let inside = |arguments: &[&str]| run("ip", &[&["-n", name.as_str()], arguments].concat());
        inside(&["link", "set", "lo", "up"]);
        inside(&["link", "set", "far", "up"]);
        inside(&["addr", "add", &format!("{FAR}/32"), "dev", "far"]);
        inside(&["-6", "addr", "add", &format!("{FAR6}/128"), "dev", "far", "nodad"]);
        inside(&["route", "add", "default", "dev", "far", "src", FAR]);
        inside(&["-6", "route", "add", "default", "dev", "far", "src", FAR6]);
        Self(std::fs::File::open(Path::new("/run/netns").join(&name)).unwrap())
    }

    /// Runs `work` there, on a thread of its own: the test's stays in the room.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                let kind = rustix::thread::ThreadNameSpaceType::NETWORK;
                let fd = std::os::fd::AsFd::as_fd(&self.0);
                rustix::thread::move_into_thread_name_spaces(fd, kind).unwrap();
                work()
            });
            there.join().unwrap()
        })
    }
}
