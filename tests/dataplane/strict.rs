//! Strict pods: what reaches them and what does not, what they dial, probes, and what is older than strict.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::Duration;

use lark_testbed::{Agent, Controller, Nginx, Place, Pod, Record, Running, Wire, eventually};
use serde_json::{Value, json};

use crate::grpc;
use crate::house::House;
use crate::upgrade::{LOOP, echo, python};

/// Says a canary to whoever takes it, and what became of that. Arguments: address, port, protocol.
const CANARY: &str = r"
import socket, sys
host, port, protocol = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET, socket.SOCK_STREAM, protocol)
s.settimeout(30)
try:
    s.connect((host, port))
    s.sendall(b'GET /canary-of-lark HTTP/1.0\r\n\r\n')
    print('bytes' if s.recv(1) else 'end')
except ConnectionRefusedError: print('refused')
except ConnectionResetError: print('reset')
";
/// The same from a port of its own, which is free again at once, with a word of its own. Arguments: address, port,
/// own port, word.
const FROM_PORT: &str = r"
import socket, struct, sys
host, port, own, word = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
s.bind(('', own))
s.settimeout(30)
try:
    s.connect((host, port))
    s.sendall(b'GET /%s HTTP/1.0\r\n\r\n' % word.encode())
    print('bytes' if s.recv(1) else 'end')
except ConnectionRefusedError: print('refused')
";
/// Dials with its first bytes in the SYN. Arguments: address.
const FAST: &str = r"
import socket, sys
s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)
s.settimeout(30)
try:
    s.sendto(b'GET /?fast-open HTTP/1.0\r\n\r\n', 0x20000000, (sys.argv[1], 8080))  # MSG_FASTOPEN
    said = b''
    while part := s.recv(4096): said += part
    accepted = bool(s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[5] & 32)  # TCPI_OPT_SYN_DATA
    print('bytes' if said else 'end', accepted)
except ConnectionRefusedError: print('refused')
";
const MPTCP: &str = "262";
const RANGES: [&str; 2] = ["10.77.0.0/16", "fd77::/16"];

/// The same from a port of its own, which the next one may take at once.
fn from_port(from: &Place, to: IpAddr, own: &str, word: &str) -> String {
    let to = to.to_string();
    from.run("python3", &["-c", FROM_PORT, &to, "8080", own, word]).unwrap().trim().to_owned()
}

/// What becomes of a canary that is said from there; protocol 0 is TCP.
pub(crate) fn canary(from: &Place, to: IpAddr, port: u16, protocol: &str) -> String {
    let (to, port) = (to.to_string(), port.to_string());
    from.run("python3", &["-c", CANARY, &to, &port, protocol]).unwrap().trim().to_owned()
}

impl House {
    /// Makes one pod strict, and waits until its agent has done so.
    pub(crate) fn strict(&mut self, pod: &Pod) {
        let own = json!({ "lark.mesh/mtls": "strict" });
        self.marked(pod, &own, &json!({}));
        let agent = if pod.node == "one" { &self.one } else { &self.two };
        let said = format!("pod=\"shop/{}\" mtls=\"strict\"", pod.name);
        eventually(Duration::from_secs(20), "it takes no plaintext", || {
            Ok(agent.process.log().contains(&said))
        })
        .unwrap_or_else(|e| panic!("{e:#}\n{}", self.logs()));
    }

    /// Sets a pod's labels and annotations, in one change.
    pub(crate) fn marked(&mut self, pod: &Pod, labels: &Value, annotations: &Value) {
        self.mesh
            .change(|document| {
                for workload in document["workloads"].as_array_mut().into_iter().flatten() {
                    if workload["name"] == pod.name.as_str() {
                        workload["labels"] = labels.clone();
                        workload["annotations"] = annotations.clone();
                    }
                }
                document["mesh"]["clusterRanges"] = json!(RANGES);
            })
            .unwrap();
    }

    /// Says which addresses are the cluster's own.
    pub(crate) fn clustered(&mut self) {
        self.mesh.change(|document| document["mesh"]["clusterRanges"] = json!(RANGES)).unwrap();
    }

