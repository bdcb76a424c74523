//! Strict pods: what the look-up hook lets in, what the connect hook lets out, and what is told of the rest.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use lark_abi::{Counter, DestinationKey, Guard, PodEntry};
use lark_bpf::Kernel;
use lark_bpf::socket_maps::socket_address;
use socket2::{Domain, Socket, Type};

use crate::room::{FAR, FAR6, Far, POD_IP, POD_IP6, Room, address, config, exchange};

pub(crate) const ADDRESSES: [(&str, &str); 2] = [(POD_IP, FAR), (POD_IP6, FAR6)];

fn key(ip: &str, port: u16) -> DestinationKey {
    let address = lark_abi::Address::from(ip.parse::<IpAddr>().unwrap());
    DestinationKey { address_be: address.words_be, port, padding: 0 }
}

/// Guards the room's namespace: both addresses are refused, and these ports are something else.
pub(crate) fn guard(room: &mut Room, ports: &[(u16, u32)]) {
    let own = ADDRESSES.map(|(ip, _)| (key(ip, 0), Guard { pod: 42, action: Guard::REFUSE }));
    let ports = ports.iter().flat_map(|(port, action)| {
        ADDRESSES.map(|(ip, _)| (key(ip, *port), Guard { pod: 42, action: *action }))
    });
    room.kernel.guards().sync(own.into_iter().chain(ports)).unwrap();
    attach(&mut room.kernel);
}

fn attach(kernel: &mut Kernel) {
    let netns = File::open("/proc/thread-self/ns/net").unwrap();
    let inode = netns.metadata().unwrap().ino();
    kernel.guard("pod.one", netns.as_fd(), inode).unwrap();
    assert!(kernel.is_guarded("pod.one", inode));
}

pub(crate) fn application(room: &Room, ip: &str) -> TcpListener {
    room.as_pod(|| TcpListener::bind(address(ip, 0)).unwrap())
}

pub(crate) fn dial(to: SocketAddr) -> std::io::Result<TcpStream> {
    TcpStream::connect_timeout(&to, Duration::from_secs(10))
}

pub(crate) fn is_refused(result: std::io::Result<TcpStream>) -> bool {
    result.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// Nothing waits to be accepted.
fn is_untouched(application: &TcpListener) -> bool {
    application.set_nonblocking(true).unwrap();
    application.accept().is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn a_strict_pod_takes_no_byte_in_plaintext_but_itself_and_deliveries() {
    let mut room = Room::new();
    let far = Far::new(&room);
    let _listeners = room.capture();
    guard(&mut room, &[]);
    let mut claims = room.kernel.claims().unwrap();
    for (own, _) in ADDRESSES {
        let application = application(&room, own);
        let to = application.local_addr().unwrap();
        assert!(far.run(|| is_refused(dial(to))), "{own}");
        assert!(is_untouched(&application));
        application.set_nonblocking(false).unwrap();

        // The pod itself, by its own address.
        let mut client = room.as_pod(|| dial(to).unwrap());
        exchange(&mut client, &mut application.accept().unwrap().0);
        // An agent's delivery.
        let delivery = room.as_agent(|| lark_sys::socket::delivery_socket(to.ip(), 7).unwrap());
        claims.claim(&delivery, address(FAR, 4242)).unwrap();
        let delivery = Socket::from(delivery);
        delivery.set_nonblocking(false).unwrap();
        delivery.connect(&to.into()).unwrap();
        exchange(&mut TcpStream::from(delivery), &mut application.accept().unwrap().0);
    }
    // By loopback, where nothing is guarded.
    let application = application(&room, "127.0.0.1");
    room.as_pod(|| dial(application.local_addr().unwrap()).unwrap());
    assert_eq!(room.counter(Counter::PlaintextRefused), 2);
    // What goes out is answered: only who listens is looked up.
    let server = far.run(|| TcpListener::bind(address(FAR, 0)).unwrap());
    let mut client = room.as_pod(|| dial(server.local_addr().unwrap()).unwrap());
    exchange(&mut client, &mut server.accept().unwrap().0);
}

#[test]
fn fast_open_brings_no_byte_into_a_strict_pod() {
    let mut room = Room::new();
    let far = Far::new(&room);
    // /proc/sys/net is that of the thread's namespace.
    let allow = || std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "3").unwrap();
    allow();
    far.run(allow);
    let application = application(&room, POD_IP);
    let on: i32 = 5;
    // SAFETY: the pointer and size describe `on`, which outlives the call.
    #[expect(unsafe_code, reason = "socket2 has no TCP_FASTOPEN for listeners")]
    let set = unsafe {
        libc::setsockopt(
            std::os::fd::AsRawFd::as_raw_fd(&application),
            libc::IPPROTO_TCP,
            libc::TCP_FASTOPEN,
            std::ptr::from_ref(&on).cast(),
            4,
        )
    };
    assert_eq!(set, 0);
    let to = application.local_addr().unwrap();
    let fast = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let sent = socket.send_to_with_flags(b"canary", &to.into(), libc::MSG_FASTOPEN);
        let mut stream = TcpStream::from(socket);
        let answered =
            stream.set_read_timeout(Some(Duration::from_secs(10))).and_then(|()| stream.read(&mut [0]));
        sent.and(answered)
    };
    // Before it is strict the cookie is given, so that the next SYN would bring its data.
    let serve = || {
        let (mut server, _) = application.accept().unwrap();
        let mut got = [0; 6];
        server.read_exact(&mut got).unwrap();
        server.write_all(b"!").unwrap();
        assert_eq!(&got, b"canary");
    };
    for _ in 0..2 {
        std::thread::scope(|scope| {
            scope.spawn(serve);
            assert_eq!(far.run(fast).unwrap(), 1);
        });
    }
    guard(&mut room, &[]);
    let error = far.run(fast).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert!(is_untouched(&application));
    assert_eq!(room.counter(Counter::PlaintextRefused), 1);
}

