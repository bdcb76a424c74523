//! What each hook does to a connection.

use std::net::{TcpListener, TcpStream, UdpSocket};

use lark_abi::Counter;
use lark_bpf::socket_maps::socket_address;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::room::{FAR, FAR6, POD_IP, POD_IP6, Room, address, exchange};

#[test]
fn a_connect_to_the_mesh_reaches_the_agent_with_its_destination() {
    let mut room = Room::new();
    room.mesh(&[(FAR, 80), (FAR6, 0)]);
    let listeners = room.capture();
    let accepted = room.kernel.accepted().unwrap();
    for (far, own, listener) in [(FAR, POD_IP, &listeners.v4), (FAR6, POD_IP6, &listeners.v6)] {
        let mut client = room.as_pod(|| TcpStream::connect(address(far, 80)).unwrap());
        let (mut server, from) = listener.accept().unwrap();
        let flow = accepted.flow(&server).unwrap().expect("the accepted socket has no flow");
        assert_eq!(socket_address(flow.address, flow.port), address(far, 80));
        assert_eq!(socket_address(flow.source, flow.source_port), from);
        assert_eq!(flow.pod_id, 42);
        exchange(&mut client, &mut server);
        assert_eq!(client.peer_addr().unwrap(), address(far, 80));
        assert_eq!(client.local_addr().unwrap(), address(own, from.port()));
    }
    assert_eq!(room.counter(Counter::Redirected), 2);
    assert_eq!(room.counter(Counter::FlowTaken), 2);
    assert_eq!(room.kernel.usage().unwrap()[1].entries, 0, "flows are left over");
}

#[test]
fn a_mapped_destination_keeps_its_form_for_the_application() {
    let mut room = Room::new();
    room.mesh(&[(FAR, 80)]);
    let listeners = room.capture();
    let mapped = address(&format!("::ffff:{FAR}"), 80);
    let client = room.as_pod(|| {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        socket.set_only_v6(false).unwrap();
        socket.connect(&mapped.into()).unwrap();
        socket
    });
    let (server, _) = listeners.v4.accept().unwrap();
    let flow = room.kernel.accepted().unwrap().flow(&server).unwrap().unwrap();
    assert_eq!(socket_address(flow.address, flow.port), address(FAR, 80));
    assert_eq!(client.peer_addr().unwrap().as_socket().unwrap(), mapped);
    assert_eq!(
        client.local_addr().unwrap().as_socket().unwrap().ip().to_string(),
        format!("::ffff:{POD_IP}")
    );
}

#[test]
fn what_is_outside_the_mesh_is_left_alone() {
    let mut room = Room::new();
    room.mesh(&[(FAR, 80)]);
    let _listeners = room.capture();
    let outside = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = room.as_pod(|| TcpStream::connect(outside.local_addr().unwrap()).unwrap());
    assert_eq!(client.peer_addr().unwrap(), outside.local_addr().unwrap());
    room.as_pod(|| UdpSocket::bind("0.0.0.0:0").unwrap().connect(address(FAR, 80)).unwrap());
    let own = TcpListener::bind((POD_IP, 0)).unwrap();
    let client = room.as_pod(|| TcpStream::connect(own.local_addr().unwrap()).unwrap());
    assert_eq!(client.peer_addr().unwrap(), own.local_addr().unwrap());
    assert_eq!(
        (room.counter(Counter::NotMesh), room.counter(Counter::NotTcp), room.counter(Counter::OwnAddress)),
        (1, 1, 1)
    );
    assert_eq!(room.counter(Counter::Redirected), 0);
}

#[test]
fn another_cgroups_sockets_are_not_captured() {
    let mut room = Room::new();
    room.mesh(&[(FAR, 80)]);
    let _listeners = room.capture();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    let _ = socket.connect(&SockAddr::from(address(FAR, 80)));
    assert_eq!(room.counter(Counter::Redirected), 0);
}

#[test]
fn a_child_cgroup_made_later_is_captured_too() {
    let mut room = Room::new();
    room.mesh(&[(FAR, 80)]);
    let listeners = room.capture();
    let child = room.pod.path().join("child");
    std::fs::create_dir(&child).unwrap();
    let _client = room.inside(&child, || TcpStream::connect(address(FAR, 80)).unwrap());
    let (server, _) = listeners.v4.accept().unwrap();
    assert_eq!(room.kernel.accepted().unwrap().flow(&server).unwrap().unwrap().pod_id, 42);
}