    /// A pod that is not captured, and discovery knows.
    pub(crate) fn plain(&mut self, on_one: bool, name: &str) -> Pod {
        let node = if on_one { self.nodes.0.clone() } else { self.nodes.1.clone() };
        let pod = self.bed.pod(&node, name).unwrap();
        self.add(&pod, &json!({ "lark.mesh/capture": "disabled" }));
        pod
    }

    /// Adds a pod with its labels, in one change.
    pub(crate) fn add(&mut self, pod: &Pod, labels: &Value) {
        let workload = json!({
            "namespace": "shop", "name": pod.name, "account": pod.name, "node": pod.node,
            "addresses": [pod.ip, pod.ip6], "labels": labels,
            "cgroup": pod.place.cgroup, "networkNamespace": pod.place.netns,
        });
        let add = |document: &mut Value| document["workloads"].as_array_mut().unwrap().push(workload);
        self.mesh.change(add).unwrap();
    }

    /// A process of a node itself, of no pod.
    pub(crate) fn host(&mut self, on_one: bool, name: &str) -> Place {
        let node = if on_one { self.nodes.0.clone() } else { self.nodes.1.clone() };
        self.bed.host_pod(&node, name).unwrap().place
    }
}

#[test]
fn each_way_round_strict_is_refused_and_told_apart_and_no_byte_of_it_is_on_the_wire() {
    let mut house = House::captured();
    let (client, server) = (house.client.clone(), house.server.clone());
    let far = house.plain(true, "far");
    let near = house.plain(false, "near");
    let (host, other) = (house.host(false, "host"), house.host(true, "other"));
    let nginx = Nginx::start(&house.bed, &server).unwrap();
    house.strict(&server);
    let wire = Wire::listen(&house.bed).unwrap();
    let inside = Wire::within_pod(&house.bed, &server).unwrap();
    // A socket of the captured pod's namespace that was made outside its cgroup.
    let past = Place { cgroup: near.place.cgroup.clone(), netns: client.place.netns.clone() };
    for to in [server.ip, server.ip6] {
        for from in [&far.place, &near.place, &host, &other, &past] {
            assert_eq!(canary(from, to, 8080, "0"), "refused", "{to} {from:?}");
        }
        assert_eq!(canary(&far.place, to, 8080, MPTCP), "refused");
        // Right after the captured pod's own connection, from its very address and port.
        for _ in 0..3 {
            let next = [(&client.place, "of-the-client"), (&past, "canary-of-lark")]
                .map(|(from, word)| from_port(from, to, "40404", word));
            assert_eq!(next, ["bytes", "refused"], "{to}\n{}", house.logs());
        }
    }
    // A listener of the agent's own on the pod's address.
    let listeners = server.place.run("ss", &["-Hltn"]).unwrap();
    let own = format!("{}:", server.ip);
    let listener = listeners.split_whitespace().find_map(|word| word.strip_prefix(&own)).unwrap();
    assert_eq!(canary(&far.place, server.ip, listener.parse().unwrap(), "0"), "refused");
    // Whoever is captured gets in, by both families, and the pod itself does.
    for to in [format!("{}", server.ip), format!("[{}]", server.ip6)] {
        let url = format!("http://{to}:8080/");
        assert_eq!(house.curl(&url), "canary-of-lark\n");
        assert_eq!(server.place.run("curl", &["-sS", "--max-time", "20", &url]).unwrap(), "canary-of-lark\n");
    }
    assert!(!nginx.access_log().contains("/canary-of-lark"), "{}", nginx.access_log());
    assert_eq!(wire.count("canary-of-lark").unwrap(), 0);
    let seen = inside.finish().unwrap();
    assert_eq!(lark_testbed::occurrences(&seen, "GET /canary-of-lark"), 0);
    assert!(lark_testbed::occurrences(&seen, "GET /of-the-client") >= 6, "it does not see what is delivered");

    let log = house.two.process.log();
    let ends = |source: &Pod| format!("src.workload=\"{}\"", source.name);
    for (reason, source) in [
        ("plaintext_uncaptured", Some(&far)),
        ("plaintext_uncaptured", Some(&near)),
        ("plaintext_past_hooks", Some(&client)),
        ("plaintext_host", None),
        ("listener_from_outside", Some(&far)),
    ] {
        let said = log.lines().any(|line| {
            line.contains(&format!("reason=\"{reason}\""))
                && line.contains("dst.workload=\"server\"")
                && source.is_none_or(|source| line.contains(&ends(source)))
        });
        assert!(said, "{reason} {source:?}\n{log}");
    }
    let edges = house.two.table(&["edges"]).unwrap();
    assert!(edges.contains("⊘") && edges.contains("plaintext_uncaptured"), "{edges}");
    let counted = house.two.kernel_counter("plaintext_refused").unwrap();
    assert!(counted >= 12, "{counted}");
    assert_eq!(house.two.kernel_counter("listener_refused").unwrap(), 1);
    let metrics = format!("http://{}:15020/metrics", house.nodes.1.ip);
    let metrics = house.nodes.1.place.run("curl", &["-s", &metrics]).unwrap();
    assert!(
        metrics.contains("reason=\"plaintext_past_hooks\"") && metrics.contains("reason=\"plaintext_host\"")
    );

    // A port may be exempt, and is nothing else's; and strict may end.
    let strict = json!({ "lark.mesh/mtls": "strict" });
    house.marked(&server, &strict, &json!({ "lark.mesh/mtls-ports": "8080=permissive" }));
    eventually(Duration::from_secs(20), "the port is exempt", || {
        Ok(canary(&far.place, server.ip, 8080, "0") == "bytes")
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    assert_eq!(canary(&far.place, server.ip, listener.parse().unwrap(), "0"), "refused");
    let workloads = house.two.table(&["workloads"]).unwrap();
    assert!(workloads.contains("strict, 8080=permissive"), "{workloads}");
}

#[test]
fn probes_pass_by_the_kubelets_cgroup_and_nobody_passes_for_them() {
    let mut house = House::with(&[]);
    let server = house.server.clone();
    let (kubelet, host) = (house.host(false, "kubelet"), house.host(false, "host"));
    let near = house.plain(false, "near");
    house.two.process.stop().unwrap();
    // Of several places the one that is there.
    let flag = format!("--kubelet-cgroup=no.slice/kubelet.service,{}", kubelet.cgroup.display());
    house.two =
        Agent::start_with(&house.bed, &house.nodes.1, &house.controller, &house.mesh, &[flag]).unwrap();
    house.capture();
    let _nginx = Nginx::start(&house.bed, &server).unwrap();
    house.strict(&server);
    // A node port, masqueraded as kube-proxy does it.
    let node = house.nodes.1.clone();
    let rules = format!(
        "table ip lark {{ chain in {{ type nat hook prerouting priority dstnat; ip daddr {} tcp dport 30080 dnat to {}:8080; }};\n\
         chain out {{ type nat hook postrouting priority srcnat; ip daddr {} tcp dport 8080 masquerade; }}; }}",
        node.ip, server.ip, server.ip
    );
    node.place.run("nft", &[&rules]).unwrap();
    grpc::serve(&server.place);
    for to in [server.ip, server.ip6] {
        // gRPC.
        assert_eq!(grpc::probe(&kubelet, to), Ok(1));
        for from in [&host, &near.place] {
            assert_eq!(grpc::probe(from, to), Err(ErrorKind::ConnectionRefused));
        }
        // Exec: a process of the pod, by its own address and by loopback.
        let loopback = if to.is_ipv6() { "::1".parse().unwrap() } else { "127.0.0.1".parse().unwrap() };
        for own in [to, loopback] {
            assert_eq!(canary(&server.place, own, 8080, "0"), "bytes");
            assert_eq!(grpc::probe(&server.place, own), Ok(1));
        }
        // HTTP, and TCP as far as its handshake.
        let url = if to.is_ipv6() { format!("http://[{to}]:8080/") } else { format!("http://{to}:8080/") };
        assert_eq!(kubelet.run("curl", &["-sS", "--max-time", "20", &url]).unwrap(), "canary-of-lark\n");
        assert_eq!(canary(&kubelet, to, 8080, "0"), "bytes");
        for from in [&host, &near.place] {
            assert_eq!(canary(from, to, 8080, "0"), "refused");
        }
    }
    assert_eq!(canary(&near.place, node.ip, 30080, "0"), "refused", "a node port passed for a probe");
    // Whoever has the kubelet's address and port right after it.
    let capture = || Wire::of_node(&house.bed, &node).unwrap();
    let (wire, words) = (capture(), ["of-the-kubelet", "of-another"]);
    for to in [server.ip, server.ip6] {
        for _ in 0..3 {
            let next = [(&kubelet, words[0]), (&host, words[1])]
                .map(|(place, word)| from_port(place, to, "40404", word));
            assert_eq!(next, ["bytes", "refused"], "{}", house.logs());
        }
    }
    let seen = wire.finish().unwrap();
    let [first, second] = words.map(|word| lark_testbed::occurrences(&seen, word));
    assert!(first >= 6 && second == 0, "{first} {second}");
    assert_eq!(house.two.kernel_counter("probe_passed").unwrap(), 12);
    let log = house.two.process.log();
    // The node's end of the pods' bridge, which discovery does not list.
    let bridge = |line: &str| {
        line.contains("reason=\"plaintext_host\"") && line.contains("is an address of this node's host")
    };
    assert!(log.lines().any(bridge) && !log.contains("reason=\"plaintext_outside\""), "{log}");
    House::checks(&house.two).unwrap();
}

#[test]
fn fast_open_into_a_strict_pod_is_neither_taken_nor_answered() {
    let mut house = House::captured();
    let server = house.server.clone();
    let (far, near) = (house.plain(true, "far"), house.plain(false, "near"));
    // Without cookies, so that the very first SYN has the data (ip-sysctl.rst, tcp_fastopen).
    for pod in [&far, &near, &server] {
        pod.place.run("sysctl", &["-qw", "net.ipv4.tcp_fastopen=0x607"]).unwrap();
    }
    let nginx = Nginx::start(&house.bed, &server).unwrap();
    let dial = |from: &Pod, to: IpAddr| {
        let said = from.place.run("python3", &["-c", FAST, &to.to_string()]);
        said.unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs())).trim().to_owned()
    };
    // While it is permissive the data of the SYN is taken, and the capture has the answer.
    let wire = Wire::within_pod(&house.bed, &server).unwrap();
    for to in [server.ip, server.ip6] {
        assert_eq!([&far, &near].map(|from| dial(from, to)), ["bytes True", "bytes True"]);
    }
    assert!(wire.count("canary-of-lark").unwrap() >= 4);
    let taken = nginx.access_log().matches("/?fast-open").count();
    assert_eq!(taken, 4, "{}", nginx.access_log());
    house.strict(&server);
    let dial = |from: &Pod, to: IpAddr| {
        let said = from.place.run("python3", &["-c", FAST, &to.to_string()]);
        said.unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs())).trim().to_owned()
    };
    let (wire, inside) = (Wire::listen(&house.bed).unwrap(), Wire::within_pod(&house.bed, &server).unwrap());
    for to in [server.ip, server.ip6] {
        assert_eq!([&far, &near].map(|from| dial(from, to)), ["refused", "refused"]);
    }
    // What the two put into their own SYNs is theirs; not a byte of the pod's answers it.
    for wire in [wire, inside] {
        assert_eq!(wire.count("canary-of-lark").unwrap(), 0);
    }
    assert_eq!(nginx.access_log().matches("/?fast-open").count(), taken, "{}", nginx.access_log());
    assert_eq!(house.two.kernel_counter("plaintext_refused").unwrap(), 4);
}