#[test]
fn a_port_may_be_exempt_and_a_listener_of_the_agents_never_is() {
    let mut room = Room::new();
    let far = Far::new(&room);
    let listeners = room.capture();
    for (own, listener) in [(POD_IP, &listeners.device4), (POD_IP6, &listeners.device6)] {
        let application = application(&room, own);
        let to = application.local_addr().unwrap();
        let listener = listener.local_addr().unwrap();
        guard(&mut room, &[(to.port(), Guard::PASS), (listener.port(), Guard::LISTENER)]);
        let mut client = far.run(|| dial(to).unwrap());
        exchange(&mut client, &mut application.accept().unwrap().0);
        assert!(far.run(|| is_refused(dial(listener))));
    }
    assert_eq!((room.counter(Counter::PortExempt), room.counter(Counter::ListenerRefused)), (2, 2));
    assert_eq!(room.counter(Counter::PlaintextRefused), 0);
}

#[test]
fn a_probe_is_known_by_the_socket_that_dials_and_by_nothing_else() {
    let mut room = Room::new();
    let far = Far::new(&room);
    let kubelet = room.cgroup("kubelet");
    room.kernel.attach_probes(kubelet.as_fd(), kubelet.id()).unwrap();
    let _listeners = room.capture();
    guard(&mut room, &[]);
    for (own, from) in ADDRESSES {
        let application = application(&room, own);
        let to = application.local_addr().unwrap();
        // From one address and port, one after the other.
        let source = address(from, 40_404);
        let dial = || {
            let socket = Socket::new(Domain::for_address(source), Type::STREAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            socket.set_linger(Some(Duration::ZERO)).unwrap();
            socket.bind(&source.into()).unwrap();
            socket.connect_timeout(&to.into(), Duration::from_secs(10)).map(|()| TcpStream::from(socket))
        };
        assert!(is_refused(far.run(dial)), "whoever has the address passed for the kubelet");
        let mut probe = room.inside(kubelet.path(), || far.run(dial).unwrap());
        let (mut server, _) = application.accept().unwrap();
        exchange(&mut probe, &mut server);
        assert_eq!(room.kernel.guards().passes(), 1);
        drop((probe, server));
        assert_eq!(room.kernel.guards().passes(), 0, "what was vouched for is left over");
        assert!(is_refused(far.run(dial)), "whoever took the port afterwards passed for the kubelet");
        assert!(is_untouched(&application));
    }
    assert_eq!((room.counter(Counter::ProbePassed), room.counter(Counter::PlaintextRefused)), (2, 4));
    // Whatever else the kubelet dials is not recorded.
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let _client = room.inside(kubelet.path(), || dial(server.local_addr().unwrap()).unwrap());
    assert_eq!(room.kernel.guards().passes(), 0);
}

#[test]
fn each_refusal_is_told_with_both_ends_and_not_more_than_once_a_second() {
    let mut room = Room::new();
    let far = Far::new(&room);
    guard(&mut room, &[]);
    let application = application(&room, POD_IP);
    let to = application.local_addr().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut refusals = room.kernel.refusals().unwrap();
        let started = std::time::Instant::now();
        let mut dialled = 0;
        while started.elapsed() < Duration::from_millis(300) || dialled < 20 {
            assert!(far.run(|| is_refused(dial(to))));
            dialled += 1;
        }
        assert_eq!(room.counter(Counter::PlaintextRefused), dialled);
        let first = refusals.next().await.unwrap();
        assert_eq!(socket_address(first.source, 0), address(FAR, 0));
        assert_ne!(first.source_port, 0);
        assert_eq!(socket_address(first.destination, first.destination_port), to);
        assert_eq!(first.counter, Counter::PlaintextRefused.index());
        let mut more = 0;
        while tokio::time::timeout(Duration::from_millis(50), refusals.next()).await.is_ok() {
            more += 1;
        }
        assert!(more <= started.elapsed().as_secs(), "{more} more of {dialled} in {:?}", started.elapsed());
    });
}

