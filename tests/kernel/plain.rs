//! Connections in plaintext, as their pod's hooks tell of them: the room is the captured pod, the far namespace
//! somebody who is not.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use lark_abi::direct::acceptor_of;
use lark_abi::{FollowedEvent, FollowedSocket};
use lark_bpf::FollowedEvents;
use lark_bpf::socket_maps::socket_address;
use lark_sys::netns::NetNs;
use tokio::runtime::Runtime;

use crate::room::{FAR, FAR6, Far, Listeners, POD_IP, POD_IP6, Room, address, exchange};

/// The room captured as pod 42, with nobody else in the mesh.
struct Plain {
    room: Room,
    far: Far,
    listeners: Listeners,
    runtime: Runtime,
    events: FollowedEvents,
}

impl Plain {
    fn new() -> Self {
        let mut room = Room::new();
        let far = Far::new(&room);
        let listeners = room.capture();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let events = runtime.block_on(async { room.kernel.plain_events() }).unwrap();
        Self { room, far, listeners, runtime, events }
    }

    fn told(&mut self) -> FollowedEvent {
        let Self { runtime, events, .. } = self;
        let limit = Duration::from_secs(10);
        runtime.block_on(async { tokio::time::timeout(limit, events.next()).await }).unwrap().unwrap()
    }

    /// A connection that the pod dials or accepts: its own end, the other, and who dialled.
    fn connect(&self, dials: bool, own: &str, far: &str) -> (TcpStream, TcpStream, SocketAddr, SocketAddr) {
        let connect = |to: SocketAddr| TcpStream::connect_timeout(&to, Duration::from_secs(10)).unwrap();
        if dials {
            let listener = self.far.run(|| TcpListener::bind(address(far, 0)).unwrap());
            let to = listener.local_addr().unwrap();
            let pod = self.room.as_pod(|| connect(to));
            let (other, from) = listener.accept().unwrap();
            (pod, other, from, to)
        } else {
            let listener = self.room.as_pod(|| TcpListener::bind(address(own, 0)).unwrap());
            let to = listener.local_addr().unwrap();
            let other = self.far.run(|| connect(to));
            let (pod, from) = listener.accept().unwrap();
            (pod, other, from, to)
        }
    }
}

#[test]
fn plaintext_is_told_with_its_ends_and_its_bytes_whoever_dials_and_whoever_closes_first() {
    let mut plain = Plain::new();
    // On a thread of its own: it ends up in the process's namespace, and the test's stays in the room.
    let cookie = || NetNs::open(Path::new("/proc/thread-self/ns/net")).unwrap().cookie().unwrap();
    let namespace = acceptor_of(std::thread::scope(|scope| scope.spawn(cookie).join().unwrap()));
    for (own, far) in [(POD_IP, FAR), (POD_IP6, FAR6)] {
        for (dials, pod_first) in [(true, true), (true, false), (false, true), (false, false)] {
            let (mut pod, mut other, from, to) = plain.connect(dials, own, far);
            let opened = plain.told();
            let pod_number = if dials { 42 } else { 0 };
            let expected = (FollowedEvent::OPENED, pod_number, namespace);
            assert_eq!((opened.kind, opened.pod, opened.namespace), expected);
            assert_eq!(socket_address(opened.source, opened.source_port), from);
            assert_eq!(socket_address(opened.destination, opened.port), to);
            assert_eq!(opened.seen & FollowedSocket::ACCEPTED == 0, dials);

            pod.write_all(&[7; 100_000]).unwrap();
            other.read_exact(&mut [0; 100_000]).unwrap();
            other.write_all(&[8; 70_000]).unwrap();
            pod.read_exact(&mut [0; 70_000]).unwrap();
            let (first, second) = if pod_first { (&pod, &other) } else { (&other, &pod) };
            first.shutdown(Shutdown::Write).unwrap();
            let mut second = second;
            assert_eq!(second.read(&mut [0]).unwrap(), 0);
            second.shutdown(Shutdown::Write).unwrap();
            let mut first = first;
            assert_eq!(first.read(&mut [0]).unwrap(), 0);
            drop((pod, other));
            let closed = plain.told();
            assert_eq!((closed.kind, closed.cookie), (FollowedEvent::CLOSED, opened.cookie));
            let told = (closed.sent, closed.received);
            assert_eq!(told, (100_000, 70_000), "dials {dials}, first {pod_first}: {closed:?}");
            assert!(closed.rtt_us > 0, "{closed:?}");
        }
    }
}