/// A connection that is held open; its log says how it ended.
fn held(house: &House, from: &Pod, to: IpAddr) -> Running {
    let script = "import socket, sys\n\
        s = socket.create_connection((sys.argv[1], 8080), 20)\n\
        s.sendall(b'GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'); s.recv(4096)\n\
        print('open', flush=True)\n\
        s.settimeout(None)\n\
        try: print('end', s.recv(4096), flush=True)\n\
        except ConnectionResetError: print('reset', flush=True)\n";
    let mut command = from.place.command("python3");
    command.args(["-c", script, &to.to_string()]);
    let log = house.bed.directory().join(format!("held-{}.log", from.name));
    let held: Running = from.place.start(command, &log).unwrap();
    eventually(Duration::from_secs(20), "it is open", || Ok(held.log().contains("open"))).unwrap();
    held
}

#[test]
fn what_is_older_than_strict_is_found_among_ten_thousand_others() {
    let mut house = House::captured();
    let server = house.server.clone();
    let far = house.plain(true, "far");
    let _nginx = Nginx::start(&house.bed, &server).unwrap();
    // The kernel lists IPv4 first.
    let many = "import resource, socket\n\
        resource.setrlimit(resource.RLIMIT_NOFILE, (20000, 20000))\n\
        l = socket.create_server(('127.0.0.1', 0), backlog=4096)\n\
        held = []\n\
        for _ in range(5100):\n\
        \x20   held.append(socket.create_connection(l.getsockname()))\n\
        \x20   held.append(l.accept()[0])\n\
        print('open', flush=True)\n\
        l.accept()\n";
    let mut command = server.place.command("python3");
    command.args(["-c", many]);
    let many: Running = server.place.start(command, &house.bed.directory().join("many.log")).unwrap();
    eventually(Duration::from_secs(60), "many are open", || Ok(many.log().contains("open"))).unwrap();
    let plain = held(&house, &far, server.ip6);
    let is_listed = || Ok(house.two.table(&["connections"])?.contains("✗ plaintext"));
    eventually(Duration::from_secs(20), "the plaintext one is listed", is_listed).unwrap();
    house.strict(&server);
    eventually(Duration::from_secs(20), "the plaintext one is ended", || Ok(plain.log().contains("reset")))
        .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
}