#[test]
fn a_guard_outlives_its_agent_and_is_taken_over_by_the_next() {
    let mut room = Room::new();
    let far = Far::new(&room);
    let _listeners = room.capture();
    guard(&mut room, &[]);
    let application = application(&room, POD_IP);
    let to = application.local_addr().unwrap();
    room.kernel.heartbeat().unwrap().stop().unwrap();
    assert!(far.run(|| is_refused(dial(to))));
    let mut second = Kernel::open(&config(&room.pins)).unwrap();
    attach(&mut second);
    assert!(far.run(|| is_refused(dial(to))));
    let foreign = |kernel: &Kernel| {
        let netns = File::open("/proc/thread-self/ns/net").unwrap();
        kernel.foreign_lookups(netns.as_fd()).unwrap().len()
    };
    assert_eq!(foreign(&second), 0);
    // The first one's program is in place no more, so to it the second's is another's.
    assert_eq!(foreign(&room.kernel), 1);
    second.unguard("pod.one").unwrap();
    assert!(far.run(|| dial(to)).is_ok());
    second.release("pod.one").unwrap();
    assert_eq!(second.pinned(), vec![]);
}

#[test]
fn a_strict_pod_dials_nothing_of_the_cluster_in_plaintext() {
    let mut room = Room::new();
    let far = Far::new(&room);
    room.mesh(&[(FAR, 80)]);
    let listeners = room.capture();
    let strict = |flags: u32| PodEntry { flags, ..listeners.entry() };
    let unknown = "10.88.0.77";
    room.kernel
        .guards()
        .sync_ranges([(address("10.88.0.0", 0).ip(), 16), (address("fd88::", 0).ip(), 16)])
        .unwrap();

    // Taken to the agent although it is no mesh destination.
    let id = room.pod.id();
    room.kernel.update(id, strict(PodEntry::ACTIVE | PodEntry::STRICT)).unwrap();
    let accepted = room.kernel.accepted().unwrap();
    for (to, listener) in [(unknown, &listeners.v4), ("fd88::77", &listeners.v6)] {
        let _client = room.as_pod(|| dial(address(to, 81)).unwrap());
        let (server, _) = listener.accept().unwrap();
        let flow = accepted.flow(&server).unwrap().unwrap();
        assert_eq!(socket_address(flow.address, flow.port), address(to, 81));
    }
    assert_eq!(room.counter(Counter::UnknownTaken), 2);
    // What is outside of the ranges is left alone.
    let outside = TcpListener::bind("127.0.0.1:0").unwrap();
    room.as_pod(|| dial(outside.local_addr().unwrap()).unwrap());
    // Without an agent, and without a certificate, all of it is refused.
    room.kernel.heartbeat().unwrap().stop().unwrap();
    for to in [FAR, unknown] {
        assert!(room.as_pod(|| is_refused(dial(address(to, 80)))));
    }
    assert_eq!(room.counter(Counter::AgentDownRefused), 2);
    room.kernel.heartbeat().unwrap().beat().unwrap();
    room.kernel.update(id, strict(PodEntry::STRICT)).unwrap();
    for to in [FAR, unknown] {
        assert!(room.as_pod(|| is_refused(dial(address(to, 80)))));
    }
    assert_eq!(room.counter(Counter::PendingRefused), 2);
    // A permissive pod's miss is left alone as ever.
    room.kernel.update(id, listeners.entry()).unwrap();
    let server = far.run(|| TcpListener::bind(address(FAR, 81)).unwrap());
    assert!(room.as_pod(|| dial(server.local_addr().unwrap())).is_ok());
    room.kernel.guards().sync_ranges([]).unwrap();
    room.kernel.update(id, strict(PodEntry::ACTIVE | PodEntry::STRICT)).unwrap();
    assert!(room.as_pod(|| dial(server.local_addr().unwrap())).is_ok());
}