/// A pod that connects faster than it is read must not keep the agent from discovery, policies and certificates, which
/// are on the same thread.
#[test]
fn events_that_come_all_the_time_leave_others_of_the_thread_their_turn() {
    const CONNECTIONS: usize = 200;
    let mut plain = Plain::new();
    for _ in 0..CONNECTIONS {
        drop(plain.connect(true, POD_IP, FAR));
    }
    // From now on the reactor knows that there are events, which are two of each connection.
    plain.told();
    let Plain { runtime, events, .. } = &mut plain;
    let turns = std::cell::Cell::new(0);
    let others = async {
        loop {
            turns.set(turns.get() + 1);
            tokio::task::yield_now().await;
        }
    };
    let read = async {
        // All are there already.
        for _ in 0..CONNECTIONS {
            events.next().await.unwrap();
        }
    };
    runtime.block_on(async {
        tokio::select! {
            biased;
            () = read => {}
            () = others => {}
        }
    });
    assert!(turns.get() > 0, "nobody else had a turn");
}

#[test]
fn what_stays_within_the_pod_or_goes_through_the_agent_is_not_told_as_plaintext() {
    let mut plain = Plain::new();
    // With itself, by loopback and by its own address.
    for own in ["127.0.0.1", "::1", POD_IP, POD_IP6] {
        let listener = plain.room.as_pod(|| TcpListener::bind(address(own, 0)).unwrap());
        let to = listener.local_addr().unwrap();
        let mut client = plain.room.as_pod(|| TcpStream::connect(to).unwrap());
        exchange(&mut client, &mut listener.accept().unwrap().0);
    }
    // Nobody is there.
    let nobody = plain.far.run(|| TcpListener::bind(address(FAR, 0)).unwrap().local_addr().unwrap());
    assert!(plain.room.as_pod(|| TcpStream::connect(nobody)).is_err());
    // Taken to the agent.
    plain.room.mesh(&[(FAR, 80)]);
    let mut client = plain.room.as_pod(|| TcpStream::connect(address(FAR, 80)).unwrap());
    exchange(&mut client, &mut plain.listeners.v4.accept().unwrap().0);

    let (_pod, _other, from, to) = plain.connect(true, POD_IP, FAR);
    let first = plain.told();
    assert_eq!(socket_address(first.source, first.source_port), from);
    assert_eq!(socket_address(first.destination, first.port), to);
}

#[test]
fn a_socket_that_connects_again_is_told_as_what_it_is_now() {
    let mut plain = Plain::new();
    let listener = plain.far.run(|| TcpListener::bind(address(FAR, 0)).unwrap());
    let to = listener.local_addr().unwrap();
    let local = plain.room.as_pod(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let socket = plain
        .room
        .as_pod(|| socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap());
    // Nobody listens there, so what was marked at first does not count when it dials its own pod.
    let nobody = plain.far.run(|| TcpListener::bind(address(FAR, 0)).unwrap().local_addr().unwrap());
    assert!(socket.connect(&nobody.into()).is_err());
    plain.room.as_pod(|| socket.connect(&local.local_addr().unwrap().into()).unwrap());
    drop(socket);
    let _other = plain.room.as_pod(|| TcpStream::connect(to).unwrap());
    let first = plain.told();
    assert_eq!(socket_address(first.destination, first.port), to);
}