#[test]
fn what_is_older_than_strict_is_listed_and_ended_and_mtls_goes_on() {
    let mut house = House::captured();
    let (client, server) = (house.client.clone(), house.server.clone());
    let far = house.plain(true, "far");
    let _nginx = Nginx::start(&house.bed, &server).unwrap();
    let [plain, secured] = [&far, &client].map(|from| held(&house, from, server.ip));
    eventually(Duration::from_secs(20), "the plaintext one is listed", || {
        let connections = house.two.table(&["connections"])?;
        Ok(connections.lines().any(|line| line.contains("shop/far") && line.contains("plaintext")))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", house.two.table(&["connections"]).unwrap()));
    house.strict(&server);
    eventually(Duration::from_secs(20), "the plaintext one is ended", || Ok(plain.log().contains("reset")))
        .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    eventually(Duration::from_secs(20), "it is listed no more", || {
        Ok(!house.two.table(&["connections"])?.contains("✗ plaintext"))
    })
    .unwrap();
    let log = house.two.process.log();
    assert!(log.contains("older than strict: ended") && log.contains(&format!("peer={}:", far.ip)), "{log}");
    assert!(!secured.log().contains("reset") && !secured.log().contains("end"), "{}", secured.log());
}

#[test]
fn what_is_unknown_in_the_cluster_waits_and_is_refused() {
    let mut record =
        Record::of("a strict pod dials a destination of the cluster that discovery lacks").unwrap();
    let mut house = House::captured();
    let (client, server) = (house.client.clone(), house.server.clone());
    let node = house.nodes.1.clone();
    let unknown = house.bed.pod(&node, "unknown").unwrap();
    let plain = house.plain(false, "plain");
    let _servers = [&unknown, &plain, &server].map(|pod| Nginx::start(&house.bed, pod).unwrap());
    house.strict(&client);
    let wire = Wire::listen(&house.bed).unwrap();
    for to in [unknown.ip, unknown.ip6] {
        let fate = canary(&client.place, to, 8080, "0");
        assert_eq!(fate, "reset", "{}", house.logs());
        record.injected(1);
    }
    assert_eq!(house.one.kernel_counter("unknown_taken").unwrap(), 2);
    let log = house.one.process.log();
    assert_eq!(log.matches("reason=\"destination_unknown\"").count(), 2, "{log}");
    assert_eq!(canary(&client.place, server.ip, 8080, "0"), "bytes");
    assert_eq!(wire.count("canary-of-lark").unwrap(), 0);
    let trace = |to: IpAddr| {
        house.one.table(&["trace", "--from", "shop/client", "--to", &format!("{to}:8080")]).unwrap()
    };
    assert!(trace(unknown.ip).contains("destination_unknown"), "{}", trace(unknown.ip));
    // Whom discovery knows and nobody captures is dialled as ever: what a pod dials outside the mesh is not
    // strict's to forbid. So is the host of a node.
    assert_eq!(canary(&client.place, plain.ip, 8080, "0"), "bytes");
    assert!(trace(plain.ip).contains("passthrough"), "{}", trace(plain.ip));
    // Once discovery knows it, it is like any other.
    house.mesh.replace(&[], std::slice::from_ref(&unknown), "unknown").unwrap();
    house.two.wait_captured(2).unwrap();
    eventually(Duration::from_secs(20), "it is reached", || {
        Ok(canary(&client.place, unknown.ip, 8080, "0") == "bytes")
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    record
        .write("2 of 2 reset for destination_unknown, canary 0 times on the wire; mTLS once discovery has it")
        .unwrap();
}

#[test]
fn pods_of_a_dead_agent_stay_closed_in_both_directions() {
    let mut record = Record::of("own agent of strict pods killed").unwrap();
    let mut house = House::captured();
    let (client, server) = (house.client.clone(), house.server.clone());
    let far = house.plain(true, "far");
    let _near = Nginx::start(&house.bed, &client).unwrap();
    let _far = Nginx::start(&house.bed, &server).unwrap();
    house.strict(&client);
    assert_eq!(canary(&client.place, server.ip, 8080, "0"), "bytes");
    let wire = Wire::listen(&house.bed).unwrap();
    house.one.process.kill();
    record.injected(1);
    // Longer than the heartbeat is waited for.
    for _ in 0..15 {
        assert_eq!(canary(&client.place, server.ip, 8080, "0"), "refused");
        assert_eq!(canary(&far.place, client.ip, 8080, "0"), "refused");
        std::thread::sleep(Duration::from_millis(200));
    }
    house.one = Agent::start(&house.bed, &house.nodes.0, &house.controller, &house.mesh).unwrap();
    house.one.wait_captured(2).unwrap();
    let down = house.one.kernel_counter("agent_down_refused").unwrap();
    assert!(down > 0);
    assert_eq!(canary(&client.place, server.ip, 8080, "0"), "bytes");
    assert_eq!(canary(&far.place, client.ip, 8080, "0"), "refused");
    assert_eq!(wire.count("canary-of-lark").unwrap(), 0);
    record
        .write(format!(
            "30 of 30 refused, {down} of them counted for the dead agent, canary 0 times on the wire; mTLS again by the next agent"
        ))
        .unwrap();
}

#[test]
fn a_pod_without_a_certificate_is_closed_in_both_directions() {
    let mut record = Record::of("no SVID yet: the CA is away when a strict pod is to be captured").unwrap();
    let mut house = House::captured();
    let server = house.server.clone();
    let node = house.nodes.0.clone();
    let far = house.plain(false, "far");
    let late = house.bed.pod(&node, "late").unwrap();
    let _far = Nginx::start(&house.bed, &server).unwrap();
    let _late = Nginx::start(&house.bed, &late).unwrap();
    house.controller.process.stop().unwrap();
    let wire = Wire::listen(&house.bed).unwrap();
    house.add(&late, &json!({ "lark.mesh/mtls": "strict" }));
    record.injected(1);
    eventually(Duration::from_secs(20), "it is pending", || {
        Ok(house.one.table(&["workloads"])?.contains("pending"))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    for _ in 0..5 {
        assert_eq!(canary(&late.place, server.ip, 8080, "0"), "refused");
        assert_eq!(canary(&far.place, late.ip, 8080, "0"), "refused");
    }
    assert_eq!(house.one.kernel_counter("pending_refused").unwrap(), 5);
    assert!(House::checks(&house.one).is_err_and(|said| said.contains("a strict pod takes no plaintext")));
    assert_eq!(wire.count("canary-of-lark").unwrap(), 0);
    let nodes = [&house.nodes.0, &house.nodes.1];
    house.controller = Controller::start(&house.bed, &house.nodes.0, &nodes, &house.mesh).unwrap();
    house.one.wait_captured(3).unwrap();
    assert_eq!(canary(&late.place, server.ip, 8080, "0"), "bytes");
    assert_eq!(canary(&far.place, late.ip, 8080, "0"), "refused");
    record.write("pending; 10 of 10 refused, canary 0 times on the wire; mTLS once the CA was back").unwrap();
}

/// Says the canary to whoever takes it, again and again, until a file is there; counts what became of that.
const KNOCKS: &str = r"
import collections, os, socket, sys, time
seen = collections.Counter()
while not os.path.exists(sys.argv[2]):
    s = socket.socket(); s.settimeout(20)
    try:
        s.connect((sys.argv[1], 8080))
        s.sendall(b'GET /canary-of-lark HTTP/1.0\r\n\r\n')
        seen['bytes' if s.recv(1) else 'end'] += 1
    except ConnectionRefusedError: seen['refused'] += 1
    except OSError as error: seen[repr(error)] += 1
    s.close()
    time.sleep(0.002)
print(dict(seen), flush=True)
";

#[test]
fn no_kill_or_upgrade_of_its_agent_opens_a_strict_pod_and_an_upgrade_refuses_it_nothing() {
    let mut house = House::captured();
    let client = house.client.clone();
    let far = house.plain(true, "far");
    let nginx = Nginx::start(&house.bed, &client).unwrap();
    let _server = echo(&house);
    house.strict(&client);
    let (stop, enough) = (house.bed.directory().join("stop"), house.bed.directory().join("enough"));
    let mut knocks = far.place.command("python3");
    knocks.args(["-c", KNOCKS, &client.ip.to_string()]).arg(&stop);
    let mut knocks = far.place.start(knocks, &house.bed.directory().join("knocks.log")).unwrap();
    let to = house.server.ip.to_string();
    let mut secured = python(&house, "secured.log", LOOP, &[&to, enough.to_str().unwrap()]);
    for _ in 0..3 {
        house.one.upgrade(&house.bed, &house.controller, &house.mesh).unwrap();
    }
    std::fs::write(&enough, "").unwrap();
    eventually(Duration::from_secs(30), "the captured client ends", || Ok(!secured.is_running())).unwrap();
    let said = secured.log();
    assert!(said.contains("good") && !said.contains("bad"), "{said}\n{}", house.logs());
    assert_eq!(house.one.kernel_counter("pending_refused").unwrap(), 0);
    for _ in 0..2 {
        house.one.process.kill();
        house.one = Agent::start(&house.bed, &house.nodes.0, &house.controller, &house.mesh).unwrap();
        house.one.wait_captured(2).unwrap();
    }
    std::fs::write(&stop, "").unwrap();
    eventually(Duration::from_secs(30), "whoever knocks ends", || Ok(!knocks.is_running())).unwrap();
    let seen = knocks.log();
    let refused = seen.trim().strip_prefix("{'refused': ").and_then(|rest| rest.strip_suffix('}'));
    let refused: u64 = refused.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{seen}"));
    assert!(refused > 100, "{seen}");
    assert!(!nginx.access_log().contains("/canary-of-lark"), "{}", nginx.access_log());
}
