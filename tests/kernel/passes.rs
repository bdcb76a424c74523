//! What is vouched for of strict pods: each kind of it in a map of its own, so that none keeps another out.

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use lark_abi::{Counter, Pass, Tuple};
use lark_bpf::Kernel;
use lark_testbed::eventually;
use socket2::{Domain, Socket, Type};

use crate::room::{FAR, Far, POD_IP, Room, address, config, exchange};
use crate::strict::{application, dial, guard, second_line};

type Passes = HashMap<MapData, Tuple, Pass>;

fn map(pins: &Path, name: &str) -> Passes {
    HashMap::try_from(Map::HashMap(MapData::from_pin(pins.join("maps").join(name)).unwrap())).unwrap()
}

/// Entries of a map, as `lark bpf` has them.
fn entries(kernel: &Kernel, name: &str) -> usize {
    kernel.usage().unwrap().iter().find(|usage| usage.map == name).unwrap().entries
}

fn is_passing(kernel: &mut Kernel, client: &TcpStream) -> bool {
    let (own, peer) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
    kernel.guards().is_passing((own.ip(), own.port()), (peer.ip(), peer.port()))
}

fn strict(room: &mut Room, far: &Far) {
    room.kernel.guards().sync_ranges([(address("10.88.0.0", 0).ip(), 16)]).unwrap();
    guard(room, &[]);
    second_line(&mut room.kernel, far);
}

#[test]
fn what_strict_pods_have_open_to_whoever_is_not_captured_keeps_no_probe_out() {
    let mut room = Room::new();
    let far = Far::new(&room);
    let kubelet = room.cgroup("kubelet");
    room.kernel.attach_probes(kubelet.as_fd(), kubelet.id()).unwrap();
    strict(&mut room, &far);
    let server = far.run(|| TcpListener::bind(address(FAR, 0)).unwrap());
    let to = server.local_addr().unwrap();
    let mut client = room.as_agent(|| dial(to).unwrap());
    exchange(&mut client, &mut server.accept().unwrap().0);
    assert_eq!([entries(&room.kernel, "PASSES"), entries(&room.kernel, "AGENT_PASSES")], [0, 1]);
    assert!(is_passing(&mut room.kernel, &client));

    let mut filled = map(&room.pins, "AGENT_PASSES");
    let mut ports = 1..;
    while filled
        .insert(Tuple { netns: ports.next().unwrap(), ..Tuple::default() }, Pass::default(), 0)
        .is_ok()
    {}
    assert_eq!(entries(&room.kernel, "AGENT_PASSES"), 65_536);
    let refused = room.as_agent(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.connect_timeout(&to.into(), Duration::from_millis(200)).unwrap_err()
    });
    assert_eq!(refused.kind(), ErrorKind::TimedOut);
    assert_eq!(room.counter(Counter::PassesFull), 1);

    let application = application(&room, POD_IP);
    let mut probe =
        room.inside(kubelet.path(), || far.run(|| dial(application.local_addr().unwrap()).unwrap()));
    exchange(&mut probe, &mut application.accept().unwrap().0);
    assert_eq!([room.counter(Counter::ProbePassed), room.counter(Counter::PassesFull)], [1, 1]);
}

#[test]
fn what_an_agent_of_before_has_among_the_probes_goes_on() {
    let mut room = Room::new();
    let far = Far::new(&room);
    strict(&mut room, &far);
    let server = far.run(|| TcpListener::bind(address(FAR, 0)).unwrap());
    let mut client = room.as_agent(|| dial(server.local_addr().unwrap()).unwrap());
    let mut accepted = server.accept().unwrap().0;
    accepted.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // As it was before there was a map of its own.
    let (tuple, pass) = map(&room.pins, "AGENT_PASSES").iter().next().unwrap().unwrap();
    map(&room.pins, "PASSES").insert(tuple, pass, 0).unwrap();
    std::fs::remove_file(room.pins.join("maps/AGENT_PASSES")).unwrap();

    let mut second = Kernel::open(&config(&room.pins)).unwrap();
    second_line(&mut second, &far);
    assert_eq!([entries(&second, "PASSES"), entries(&second, "AGENT_PASSES")], [1, 0]);
    exchange(&mut client, &mut accepted);
    assert!(is_passing(&mut second, &client));
    // It vouches for that connection, and for nothing else.
    let patience = Duration::from_millis(200);
    let other = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let other = other.connect_timeout(&server.local_addr().unwrap().into(), patience);
    assert_eq!(other.unwrap_err().kind(), ErrorKind::TimedOut);
    // What this agent dials is its own.
    second.attach_agent(room.agent.as_fd(), room.agent.id()).unwrap();
    let mut next = room.as_agent(|| dial(server.local_addr().unwrap()).unwrap());
    exchange(&mut next, &mut server.accept().unwrap().0);
    assert_eq!([entries(&second, "PASSES"), entries(&second, "AGENT_PASSES")], [1, 1]);
    drop(next);
    eventually(Duration::from_secs(10), "it is forgotten", || Ok(entries(&second, "AGENT_PASSES") == 0))
        .unwrap();
}