/// Sends a TCP segment by hand, with a raw socket or a packet socket.
const FORGES: &str = r"
import socket, struct, sys
kind, own, to, flags, body = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5].encode()
behind = int(sys.argv[6]) * b'\0'
tcp = struct.pack('!HHIIBBHHH', 40000, 80, 1, 1, 5 << 4, flags, 65535, 0, 0) + body
ip = struct.pack('!BBHHHBBH', 0x45, 0, 20 + len(tcp), 7, 0, 64, 6, 0)
ip += socket.inet_aton(own) + socket.inet_aton(to)
if kind == 'raw':
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    s.sendto(ip + tcp, (to, 0))
else:
    ethertype = int(kind, 16)
    s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    s.sendto(ip + tcp + behind, ('wire', ethertype, 0, 0, b'\xff' * 6))
";

/// `behind`: so many bytes follow what the IP header says, if it is a packet socket.
pub(crate) fn forge(kind: &str, to: &str, flags: u8, body: &str, behind: usize) {
    let (flags, behind) = (flags.to_string(), behind.to_string());
    let status = std::process::Command::new("python3")
        .args(["-c", FORGES, kind, POD_IP, to, &flags, body, &behind])
        .status()
        .unwrap();
    assert!(status.success(), "{kind} {to}");
}

/// The second line, on the far end of the room's wire; returns the index of its interface.
pub(crate) fn second_line(kernel: &mut Kernel, far: &Far) -> u32 {
    far.run(|| {
        let interfaces = lark_sys::links::interfaces().unwrap();
        let index = interfaces.iter().find(|i| i.name == "far").unwrap().index;
        kernel.second_line("pod.one", &[index]).unwrap();
        assert!(kernel.has_second_line("pod.one", &[index]));
        index
    })
}

#[test]
fn the_second_line_drops_what_came_past_the_hooks_and_tells_it_by_its_sender() {
    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;
    const DATA: u8 = 0x18;
    let mut room = Room::new();
    let far = Far::new(&room);
    let ranges = [(address("10.88.0.0", 0).ip(), 16), (address("fd88::", 0).ip(), 16)];
    room.kernel.guards().sync_ranges(ranges).unwrap();
    guard(&mut room, &[]);
    let interface = second_line(&mut room.kernel, &far);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut refusals = runtime.block_on(async { room.kernel.refusals() }).unwrap();
    let patience = Duration::from_millis(100);
    let socket = |to: SocketAddr, device: Option<&[u8]>| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
        socket.bind_device(device).unwrap();
        socket.connect_timeout(&to.into(), patience).unwrap_err().kind()
    };
    // Of the test's own cgroup, so past the pod's hooks.
    for to in [FAR, FAR6] {
        assert_eq!(socket(address(to, 80), None), ErrorKind::TimedOut);
        assert_eq!(socket(address(to, 80), Some(b"wire")), ErrorKind::TimedOut);
    }
    for kind in ["raw", "0800"] {
        forge(kind, FAR, SYN, "", 0);
        forge(kind, FAR, DATA, "canary", 0);
        // Neither opens a connection nor carries a byte.
        forge(kind, FAR, RST, "", 0);
    }
    // No kind of frame that a kernel sends.
    forge("88b5", FAR, SYN, "canary", 0);
    for (counter, count) in [
        (Counter::PastHookSocket, 2),
        (Counter::PastHookDevice, 2),
        (Counter::PastHookRaw, 2),
        (Counter::PastHookPacket, 3),
        (Counter::PastHookForwarded, 0),
    ] {
        assert_eq!(room.counter(counter), count, "{counter:?}");
    }
    let told = runtime.block_on(async {
        let mut told = std::collections::BTreeSet::new();
        while let Ok(Ok(refused)) = tokio::time::timeout(Duration::from_millis(100), refusals.next()).await {
            assert_eq!(refused.interface, interface);
            let to = socket_address(refused.destination, refused.destination_port);
            told.insert((refused.counter, to));
        }
        told
    });
    for (counter, to) in [
        (Counter::PastHookSocket, address(FAR, 80)),
        (Counter::PastHookSocket, address(FAR6, 80)),
        (Counter::PastHookDevice, address(FAR, 80)),
        (Counter::PastHookRaw, address(FAR, 80)),
        (Counter::PastHookPacket, address(FAR, 80)),
    ] {
        assert!(told.contains(&(counter.index(), to)), "{counter:?} {to}");
    }
    // Outside of the ranges nothing is asked.
    room.kernel.guards().sync_ranges([]).unwrap();
    let server = far.run(|| TcpListener::bind(address(FAR, 0)).unwrap());
    let mut client = dial(server.local_addr().unwrap()).unwrap();
    let (mut accepted, _) = server.accept().unwrap();
    exchange(&mut client, &mut accepted);
    // But a mesh destination is, as far as opening goes; what was open goes on.
    room.mesh(&[(FAR, 0)]);
    assert_eq!(socket(server.local_addr().unwrap(), None), ErrorKind::TimedOut);
    exchange(&mut client, &mut accepted);
}