#[test]
fn a_listener_is_refused_to_applications() {
    let mut room = Room::new();
    room.mesh(&[(FAR, 80)]);
    let listeners = room.capture();
    for listener in [&listeners.v4, &listeners.v6, &listeners.device4, &listeners.device6] {
        let error = room.as_pod(|| TcpStream::connect(listener.local_addr().unwrap()).unwrap_err());
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    }
    assert_eq!(room.counter(Counter::ListenerDialled), 4);
}

#[test]
fn an_accepted_socket_without_a_flow_says_so() {
    let mut room = Room::new();
    let listeners = room.capture();
    // From outside the pod's cgroup the hook does not run, so the listener can be reached.
    let _client = TcpStream::connect(listeners.v4.local_addr().unwrap()).unwrap();
    let (server, _) = listeners.v4.accept().unwrap();
    assert_eq!(room.kernel.accepted().unwrap().flow(&server).unwrap(), None);
}

#[test]
fn a_delivery_tells_the_application_the_claimed_source() {
    let mut room = Room::new();
    let _listeners = room.capture();
    let mut claims = room.kernel.claims().unwrap();
    for (own, claimed, listen) in [
        (POD_IP, address(FAR, 4242), format!("{POD_IP}:0")),
        (POD_IP6, address(FAR6, 4242), format!("[{POD_IP6}]:0")),
        // A dual-stack listener meets an IPv4 peer as a mapped address.
        (POD_IP, address(FAR, 4343), "[::]:0".to_owned()),
    ] {
        let application = room.as_pod(|| TcpListener::bind(&listen).unwrap());
        let destination = address(own, application.local_addr().unwrap().port());
        let delivery = room.as_agent(|| lark_sys::socket::delivery_socket(destination.ip(), 7).unwrap());
        claims.claim(&delivery, claimed).unwrap();
        let socket = Socket::from(delivery);
        socket.set_nonblocking(false).unwrap();
        socket.connect(&destination.into()).unwrap();
        let (mut server, from) = application.accept().unwrap();
        let canonical = |a: std::net::SocketAddr| std::net::SocketAddr::new(a.ip().to_canonical(), a.port());
        assert_eq!(canonical(from), claimed);
        assert_eq!(from.is_ipv6(), listen.starts_with('['));
        assert_eq!(canonical(server.peer_addr().unwrap()), claimed);
        assert_eq!(canonical(server.local_addr().unwrap()), destination);
        exchange(&mut TcpStream::from(socket), &mut server);
    }
    assert_eq!(room.counter(Counter::DeliveryTaken), 3);
    assert_eq!(room.kernel.usage().unwrap()[2].entries, 0, "deliveries are left over");
}

#[test]
fn a_dead_agents_pod_is_left_alone_or_refused_by_setting() {
    let mut room = Room::new();
    room.mesh(&[("127.0.0.9", 80)]);
    let _listeners = room.capture();
    room.kernel.heartbeat().unwrap().stop().unwrap();
    let application = TcpListener::bind("127.0.0.9:80").unwrap();
    let client = room.as_pod(|| TcpStream::connect(application.local_addr().unwrap()).unwrap());
    assert_eq!(client.peer_addr().unwrap(), application.local_addr().unwrap());
    assert_eq!(room.counter(Counter::AgentDownUntouched), 1);
    room.kernel
        .set_config(lark_abi::Config {
            layout: 1,
            flags: lark_abi::Config::REFUSE_WHEN_DOWN,
            heartbeat_stale_ns: 2_000_000_000,
        })
        .unwrap();
    let error = room.as_pod(|| TcpStream::connect(application.local_addr().unwrap()).unwrap_err());
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(room.counter(Counter::AgentDownRefused), 1);
}

#[test]
fn a_connect_that_is_never_accepted_leaves_no_flow_behind() {
    let mut room = Room::new();
    room.mesh(&[(FAR, 80)]);
    let listeners = room.capture();
    drop(listeners);
    for _ in 0..100 {
        let error = room.as_pod(|| TcpStream::connect(address(FAR, 80)).unwrap_err());
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    }
    assert_eq!(room.counter(Counter::FlowAbandoned), 100);
    assert_eq!(room.kernel.usage().unwrap()[1].entries, 0);
}

