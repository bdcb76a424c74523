//! Connections that a verdict leaves to two pods of one node: the room is one pod, the far namespace the other.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use lark_abi::direct::acceptor_of;
use lark_abi::{Counter, DestinationKey, DirectKey, DirectValue, FollowedEvent, Guard, PodEntry};
use lark_bpf::FollowedEvents;
use lark_bpf::socket_maps::socket_address;
use lark_sys::cgroup::Cgroup;
use lark_sys::netns::NetNs;
use lark_testbed::eventually;
use socket2::{Domain, Socket, Type};
use tokio::runtime::Runtime;

use crate::room::{FAR, FAR6, Far, Listeners, POD_IP, POD_IP6, Room, address, exchange};

const ADDRESSES: [(&str, &str); 2] = [(POD_IP, FAR), (POD_IP6, FAR6)];

/// The room captured as pod 42, and the far namespace as pod 43 of another cgroup.
struct Pair {
    room: Room,
    far: Far,
    other: Cgroup,
    acceptor: u32,
    listeners: Listeners,
    runtime: Runtime,
    events: FollowedEvents,
}

impl Pair {
    fn new() -> Self {
        let mut room = Room::new();
        let far = Far::new(&room);
        room.mesh(&[(FAR, 0), (FAR6, 0)]);
        let listeners = room.capture();
        let other = room.cgroup("other");
        let entry = PodEntry { pod_id: 43, flags: PodEntry::ACTIVE, ..PodEntry::default() };
        room.kernel.capture("pod.two", other.as_fd(), other.id(), entry).unwrap();
        let there = Path::new("/proc/thread-self/ns/net");
        let acceptor = acceptor_of(far.run(|| NetNs::open(there).unwrap().cookie().unwrap()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let events = runtime.block_on(async { room.kernel.direct_events() }).unwrap();
        Self { room, far, other, acceptor, listeners, runtime, events }
    }

    /// Says who is to accept at a port of the far addresses, 0 for all others.
    fn verdict(&mut self, generation: u32, port: u16, acceptor: u32) {
        let key = |ip: &str| {
            let address = lark_abi::Address::from(ip.parse::<IpAddr>().unwrap());
            DirectKey { address_be: address.words_be, pod: 42, port, padding: 0 }
        };
        let value = DirectValue { generation, acceptor };
        self.room.kernel.directs().write_all(&[FAR, FAR6].map(|ip| (key(ip), value))).unwrap();
    }

    /// All ports of the far pod are left to it.
    fn allow(&mut self) {
        let generation = self.room.kernel.directs().raise().unwrap();
        self.verdict(generation, 0, self.acceptor);
    }

    /// A listener of the far pod; of nobody's cgroup if it is not to be its own.
    fn serve(&self, ip: &str, is_its_own: bool) -> TcpListener {
        let listen = || self.far.run(|| TcpListener::bind(address(ip, 0)).unwrap());
        if is_its_own { self.room.inside(self.other.path(), listen) } else { listen() }
    }

    fn dial(&self, to: SocketAddr) -> TcpStream {
        self.room.as_pod(|| TcpStream::connect_timeout(&to, Duration::from_secs(10)).unwrap())
    }

    fn told(&mut self) -> FollowedEvent {
        let Self { runtime, events, .. } = self;
        let limit = Duration::from_secs(10);
        runtime.block_on(async { tokio::time::timeout(limit, events.next()).await }).unwrap().unwrap()
    }

    fn counts(&self) -> [u64; 3] {
        [Counter::Direct, Counter::Redirected, Counter::DirectUnconfirmed].map(|c| self.room.counter(c))
    }
}

fn is_untouched(listener: &TcpListener) -> bool {
    listener.set_nonblocking(true).unwrap();
    listener.accept().is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn a_verdict_leaves_a_connect_to_the_two_pods_and_the_kernel_counts_its_bytes() {
    let mut pair = Pair::new();
    pair.allow();
    for (own, far) in ADDRESSES {
        // Whoever ends first, payload is what is told.
        for client_first in [true, false] {
            let listener = pair.serve(far, true);
            let to = listener.local_addr().unwrap();
            let mut client = pair.dial(to);
            let (mut server, from) = listener.accept().unwrap();
            assert_eq!((client.peer_addr().unwrap(), server.peer_addr().unwrap()), (to, from));
            assert_eq!((client.local_addr().unwrap(), from.ip()), (from, own.parse().unwrap()));
            let opened = pair.told();
            assert_eq!(
                (opened.kind, opened.pod, opened.namespace),
                (FollowedEvent::OPENED, 42, pair.acceptor)
            );
            assert_eq!(socket_address(opened.source, opened.source_port), from);
            assert_eq!(socket_address(opened.destination, opened.port), to);
            let open = pair.room.kernel.guards().direct();
            assert_eq!(
                open.iter().map(|o| (o.cookie, o.source)).collect::<Vec<_>>(),
                [(opened.cookie, from)]
            );
            client.write_all(&[7; 100_000]).unwrap();
            let (first, second) =
                if client_first { (&mut client, &mut server) } else { (&mut server, &mut client) };
            if client_first {
                first.shutdown(Shutdown::Write).unwrap();
                assert_eq!(second.read_to_end(&mut Vec::new()).unwrap(), 100_000);
                second.write_all(&[8; 70_000]).unwrap();
                second.shutdown(Shutdown::Write).unwrap();
                assert_eq!(first.read_to_end(&mut Vec::new()).unwrap(), 70_000);
            } else {
                first.read_exact(&mut [0; 100_000]).unwrap();
                first.write_all(&[8; 70_000]).unwrap();
                first.shutdown(Shutdown::Write).unwrap();
                assert_eq!(second.read_to_end(&mut Vec::new()).unwrap(), 70_000);
            }
            drop((client, server));
            let closed = pair.told();
            assert_eq!((closed.kind, closed.cookie), (FollowedEvent::CLOSED, opened.cookie));
            assert_eq!((closed.sent, closed.received), (100_000, 70_000), "{client_first} {closed:?}");
            assert_eq!(pair.room.kernel.guards().passes(), 0, "what was recorded is left over");
        }
    }
    assert_eq!(pair.counts(), [4, 0, 0]);
}

#[test]
fn without_a_verdict_of_this_generation_for_this_port_the_agent_is_asked() {
    let mut pair = Pair::new();
    let listener = pair.serve(FAR, true);
    let to = listener.local_addr().unwrap();
    let asked = |pair: &Pair, dial: &dyn Fn() -> Socket| {
        let before = pair.counts();
        let _client = pair.room.as_pod(dial);
        let after = pair.counts();
        assert_eq!(after[0] + after[1], before[0] + before[1] + 1);
        after[1] > before[1]
    };
    let bound = |to: SocketAddr, device: Option<&[u8]>, source: Option<SocketAddr>| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
        socket.bind_device(device).unwrap();
        if let Some(source) = source {
            socket.bind(&source.into()).unwrap();
        }
        socket.connect_timeout(&to.into(), Duration::from_secs(10)).unwrap();
        socket
    };
    let plain = || bound(to, None, None);
    assert!(asked(&pair, &plain), "no verdict");
    pair.allow();
    assert!(!asked(&pair, &plain));
    // An exception for the very port, and one for another.
    let acceptor = pair.acceptor;
    let generation = pair.room.kernel.directs().raise().unwrap();
    pair.verdict(generation, 0, acceptor);
    pair.verdict(generation, to.port(), 0);
    assert!(asked(&pair, &plain), "the port is excepted");
    let generation = pair.room.kernel.directs().raise().unwrap();
    pair.verdict(generation, 0, acceptor);
    assert!(asked(&pair, &plain), "the exception is of a generation before");
    pair.verdict(generation, to.port(), acceptor);
    assert!(!asked(&pair, &plain));
    // Bound to a device, or to loopback; to its own address it may be.
    assert!(asked(&pair, &|| bound(to, Some(b"wire"), None)));
    assert!(asked(&pair, &|| bound(to, None, Some(address("127.0.0.1", 0)))));
    assert!(!asked(&pair, &|| bound(to, None, Some(address(POD_IP, 0)))));
    pair.room.kernel.directs().raise().unwrap();
    assert!(asked(&pair, &plain), "the verdict is of a generation before");
    pair.room.kernel.directs().remove(|key, _| key.port != 0).unwrap();
    pair.allow();
    assert!(!asked(&pair, &plain));
    pair.room.kernel.directs().clear().unwrap();
    assert!(asked(&pair, &plain), "none counts any more");
    assert_eq!(pair.room.kernel.directs().usage().0, 0);
    // What the agent got says where it was to go.
    let (server, _) = pair.listeners.v4.accept().unwrap();
    let flow = pair.room.kernel.accepted().unwrap().flow(&server).unwrap().unwrap();
    assert_eq!(socket_address(flow.address, flow.port), to);
}

#[test]
fn what_another_answers_than_the_one_that_is_meant_is_cut_off_before_a_byte() {
    let mut pair = Pair::new();
    let acceptor = pair.acceptor;
    for (own, far) in ADDRESSES {
        // Whoever has the address now is not captured; or is, and is another than the verdict names.
        for (is_captured, named) in [(false, acceptor), (true, acceptor.wrapping_add(1))] {
            let generation = pair.room.kernel.directs().raise().unwrap();
            pair.verdict(generation, 0, named);
            let listener = pair.serve(far, is_captured);
            let to = listener.local_addr().unwrap();
            let mut client = pair.dial(to);
            client.write_all(b"canary").unwrap();
            let told = pair.told();
            assert_eq!((told.kind, told.namespace), (FollowedEvent::UNCONFIRMED, named));
            assert_eq!(socket_address(told.source, 0), address(own, 0));
            // Neither a handshake nor a byte: the acknowledgement has not left, and what waits is retransmitted
            // to nowhere.
            std::thread::sleep(Duration::from_millis(300));
            assert!(is_untouched(&listener), "{far} {is_captured}");
            assert_eq!(pair.room.kernel.guards().direct(), []);
            // User space ends it.
            let from = client.local_addr().unwrap();
            assert!(lark_sys::connections::destroy_on_loopback(from, to).unwrap());
            client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
            assert_eq!(pair.room.kernel.guards().passes(), 0);
        }
    }
    assert_eq!(pair.counts(), [4, 0, 4]);
}

/// Guards the far pod, and what leaves the room's.
fn strict(pair: &mut Pair) {
    let key = |ip: &str| {
        let address = lark_abi::Address::from(ip.parse::<IpAddr>().unwrap());
        DestinationKey { address_be: address.words_be, port: 0, padding: 0 }
    };
    let guards = [(POD_IP, 42), (POD_IP6, 42), (FAR, 43), (FAR6, 43)];
    let guards = guards.map(|(ip, pod)| (key(ip), Guard { pod, action: Guard::REFUSE }));
    let kernel = &mut pair.room.kernel;
    kernel.guards().sync(guards).unwrap();
    let ranges = [(address("10.0.0.0", 0).ip(), 8), (address("fd00::", 0).ip(), 8)];
    kernel.guards().sync_ranges(ranges).unwrap();
    pair.far.run(|| {
        let netns = File::open("/proc/thread-self/ns/net").unwrap();
        kernel.guard("pod.two", netns.as_fd(), netns.metadata().unwrap().ino()).unwrap();
        let interfaces = lark_sys::links::interfaces().unwrap();
        let index = interfaces.iter().find(|i| i.name == "far").unwrap().index;
        kernel.second_line("pod.one", &[index]).unwrap();
    });
}

#[test]
fn strict_pods_take_and_send_what_a_verdict_leaves_to_them_and_nothing_else() {
    let mut pair = Pair::new();
    strict(&mut pair);
    pair.allow();
    for (_, far) in ADDRESSES {
        let listener = pair.serve(far, true);
        let to = listener.local_addr().unwrap();
        let mut client = pair.dial(to);
        let (mut server, _) = listener.accept().unwrap();
        exchange(&mut client, &mut server);
        drop((client, server));
        // The very same by a socket that no hook has seen: dropped as it leaves.
        let patience = Duration::from_millis(300);
        assert_eq!(TcpStream::connect_timeout(&to, patience).unwrap_err().kind(), ErrorKind::TimedOut);
    }
    assert_eq!(pair.room.counter(Counter::DirectPassed), 2);
    assert!(pair.room.counter(Counter::PastHookSocket) >= 2);
    // Without the second line it is refused where it arrives.
    pair.room.kernel.drop_second_line("pod.one").unwrap();
    let listener = pair.serve(FAR, true);
    let refused = TcpStream::connect_timeout(&listener.local_addr().unwrap(), Duration::from_secs(10));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    // Nor does it help to have the port of one that was left to them, right after it.
    let to = listener.local_addr().unwrap();
    let from_port = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        socket.bind(&address(POD_IP, 40_404).into()).unwrap();
        socket.connect_timeout(&to.into(), Duration::from_secs(10)).map(|()| TcpStream::from(socket))
    };
    for _ in 0..3 {
        let mut client = pair.room.as_pod(from_port).unwrap();
        exchange(&mut client, &mut listener.accept().unwrap().0);
        drop(client);
        assert_eq!(from_port().unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
    eventually(Duration::from_secs(10), "nothing that was recorded is left over", || {
        Ok(pair.room.kernel.guards().passes() == 0)
    })
    .unwrap();
}

#[test]
fn a_listener_of_the_agents_own_is_nobodys_to_leave_to() {
    let mut pair = Pair::new();
    strict(&mut pair);
    pair.allow();
    let listener = pair.serve(FAR, true);
    let to = listener.local_addr().unwrap();
    let key = |port: u16| {
        let address = lark_abi::Address::from(to.ip());
        DestinationKey { address_be: address.words_be, port, padding: 0 }
    };
    let guard = |action: u32| Guard { pod: 43, action };
    let guards = [(key(0), guard(Guard::REFUSE)), (key(to.port()), guard(Guard::LISTENER))];
    pair.room.kernel.guards().sync(guards).unwrap();
    let dialled = pair.room.as_pod(|| TcpStream::connect_timeout(&to, Duration::from_secs(10)));
    assert_eq!(dialled.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(is_untouched(&listener));
    assert_eq!(pair.room.counter(Counter::ListenerRefused), 1);
    assert_eq!(pair.room.kernel.guards().passes(), 0);
}