#[test]
fn the_second_line_lets_out_what_the_agent_dials_and_what_is_answered() {
    let mut room = Room::new();
    let far = Far::new(&room);
    let kubelet = room.cgroup("kubelet");
    room.kernel.attach_probes(kubelet.as_fd(), kubelet.id()).unwrap();
    let ranges = [(address("10.88.0.0", 0).ip(), 16), (address("fd88::", 0).ip(), 16)];
    room.kernel.guards().sync_ranges(ranges).unwrap();
    second_line(&mut room.kernel, &far);
    for (own, other) in ADDRESSES {
        let application = application(&room, own);
        let to = application.local_addr().unwrap();
        guard(&mut room, &[(to.port(), Guard::PASS)]);
        // An exempt port answers whoever dials.
        let mut client = far.run(|| dial(to).unwrap());
        exchange(&mut client, &mut application.accept().unwrap().0);
        guard(&mut room, &[]);
        // A refusal is told at once, and a probe is answered.
        assert!(is_refused(far.run(|| dial(to))));
        let mut probe = room.inside(kubelet.path(), || far.run(|| dial(to).unwrap()));
        exchange(&mut probe, &mut application.accept().unwrap().0);
        // The agent dials for the pod.
        let server = far.run(|| TcpListener::bind(address(other, 0)).unwrap());
        let mut client = room.as_agent(|| dial(server.local_addr().unwrap()).unwrap());
        let (mut accepted, _) = server.accept().unwrap();
        exchange(&mut client, &mut accepted);
        assert_eq!(room.kernel.guards().passes(), 2);
        drop((probe, client, accepted));
        lark_testbed::eventually(
            Duration::from_secs(10),
            "nothing that was vouched for is left over",
            || Ok(room.kernel.guards().passes() == 0),
        )
        .unwrap();
    }
    for counter in [Counter::PastHookSocket, Counter::PastHookForwarded] {
        assert_eq!(room.counter(counter), 0, "{counter:?}");
    }
}

#[test]
fn a_second_line_outlives_its_agent_is_taken_over_and_goes_with_its_interface() {
    let mut room = Room::new();
    let far = Far::new(&room);
    room.kernel.guards().sync_ranges([(address("10.88.0.0", 0).ip(), 16)]).unwrap();
    guard(&mut room, &[]);
    let interface = second_line(&mut room.kernel, &far);
    let guards = |kernel: &Kernel| kernel.pinned().first().map(|pod| pod.guards.clone()).unwrap_or_default();
    let before = guards(&room.kernel);
    assert_eq!(before.len(), 2, "{before:?}");
    let mut second = Kernel::open(&config(&room.pins)).unwrap();
    // Whatever it finds of interfaces, it keeps what is there.
    far.run(|| second.second_line("pod.one", &[]).unwrap());
    let after = guards(&second);
    let tcx = |links: &[lark_bpf::LinkState]| {
        links.iter().find(|l| l.interface == Some(interface)).map(|l| (l.link_id, l.program_id)).unwrap()
    };
    assert_eq!(tcx(&before).0, tcx(&after).0);
    assert_ne!(tcx(&before).1, tcx(&after).1);
    forge("raw", FAR, 0x02, "canary", 0);
    assert_eq!(room.counter(Counter::PastHookRaw), 1);
    assert!(std::process::Command::new("ip").args(["link", "del", "wire"]).status().unwrap().success());
    assert!(!second.has_second_line("pod.one", &[interface]));
    far.run(|| second.second_line("pod.one", &[]).unwrap());
    assert_eq!(guards(&second).len(), 1);
    second.unguard("pod.one").unwrap();
    assert_eq!(second.pinned(), vec![]);
}
