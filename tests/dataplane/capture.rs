//! Capture and release at run time.

use std::time::Duration;

use lark_testbed::{Nginx, Wire, eventually};

use crate::house::House;

/// A client that keeps one connection and asks over it again and again.
const KEEPALIVE: &str = r"
import http.client, sys, time
c = http.client.HTTPConnection(sys.argv[1], 8080, timeout=20)
while True:
    c.request('GET', '/')
    assert c.getresponse().read() == b'canary-of-lark\n'
    print('ok', flush=True)
    time.sleep(0.05)
";

#[test]
fn a_connection_older_than_the_capture_goes_on_and_is_listed_as_plaintext() {
    let mut house = House::new();
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let mut old = house.client.place.command("python3");
    old.args(["-c", KEEPALIVE, &house.server.ip.to_string()]);
    let mut old = house.client.place.start(old, &house.bed.directory().join("old.log")).unwrap();
    let answers = |r: &lark_testbed::Running| r.log().lines().filter(|l| *l == "ok").count();
    eventually(Duration::from_secs(20), "the old client runs", || Ok(answers(&old) > 3)).unwrap();
    house.capture();
    let before = answers(&old);
    eventually(Duration::from_secs(20), "the old client goes on", || Ok(answers(&old) > before + 5)).unwrap();
    assert!(old.is_running());
    for agent in [&house.one, &house.two] {
        let edges = agent.table(&["edges"]).unwrap();
        assert!(edges.contains("✗ plaintext"), "{edges}");
        assert!(!edges.contains('√'), "{edges}");
    }
    let connections = house.one.table(&["connections"]).unwrap();
    assert!(connections.contains("older than the capture"), "{connections}");

    // The next connection follows the capture, the one after a release does not.
    house.curl(&format!("http://{}:8080/", house.server.ip));
    assert!(house.one.table(&["edges"]).unwrap().contains("√ mTLS"));
    house.mesh.capture(false).unwrap();
    house.one.wait_captured(0).unwrap();
    house.two.wait_captured(0).unwrap();
    let wire = Wire::listen(&house.bed).unwrap();
    house.curl(&format!("http://{}:8080/?released", house.server.ip));
    assert!(wire.count("GET /?released").unwrap() > 0);
    assert!(old.is_running());
    eventually(Duration::from_secs(20), "pins are gone", || {
        Ok(house.one.json("bpf")?["links"].as_array().is_some_and(Vec::is_empty))
    })
    .unwrap();
}

#[test]
fn the_workloads_own_label_wins() {
    let mut house = House::new();
    house.mesh.label(&house.neighbour, "lark.mesh/capture", "disabled").unwrap();
    house.mesh.capture(true).unwrap();
    house.one.wait_captured(1).unwrap();
    let workloads = house.one.table(&["workloads"]).unwrap();
    assert!(workloads.contains("label lark.mesh/capture is disabled"), "{workloads}");
    // A captured pod reaches one that is not as it would without Lark.
    let _nginx = Nginx::start(&house.bed, &house.neighbour).unwrap();
    let who = house.curl(&format!("http://{}:8080/who", house.neighbour.ip));
    assert_eq!(who, format!("{} {}\n", house.client.ip, house.neighbour.ip));
}

#[test]
fn odd_sockets_are_captured_too() {
    let house = House::captured();
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let wire = Wire::listen(&house.bed).unwrap();
    let script = house.bed.directory().join("odd.py");
    std::fs::write(&script, ODD).unwrap();
    let said = house
        .client
        .place
        .run(
            "python3",
            &[
                script.to_str().unwrap(),
                &house.server.ip.to_string(),
                &house.server.ip6.to_string(),
                &house.client.ip.to_string(),
                &house.client.ip6.to_string(),
            ],
        )
        .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    assert_eq!(wire.count("canary-of-lark").unwrap(), 0, "{said}");
    let cases = said.lines().filter(|l| l.starts_with("ok ")).count();
    assert_eq!(cases, 9, "{said}");
}

/// Each case asks nginx who it sees, by another kind of socket.
const ODD: &str = r#"
import socket, sys, select, errno
s4, s6, c4, c6 = sys.argv[1:5]

def ask(s, name, seen, request=b'GET /who HTTP/1.0\r\n\r\ncanary-of-lark'):
    s.setblocking(True); s.settimeout(20)
    s.sendall(request)
    data = b''
    while True:
        part = s.recv(65536)
        if not part: break
        data += part
    who = data.decode().rsplit('\r\n\r\n')[1].split()[0]
    assert who == seen, (name, who, seen)
    print('ok', name, flush=True)

def tcp(family=socket.AF_INET, proto=0):
    return socket.socket(family, socket.SOCK_STREAM, proto)

s = tcp(); s.bind((c4, 0)); s.connect((s4, 8080)); assert s.getpeername() == (s4, 8080); ask(s, 'bound address', c4)
s = tcp(); s.bind(('', 45678)); s.connect((s4, 8080)); assert s.getsockname()[1] == 45678; ask(s, 'bound port', c4)
s = tcp(); s.setsockopt(socket.SOL_SOCKET, 25, b'eth0\0'); s.connect((s4, 8080)); ask(s, 'bound device', c4)
s = tcp(socket.AF_INET6); s.connect(('::ffff:' + s4, 8080)); assert s.getpeername()[0] == '::ffff:' + s4; ask(s, 'mapped', c4)
s = tcp(socket.AF_INET6); s.connect((s6, 8080)); assert s.getpeername()[0] == s6; ask(s, 'ipv6', c6)
s = tcp(); s.setblocking(False); assert s.connect_ex((s4, 8080)) == errno.EINPROGRESS; select.select([], [s], [], 20); ask(s, 'non-blocking', c4)
s = tcp(); s.sendto(b'GET /who HTTP/1.0\r\nX: canary-of-lark\r\n', 0x20000000, (s4, 8080)); ask(s, 'fast open', c4, b'\r\n')
s = tcp(proto=262); s.connect((s4, 8080)); ask(s, 'mptcp', c4)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.connect((s4, 53)); assert u.getpeername() == (s4, 53); print('ok udp untouched')
"#;
