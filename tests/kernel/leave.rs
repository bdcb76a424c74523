//! The second line of strict pods, and what the kernel's own TCP puts on the wire: segments of many pages, of which
//! none is in the part that is read first, and such as are larger than an IP header can say.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use lark_abi::Counter;
use lark_testbed::eventually;

use crate::room::{FAR, Far, POD_IP, Room, address, exchange};
use crate::strict::{ADDRESSES, application, dial, forge, guard, second_line};

const SYN: u8 = 0x02;
const RST: u8 = 0x04;

/// The room's pod is strict from now on, and its wire has the second line.
fn strict(room: &mut Room, far: &Far) {
    let ranges = [(address("10.88.0.0", 0).ip(), 16), (address("fd88::", 0).ip(), 16)];
    room.kernel.guards().sync_ranges(ranges).unwrap();
    guard(room, &[]);
    second_line(&mut room.kernel, far);
}

/// Both ends of a connection from the room to the far namespace, each to end within seconds.
fn open(far: &Far, to: &str) -> (TcpStream, TcpStream) {
    let listener = far.run(|| TcpListener::bind(address(to, 0)).unwrap());
    let client = dial(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    for end in [&client, &server] {
        end.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        end.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    }
    (client, server)
}

/// Sends so much and receives it at the other end.
fn bulk(from: &mut TcpStream, to: &mut TcpStream, bytes: usize) {
    std::thread::scope(|scope| {
        scope.spawn(|| from.write_all(&vec![7; bytes]).unwrap());
        to.read_exact(&mut vec![0; bytes]).unwrap();
    });
}

/// How many bytes arrive of a connection by which a pod says so many at once, and then as much as fits.
fn arrives(client: &mut TcpStream, server: &mut TcpStream, first: usize) -> usize {
    client.set_nonblocking(true).unwrap();
    let more = vec![7; 1 << 20];
    assert!(client.write(&more[..first]).unwrap() > 0);
    let until = Instant::now() + Duration::from_millis(500);
    let (mut arrived, mut buffer) = (0, vec![0; 1 << 20]);
    server.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    while Instant::now() < until {
        match client.write(&more) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        match server.read(&mut buffer) {
            Ok(count) => arrived += count,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    client.set_nonblocking(false).unwrap();
    arrived
}

#[test]
fn what_was_open_before_the_second_line_carries_no_byte_after_it() {
    let mut room = Room::new();
    let far = Far::new(&room);
    let mut connections = ADDRESSES.map(|(_, other)| open(&far, other));
    for (client, server) in &mut connections {
        exchange(client, server);
        bulk(client, server, 8 << 20);
    }
    strict(&mut room, &far);
    for (client, server) in &mut connections {
        let before = room.counter(Counter::PastHookSocket);
        assert_eq!(arrives(client, server, 6), 0);
        assert!(room.counter(Counter::PastHookSocket) > before);
        // What comes in is acknowledged, or no more than the first few segments of it would.
        bulk(server, client, 4 << 20);
    }
}

/// Lets an interface of the calling thread's namespace have segments that are larger than an IP header can say.
/// Argument: its name.
const ENLARGES: &str = r"
import socket, struct, sys
index = socket.if_nametoindex(sys.argv[1])
# IFLA_GRO_MAX_SIZE and IFLA_GSO_MAX_SIZE, IFLA_GSO_IPV4_MAX_SIZE and IFLA_GRO_IPV4_MAX_SIZE
attributes = b''.join(struct.pack('=HHI', 8, kind, 400000) for kind in (58, 41, 63, 64))
message = struct.pack('=BxHiII', 0, 0, index, 0, 0) + attributes
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
s.send(struct.pack('=IHHII', 16 + len(message), 16, 5, 1, 0) + message)  # RTM_NEWLINK, acknowledged
sys.exit(-struct.unpack_from('=i', s.recv(4096), 16)[0])
";

fn enlarge(interface: &str) {
    let status = Command::new("python3").args(["-c", ENLARGES, interface]).status().unwrap();
    assert!(status.success(), "{interface}: {status}");
}

#[test]
fn segments_that_are_larger_than_an_ip_header_can_say_pass_and_are_dropped_like_others() {
    let mut room = Room::new();
    let far = Far::new(&room);
    enlarge("wire");
    far.run(|| enlarge("far"));
    let mut connections = ADDRESSES.map(|(_, other)| open(&far, other));
    // By now the windows are wide.
    connections.iter_mut().for_each(|(client, server)| bulk(client, server, 64 << 20));
    strict(&mut room, &far);
    for (_, other) in ADDRESSES {
        let (mut client, mut server) = room.as_agent(|| open(&far, other));
        let before = sent();
        bulk(&mut client, &mut server, 64 << 20);
        let (packets, bytes) = sent();
        let each = (bytes - before.1) / (packets - before.0);
        assert!(each > 70_000, "{each} bytes a segment, which is none of the large ones");
    }
    for counter in [Counter::PastHookSocket, Counter::PastHookForwarded] {
        assert_eq!(room.counter(counter), 0, "{counter:?}");
    }
    for (client, server) in &mut connections {
        assert_eq!(arrives(client, server, 1 << 20), 0);
    }
    assert!(room.counter(Counter::PastHookSocket) > 0);
}

/// Packets and bytes that have left by the room's wire.
fn sent() -> (u64, u64) {
    let out = Command::new("ip").args(["-s", "-j", "link", "show", "wire"]).output().unwrap();
    let told: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let of = |what: &str| told[0]["stats64"]["tx"][what].as_u64().unwrap();
    (of("packets"), of("bytes"))
}

/// Sends a segment by a packet socket of which only the Ethernet header is in the part that is read first.
/// Arguments: own address, destination, flags.
const IN_PAGES: &str = r"
import socket, struct, sys
own, to, flags = sys.argv[1], sys.argv[2], int(sys.argv[3])
tcp = struct.pack('!HHIIBBHHH', 40000, 80, 1, 1, 5 << 4, flags, 65535, 0, 0) + 5000 * b'x'
ip = struct.pack('!BBHHHBBH', 0x45, 0, 20 + len(tcp), 7, 0, 64, 6, 0) + socket.inet_aton(own) + socket.inet_aton(to)
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
s.setsockopt(263, 15, 1)  # PACKET_VNET_HDR
s.bind(('wire', 0))
s.send(struct.pack('=BBHHHH', 0, 0, int(sys.argv[4]), 0, 0, 0) + 12 * b'\xff' + b'\x08\x00' + ip + tcp)
";

#[test]
fn what_fills_a_frame_up_is_no_payload_and_headers_are_found_wherever_they_lie() {
    let mut room = Room::new();
    let far = Far::new(&room);
    strict(&mut room, &far);
    let dropped = |send: &dyn Fn()| {
        let before = room.counter(Counter::PastHookPacket);
        send();
        room.counter(Counter::PastHookPacket) - before
    };
    for (behind, count) in [(0, 0), (6, 0), (7, 1), (1000, 1)] {
        assert_eq!(dropped(&|| forge("0800", FAR, RST, "", behind)), count, "{behind}");
    }
    assert_eq!(dropped(&|| forge("0800", FAR, RST, "c", 5)), 1);
    // To a mesh destination outside of the ranges nothing is opened, wherever it is said that it is.
    room.kernel.guards().sync_ranges([]).unwrap();
    room.mesh(&[(FAR, 80)]);
    let run = |program: &str, arguments: &[&str]| {
        assert!(Command::new(program).args(arguments).status().unwrap().success(), "{arguments:?}");
    };
    run("ip", &["link", "set", "wire", "mtu", "9000"]);
    far.run(|| run("ip", &["link", "set", "far", "mtu", "9000"]));
    let before = room.counter(Counter::PastHookPacket);
    let mut expected = 0;
    for linear in ["14", "34", "40", "54", "0"] {
        for (flags, count) in [(SYN, 1), (RST, 0)] {
            run("python3", &["-c", IN_PAGES, POD_IP, FAR, &flags.to_string(), linear]);
            expected += count;
            assert_eq!(room.counter(Counter::PastHookPacket) - before, expected, "{linear} {flags}");
        }
    }
}

#[test]
fn an_answer_that_comes_after_a_probe_has_gone_is_reset_as_ever() {
    let mut room = Room::new();
    let far = Far::new(&room);
    let kubelet = room.cgroup("kubelet");
    room.kernel.attach_probes(kubelet.as_fd(), kubelet.id()).unwrap();
    strict(&mut room, &far);
    for (own, _) in ADDRESSES {
        let application = application(&room, own);
        let to = application.local_addr().unwrap();
        // As that of a port, which only connects.
        drop(room.inside(kubelet.path(), || far.run(|| dial(to).unwrap())));
        let (mut server, _) = application.accept().unwrap();
        server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
        eventually(Duration::from_secs(10), "nobody vouches for it any more", || {
            Ok(room.kernel.guards().passes() == 0)
        })
        .unwrap();
        server.write_all(b"220 at your service").unwrap();
        // Else it would be sent again until the kernel's patience is over.
        eventually(Duration::from_secs(10), "the reset is there", || Ok(server.take_error()?.is_some()))
            .unwrap();
    }
    assert_eq!(room.counter(Counter::PastHookSocket), 0);
}