#[test]
fn a_socket_that_connects_again_forgets_its_earlier_destination() {
    let mut room = Room::new();
    room.mesh(&[(FAR, 80)]);
    let listeners = room.capture();
    let socket = room.as_pod(|| Socket::new(Domain::IPV4, Type::STREAM, None).unwrap());
    socket.connect(&SockAddr::from(address(FAR, 80))).unwrap();
    let _ = listeners.v4.accept().unwrap();
    // SAFETY: a zeroed storage is an address of family AF_UNSPEC, which connect(2) defines.
    #[expect(unsafe_code, reason = "socket2 has no other way to spell AF_UNSPEC")]
    let unspecified = unsafe { SockAddr::new(socket2::SockAddrStorage::zeroed(), 16) };
    socket.connect(&unspecified).unwrap();
    let outside = TcpListener::bind("127.0.0.1:0").unwrap();
    socket.connect(&outside.local_addr().unwrap().into()).unwrap();
    assert_eq!(socket.peer_addr().unwrap().as_socket().unwrap(), outside.local_addr().unwrap());
}

#[test]
fn a_socket_bound_to_a_device_puts_nothing_on_the_wire() {
    let mut room = Room::new();
    room.mesh(&[(FAR, 80), (FAR6, 80)]);
    let listeners = room.capture();
    // /sys shows the namespace that mounted it, so the wire is asked by iproute2.
    let wire = || {
        let out =
            std::process::Command::new("ip").args(["-s", "-j", "link", "show", "wire"]).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    let before = wire();
    for (far, domain, listener) in
        [(FAR, Domain::IPV4, &listeners.device4), (FAR6, Domain::IPV6, &listeners.device6)]
    {
        let client = room.as_pod(|| {
            let socket = Socket::new(domain, Type::STREAM, None).unwrap();
            socket.bind_device(Some(b"wire")).unwrap();
            socket.connect_timeout(&address(far, 80).into(), std::time::Duration::from_secs(5)).unwrap();
            socket
        });
        let (server, _) = listener.accept().unwrap();
        let flow = room.kernel.accepted().unwrap().flow(&server).unwrap().unwrap();
        assert_eq!(socket_address(flow.address, flow.port), address(far, 80));
        drop(client);
    }
    let packets = |text: &str| {
        let tx = text.split("\"tx\":").nth(1).unwrap();
        tx.split("\"packets\":").nth(1).unwrap().split(',').next().unwrap().to_owned()
    };
    assert_eq!(packets(&before), packets(&wire()));
}

#[test]
fn io_uring_connects_are_captured_also_from_a_kernel_thread() {
    let mut room = Room::new();
    room.mesh(&[(FAR, 80)]);
    let listeners = room.capture();
    for polled in [false, true] {
        let socket = room.as_pod(|| Socket::new(Domain::IPV4, Type::STREAM, None).unwrap());
        let destination = SockAddr::from(address(FAR, 80));
        let mut builder: io_uring::Builder = io_uring::IoUring::builder();
        if polled {
            builder.setup_sqpoll(1000);
        }
        let mut ring = room.as_pod(|| builder.build(8)).expect("this test needs a kernel with io_uring");
        let connect = io_uring::opcode::Connect::new(
            io_uring::types::Fd(std::os::fd::AsRawFd::as_raw_fd(&socket)),
            destination.as_ptr().cast(),
            destination.len(),
        )
        .build();
        // SAFETY: the address and the socket outlive the wait for the completion below.
        #[expect(unsafe_code, reason = "io_uring leaves it to its user that arguments live long enough")]
        unsafe { ring.submission().push(&connect) }.unwrap();
        ring.submit_and_wait(1).unwrap();
        let result = ring.completion().next().unwrap().result();
        assert_eq!(result, 0, "polled: {polled}");
        let (server, _) = listeners.v4.accept().unwrap();
        let flow = room.kernel.accepted().unwrap().flow(&server).unwrap().unwrap();
        assert_eq!(socket_address(flow.address, flow.port), address(FAR, 80), "polled: {polled}");
    }
}
