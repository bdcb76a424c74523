//! One kind of socket a test: whatever a program does to it, its connection is captured, nothing of it is
//! on the wire, and the server sees the client's own address.

use lark_testbed::{Nginx, Wire};

use crate::house::House;

/// What all have in common. `ask` sends a request over a connected socket and compares whom nginx sees.
const PRELUDE: &str = r"
import array, ctypes, errno, os, select, socket, struct, sys
s4, s6, c4, c6, cgroup = sys.argv[1:]

def tcp(family=socket.AF_INET, protocol=0):
    s = socket.socket(family, socket.SOCK_STREAM, protocol)
    s.settimeout(20)
    return s

def ask(s, client, request=b'GET /who HTTP/1.0\r\nX: canary-of-lark\r\n\r\n'):
    s.settimeout(20)
    s.sendall(request)
    data = b''
    while True:
        part = s.recv(65536)
        if not part: break
        data += part
    who = data.decode().rsplit('\r\n\r\n', 1)[1].split()[0]
    assert who == client, (who, client)
    s.close()
";

/// Runs the script in the captured client pod, and counts what was redirected.
fn captured(connections: u64, script: &str) {
    let mut house = House::new();
    // Fast Open as client and as server, without cookies, on every listener made from here on
    // (Documentation/networking/ip-sysctl.rst, tcp_fastopen); it touches nobody who does not ask for it.
    house.client.place.run("sysctl", &["-qw", "net.ipv4.tcp_fastopen=0x607"]).unwrap();
    house.capture();
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let wire = Wire::listen(&house.bed).unwrap();
    let before = house.one.kernel_counter("redirected").unwrap();
    let script = format!("{PRELUDE}{script}");
    let addresses =
        [house.server.ip, house.server.ip6, house.client.ip, house.client.ip6].map(|ip| ip.to_string());
    let mut arguments = vec!["-c", &script];
    arguments.extend(addresses.iter().map(String::as_str));
    arguments.push(house.client.place.cgroup.to_str().unwrap());
    house.client.place.run("python3", &arguments).unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    assert_eq!(house.one.kernel_counter("redirected").unwrap() - before, connections);
    assert_eq!(wire.count("canary-of-lark").unwrap(), 0, "it was on the wire");
    let edges = house.two.json("edges").unwrap();
    let secured: Vec<&str> =
        edges.as_array().unwrap().iter().map(|edge| edge["secured"].as_str().unwrap()).collect();
    assert_eq!(secured, ["mtls"], "{edges:#}");
}

#[test]
fn bound_to_a_source_address() {
    captured(
        1,
        r"
s = tcp(); s.bind((c4, 0)); s.connect((s4, 8080))
assert s.getpeername() == (s4, 8080) and s.getsockname()[0] == c4
ask(s, c4)
",
    );
}

#[test]
fn bound_to_a_source_port() {
    captured(
        1,
        r"
s = tcp(); s.bind(('', 45678)); s.connect((s4, 8080))
assert s.getsockname() == (c4, 45678), s.getsockname()
ask(s, c4)
",
    );
}

#[test]
fn bound_to_a_device() {
    captured(
        2,
        r"
for family, server, client in (socket.AF_INET, s4, c4), (socket.AF_INET6, s6, c6):
    s = tcp(family); s.setsockopt(socket.SOL_SOCKET, 25, b'eth0\0'); s.connect((server, 8080))
    ask(s, client)
",
    );
}

#[test]
fn to_a_mapped_address() {
    captured(
        1,
        r"
s = tcp(socket.AF_INET6); s.connect(('::ffff:' + s4, 8080))
assert s.getpeername()[0] == '::ffff:' + s4 and s.getsockname()[0] == '::ffff:' + c4
ask(s, c4)
",
    );
}

#[test]
fn native_ipv6() {
    captured(
        1,
        r"
s = tcp(socket.AF_INET6); s.connect((s6, 8080))
assert s.getpeername()[0] == s6 and s.getsockname()[0] == c6
ask(s, c6)
",
    );
}

/// The request travels in the SYN itself, which the kernel's statistics of the connection prove
/// (TCPI_OPT_SYN_DATA). Bound to a device too, since a SYN that is pointed at loopback would leave there.
#[test]
fn fast_open_with_data() {
    captured(
        2,
        r"
for device in False, True:
    s = tcp()
    if device: s.setsockopt(socket.SOL_SOCKET, 25, b'eth0\0')
    s.sendto(b'GET /who HTTP/1.0\r\nX: canary-of-lark\r\n', 0x20000000, (s4, 8080))
    assert s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[5] & 32, 'the data was not in the SYN'
    ask(s, c4, b'\r\n')
",
    );
}

#[test]
fn non_blocking() {
    captured(
        1,
        r"
s = tcp(); s.setblocking(False)
assert s.connect_ex((s4, 8080)) == errno.EINPROGRESS
assert select.select([], [s], [], 20)[1] == [s] and s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
ask(s, c4)
",
    );
}

#[test]
fn multipath_tcp() {
    captured(
        1,
        r"
s = tcp(protocol=262); s.connect((s4, 8080))
ask(s, c4)
",
    );
}

/// Once from a destination outside the mesh, once from one inside.
#[test]
fn connected_again_after_af_unspec() {
    captured(
        3,
        r"
outside = tcp(); outside.bind(('127.0.0.1', 0)); outside.listen()
for first in outside.getsockname(), (s4, 8080):
    s = tcp(); s.connect(first)
    assert ctypes.CDLL(None).connect(s.fileno(), bytes(16), 16) == 0
    s.connect((s4, 8080))
    assert s.getpeername() == (s4, 8080)
    ask(s, c4)
",
    );
}

#[test]
fn in_a_child_cgroup_made_after_the_capture() {
    captured(
        1,
        r"
later = cgroup + '/later'
os.mkdir(later)
open(later + '/cgroup.procs', 'w').write(str(os.getpid()))
s = tcp(); s.connect((s4, 8080))
ask(s, c4)
",
    );
}

/// Nobody in the pod can talk to the agent but through a capture: its listeners refuse.
#[test]
fn to_the_agents_listener_is_refused() {
    captured(
        1,
        r"
listening = [l.split() for l in open('/proc/net/tcp').readlines()[1:]]
ports = [(socket.inet_ntoa(struct.pack('=I', int(l[1][:8], 16))), int(l[1][9:], 16)) for l in listening if l[3] == '0A']
assert len(ports) >= 2, ports
for address in ports:
    assert tcp().connect_ex(address) == errno.ECONNREFUSED, address
s = tcp(); s.connect((s4, 8080))
ask(s, c4)
",
    );
}
