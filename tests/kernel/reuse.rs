//! Ports that are used again at once: what belongs to one connection is never met by the next, at neither
//! end. Each connection here is cut off before the other side has accepted it, and its port and address
//! are taken by another one at once.

use std::net::{SocketAddr, TcpListener, TcpStream};

use lark_bpf::socket_maps::socket_address;
use socket2::{Domain, Socket, Type};

use crate::room::{FAR, POD_IP, Room, address};

const TIMES: u16 = 10_000;
/// A second destination in the mesh.
const OTHER: &str = "10.88.0.10";

/// Connects from that very address and port.
fn connect_from(source: SocketAddr, claim: impl FnOnce(TcpStream) -> TcpStream, to: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&source.into()).unwrap();
    let socket = Socket::from(claim(TcpStream::from(socket)));
    socket.connect(&to.into()).unwrap();
    // Whichever way it ends, it ends by a reset and leaves its port to the next.
    socket.set_linger(Some(std::time::Duration::ZERO)).unwrap();
    socket
}

#[test]
fn a_connection_that_was_cut_off_leaves_its_destination_to_nobody() {
    let mut room = Room::new();
    room.mesh(&[(FAR, 80), (OTHER, 80)]);
    let listeners = room.capture();
    let accepted = room.kernel.accepted().unwrap();
    let mut heartbeat = room.kernel.heartbeat().unwrap();
    room.as_pod(|| {
        for time in 0..TIMES {
            heartbeat.beat().unwrap();
            let source = address(POD_IP, 20_000 + time % 997);
            let cut_off = connect_from(source, |s| s, address(FAR, 80));
            cut_off.send(b"for the first only").unwrap();
            drop(cut_off);
            let next = connect_from(source, |s| s, address(OTHER, 80));
            let destinations = [(); 2].map(|()| {
                let (server, from) = listeners.v4.accept().unwrap();
                assert_eq!(from, source);
                accepted.flow(&server).unwrap().map(|f| socket_address(f.address, f.port))
            });
            assert_eq!(destinations, [Some(address(FAR, 80)), Some(address(OTHER, 80))], "time {time}");
            drop(next);
        }
    });
    assert_eq!(room.kernel.usage().unwrap()[1].entries, 0, "flows are left over");
}

#[test]
fn a_delivery_that_was_cut_off_leaves_its_client_to_nobody() {
    let mut room = Room::new();
    let _listeners = room.capture();
    let mut claims = room.kernel.claims().unwrap();
    let application = room.as_pod(|| TcpListener::bind((POD_IP, 0)).unwrap());
    let destination = application.local_addr().unwrap();
    room.as_agent(|| {
        for time in 0..TIMES {
            let source = address("127.9.9.9", 20_000 + time % 997);
            let clients = [address(FAR, 1 + time), address(OTHER, 1 + time)];
            let mut deliver = |client| {
                let claim = |socket: TcpStream| {
                    claims.claim(&socket, client).unwrap();
                    socket
                };
                connect_from(source, claim, destination)
            };
            let cut_off = deliver(clients[0]);
            cut_off.send(b"from the first only").unwrap();
            drop(cut_off);
            let next = deliver(clients[1]);
            let told = [(); 2].map(|()| application.accept().unwrap().1);
            assert_eq!(told, clients, "time {time}");
            drop(next);
        }
    });
    assert_eq!(room.kernel.usage().unwrap()[2].entries, 0, "deliveries are left over");
}
