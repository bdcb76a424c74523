//! The second line of strict pods: what leaves one past its hooks is dropped on the host's end of its wire.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use lark_testbed::{Agent, Nginx, Place, Pod, Wire, eventually};

use crate::house::{House, fate};

/// Makes a socket, bound to a device if one is given, and hands it to whoever asks on a Unix socket.
const GIVES: &str = r"
import socket, sys
path, host, device = sys.argv[1], sys.argv[2], sys.argv[3:]
s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET)
if device: s.setsockopt(socket.SOL_SOCKET, 25, device[0].encode())  # SO_BINDTODEVICE
u = socket.socket(socket.AF_UNIX); u.bind(path); u.listen()
print('ready', flush=True)
socket.send_fds(u.accept()[0], [b'x'], [s.fileno()])
";

/// Is given a socket, says the canary by it, and says what became of that.
const TAKES: &str = r"
import socket, sys
u = socket.socket(socket.AF_UNIX); u.connect(sys.argv[1])
s = socket.socket(fileno=socket.recv_fds(u, 1, 1)[1][0])
s.settimeout(float(sys.argv[3]))
try:
    s.connect((sys.argv[2], 8080))
    s.sendall(b'GET /canary-of-lark HTTP/1.0\r\n\r\n')
    print('bytes' if s.recv(1) else 'end')
# Silence, or the end that its own side of it gets as older than strict.
except (TimeoutError, ConnectionAbortedError): print('nothing')
";

/// Writes TCP by hand, a SYN and a later segment, both with the canary. Arguments: kind of socket, own address,
/// destination, the gateway's hardware address.
const FORGES: &str = r"
import socket, struct, sys
kind, own, to, gateway = sys.argv[1:5]
v6 = ':' in to
family = socket.AF_INET6 if v6 else socket.AF_INET
source, target = socket.inet_pton(family, own), socket.inet_pton(family, to)
def checksum(data):
    if len(data) % 2: data += b'\0'
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
def packet(flags):
    body = b'canary-of-lark'
    tcp = struct.pack('!HHIIBBHHH', 40000, 8080, 1, 1, 5 << 4, flags, 65535, 0, 0) + body
    pseudo = source + target + struct.pack('!II' if v6 else '!HH', *((len(tcp), 6) if v6 else (6, len(tcp))))
    tcp = tcp[:16] + struct.pack('!H', checksum(pseudo + tcp)) + tcp[18:]
    if v6: return struct.pack('!IHBB', 6 << 28, len(tcp), 6, 64) + source + target + tcp
    header = lambda sum: struct.pack('!BBHHHBBH', 0x45, 0, 20 + len(tcp), 7, 0, 64, 6, sum) + source + target
    return header(checksum(header(0))) + tcp
for flags in (0x02, 0x18):
    if kind == 'raw':
        s = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
        s.sendto(packet(flags), (to, 0))
    else:
        s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        s.sendto(packet(flags), ('eth0', 0x86dd if v6 else 0x0800, 0, 0, bytes.fromhex(gateway.replace(':', ''))))
";

struct Senders<'a> {
    house: &'a House,
    /// A cgroup that is no pod's.
    outside: PathBuf,
    made: u32,
}

impl Senders<'_> {
    /// By a socket that was made outside of the pod and passed in.
    fn passed(&mut self, pod: &Pod, to: IpAddr, device: Option<&str>, patience: &str) -> String {
        self.run(pod, to, device, TAKES, patience)
    }

    /// The same, used by another program.
    fn run(&mut self, pod: &Pod, to: IpAddr, device: Option<&str>, takes: &str, patience: &str) -> String {
        self.made += 1;
        let path = self.house.bed.directory().join(format!("passed-{}", self.made));
        let (path, to) = (path.to_str().unwrap(), to.to_string());
        let maker = Place { cgroup: self.outside.clone(), netns: pod.place.netns.clone() };
        let mut gives = maker.command("python3");
        gives.args(["-c", GIVES, path, &to]).args(device);
        let log = self.house.bed.directory().join(format!("gives-{}.log", self.made));
        let gives = maker.start(gives, &log).unwrap();
        eventually(Duration::from_secs(20), "the socket is made", || Ok(gives.log().contains("ready")))
            .unwrap();
        pod.place.run("python3", &["-c", takes, path, &to, patience]).unwrap().trim().to_owned()
    }

    fn forged(&self, kind: &str, pod: &Pod, to: IpAddr) {
        let own = if to.is_ipv6() { pod.ip6 } else { pod.ip };
        let gateway = "02:77:00:00:00:01";
        pod.place.run("python3", &["-c", FORGES, kind, &own.to_string(), &to.to_string(), gateway]).unwrap();
    }
}

#[test]
fn what_leaves_a_strict_pod_past_its_hooks_is_dropped_and_told_apart_and_not_on_the_wire() {
    let mut house = House::captured();
    let (client, neighbour, server) = (house.client.clone(), house.neighbour.clone(), house.server.clone());
    let plain = house.plain(false, "plain");
    let outside = house.host(true, "outside").cgroup;
    let _nginx = Nginx::start(&house.bed, &server).unwrap();
    let _plain = Nginx::start(&house.bed, &plain).unwrap();
    house.strict(&client);
    let mut senders = Senders { house: &house, outside, made: 0 };

    // Each of them reaches the wire from a pod that is permissive.
    let wire = Wire::listen(&house.bed).unwrap();
    assert_eq!(senders.passed(&neighbour, server.ip, None, "20"), "bytes");
    assert_eq!(senders.passed(&neighbour, server.ip, Some("eth0"), "20"), "bytes");
    let by_sockets = 2;
    for to in [server.ip, server.ip6] {
        for kind in ["raw", "packet"] {
            senders.forged(kind, &neighbour, to);
        }
    }
    let seen = wire.count("canary-of-lark").unwrap();
    assert!(seen >= by_sockets + 8, "{seen}");

    let wire = Wire::listen(&house.bed).unwrap();
    for to in [server.ip, server.ip6] {
        assert_eq!(senders.passed(&client, to, None, "0.3"), "nothing");
        assert_eq!(senders.passed(&client, to, Some("eth0"), "0.3"), "nothing");
        for kind in ["raw", "packet"] {
            senders.forged(kind, &client, to);
        }
    }
    // To a neighbour, which never is on the wire between the nodes.
    let near = Wire::of_pod(&house.bed, &neighbour).unwrap();
    senders.forged("packet", &client, neighbour.ip);
    senders.forged("raw", &client, neighbour.ip);
    // What the agent carries and dials goes on as before.
    for url in [format!("http://{}:8080/", server.ip), format!("http://{}:8080/", plain.ip)] {
        assert_eq!(house.curl(&url), "canary-of-lark\n");
    }
    assert_eq!(fate(&house.nodes.0.place, neighbour.ip, 9, None), "refused");
    assert_eq!(near.count("canary-of-lark").unwrap(), 0);
    // The one answer of the pod that is not captured, which is plaintext as ever.
    assert_eq!(wire.count("canary-of-lark").unwrap(), 1);

    let log = house.one.process.log();
    for (reason, least) in
        [("past_hook_socket", 2), ("past_hook_device", 2), ("past_hook_raw", 6), ("past_hook_packet", 6)]
    {
        let told = log.lines().any(|line| {
            ["src.workload=\"client\"", "dst.workload=\"server\"", &format!("reason=\"{reason}\"")]
                .iter()
                .all(|part| line.contains(part))
        });
        assert!(told, "{reason}\n{log}");
        let counted = house.one.kernel_counter(reason).unwrap();
        assert!(counted >= least, "{reason}: {counted}");
    }
    assert_eq!(house.one.kernel_counter("past_hook_forwarded").unwrap(), 0);
    assert!(house.one.table(&["edges"]).unwrap().contains("past_hook_packet"));
    let check = House::checks(&house.one);
    assert!(check.is_ok(), "{check:?}");
}

#[test]
fn what_a_strict_pod_forwards_for_a_network_of_its_own_is_dropped_and_told_apart() {
    let mut house = House::captured();
    let (client, server) = (house.client.clone(), house.server.clone());
    let nginx = Nginx::start(&house.bed, &server).unwrap();
    // A container inside the pod that has a network of its own, masqueraded to the pod's address.
    let inner = format!("{}-inner", house.bed.name());
    let own = client.place.netns.file_name().unwrap().to_str().unwrap().to_owned();
    let ip = |arguments: &[&str]| {
        assert!(
            std::process::Command::new("ip").args(arguments).status().unwrap().success(),
            "{arguments:?}"
        );
    };
    ip(&["netns", "add", &inner]);
    ip(&["-n", &own, "link", "add", "inner", "type", "veth", "peer", "name", "eth0", "netns", &inner]);
    ip(&["-n", &own, "addr", "add", "10.200.0.1/24", "dev", "inner"]);
    ip(&["-n", &own, "link", "set", "inner", "up"]);
    ip(&["-n", &inner, "addr", "add", "10.200.0.2/24", "dev", "eth0"]);
    ip(&["-n", &inner, "link", "set", "eth0", "up"]);
    ip(&["-n", &inner, "route", "add", "default", "via", "10.200.0.1"]);
    client.place.run("sysctl", &["-qw", "net.ipv4.ip_forward=1"]).unwrap();
    let rules = "table ip inner { chain out { type nat hook postrouting priority srcnat; ip saddr 10.200.0.0/24 masquerade; }; }";
    client.place.run("nft", &[rules]).unwrap();
    let place =
        Place { cgroup: house.host(true, "inner").cgroup, netns: PathBuf::from("/run/netns").join(&inner) };
    let ask = |patience: &str, path: &str| {
        let url = format!("http://{}:8080/{path}", server.ip);
        place.output("curl", &["-sS", "--max-time", patience, &url]).unwrap().status.code()
    };
    assert_eq!(ask("20", ""), Some(0));
    house.strict(&client);
    let wire = Wire::listen(&house.bed).unwrap();
    // Silence: nobody is there to say no.
    assert_eq!(ask("1", "canary-of-lark"), Some(28));
    assert_eq!(wire.count("canary-of-lark").unwrap(), 0);
    assert!(!nginx.access_log().contains("canary"), "{}", nginx.access_log());
    assert!(house.one.kernel_counter("past_hook_forwarded").unwrap() >= 1);
    let log = house.one.process.log();
    let is_told = |line: &str| {
        ["reason=\"past_hook_forwarded\"", "src.workload=\"client\"", "dst.workload=\"server\""]
            .iter()
            .all(|part| line.contains(part))
    };
    assert!(log.lines().any(is_told), "{log}");
}

/// Dials with its first bytes in the SYN by a socket that was made elsewhere.
const FAST: &str = r"
import socket, sys
u = socket.socket(socket.AF_UNIX); u.connect(sys.argv[1])
s = socket.socket(fileno=socket.recv_fds(u, 1, 1)[1][0])
s.settimeout(float(sys.argv[3]))
try:
    s.sendto(b'GET /canary-of-lark HTTP/1.0\r\n\r\n', 0x20000000, (sys.argv[2], 8080))  # MSG_FASTOPEN
    print('bytes' if s.recv(1) else 'end', bool(s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[5] & 32))
except (TimeoutError, ConnectionAbortedError): print('nothing')
";

#[test]
fn fast_open_past_the_hooks_puts_no_byte_on_the_wire() {
    let mut house = House::captured();
    let (client, neighbour, server) = (house.client.clone(), house.neighbour.clone(), house.server.clone());
    let outside = house.host(true, "outside").cgroup;
    // Without cookies, so that the very first SYN has the data (ip-sysctl.rst, tcp_fastopen).
    for pod in [&client, &neighbour, &server] {
        pod.place.run("sysctl", &["-qw", "net.ipv4.tcp_fastopen=0x607"]).unwrap();
    }
    let _nginx = Nginx::start(&house.bed, &server).unwrap();
    house.strict(&client);
    let mut senders = Senders { house: &house, outside, made: 20 };
    let wire = Wire::listen(&house.bed).unwrap();
    assert_eq!(senders.run(&neighbour, server.ip, None, FAST, "20"), "bytes True");
    assert!(wire.count("canary-of-lark").unwrap() >= 1);
    let wire = Wire::listen(&house.bed).unwrap();
    assert_eq!(senders.run(&client, server.ip, None, FAST, "0.5"), "nothing");
    assert_eq!(wire.count("canary-of-lark").unwrap(), 0);
    assert!(house.one.kernel_counter("past_hook_socket").unwrap() >= 1);
    // The same socket of the pod's own goes into a tunnel, data and all.
    let wire = Wire::listen(&house.bed).unwrap();
    assert_eq!(house.curl(&format!("http://{}:8080/", server.ip)), "canary-of-lark\n");
    let own = "import socket, sys\n\
        s = socket.socket(); s.settimeout(20)\n\
        s.sendto(b'GET /canary-of-lark HTTP/1.0\\r\\n\\r\\n', 0x20000000, (sys.argv[1], 8080))\n\
        print('bytes' if s.recv(1) else 'end')\n";
    let said = client.place.run("python3", &["-c", own, &server.ip.to_string()]).unwrap();
    assert_eq!(said.trim(), "bytes", "{}", house.logs());
    assert_eq!(wire.count("canary-of-lark").unwrap(), 0);
}

/// What is attached for pods on an agent's node: pod, hook, number of the link.
fn links(agent: &Agent) -> Vec<(String, String, u64)> {
    let bpf = agent.json("bpf").unwrap();
    let link = |l: &serde_json::Value| {
        let text = |key: &str| l[key].as_str().unwrap().to_owned();
        (text("pod"), text("hook"), l["link_id"].as_u64().unwrap())
    };
    let mut links: Vec<_> = bpf["links"].as_array().unwrap().iter().map(link).collect();
    links.sort();
    links
}

#[test]
fn the_second_line_outlives_its_agent_is_taken_over_and_goes_with_its_pod() {
    let mut house = House::captured();
    let server = house.server.clone();
    let _nginx = Nginx::start(&house.bed, &server).unwrap();
    let node = house.nodes.0.clone();
    let late = house.bed.pod(&node, "late").unwrap();
    let before = links(&house.one);
    house.add(&late, &serde_json::json!({ "lark.mesh/mtls": "strict" }));
    house.clustered();
    house.one.wait_captured(3).unwrap();
    let strict = links(&house.one);
    let hooks = lark_bpf::hook::Hook::ALL.len();
    // Beside its hooks: the look-up hook, and the second line on the one interface.
    assert_eq!(strict.len(), before.len() + hooks + 2, "{strict:?}");
    assert_eq!(strict.iter().filter(|(_, hook, _)| hook.starts_with("tcx-")).count(), 1, "{strict:?}");

    let outside = house.host(true, "outside").cgroup;
    let wire = Wire::listen(&house.bed).unwrap();
    house.one.process.kill();
    let mut senders = Senders { house: &house, outside: outside.clone(), made: 0 };
    assert_eq!(senders.passed(&late, server.ip, None, "0.3"), "nothing");
    senders.forged("packet", &late, server.ip);
    house.one = Agent::start(&house.bed, &house.nodes.0, &house.controller, &house.mesh).unwrap();
    house.one.wait_captured(3).unwrap();
    assert_eq!(links(&house.one), strict, "not taken over");
    house.one.upgrade(&house.bed, &house.controller, &house.mesh).unwrap();
    house.one.wait_captured(3).unwrap();
    assert_eq!(links(&house.one), strict, "not taken over by the one that was upgraded to");
    let mut senders = Senders { house: &house, outside, made: 10 };
    assert_eq!(senders.passed(&late, server.ip, None, "0.3"), "nothing");
    senders.forged("raw", &late, server.ip);
    assert_eq!(wire.count("canary-of-lark").unwrap(), 0);
    assert!(house.one.kernel_counter("past_hook_socket").unwrap() >= 2);

    house.mesh.replace(std::slice::from_ref(&late), &[], "late").unwrap();
    house.bed.end(&node, &late).unwrap();
    eventually(Duration::from_secs(20), "nothing of the pod is left", || Ok(links(&house.one) == before))
        .unwrap_or_else(|e| panic!("{e:#}\n{:?}\n{}", links(&house.one), house.logs()));
}

/// The order of Kubernetes: what runs ends, and the API forgets the pod later.
#[test]
fn a_strict_pod_that_ends_before_it_is_unlisted_leaves_nothing() {
    let mut house = House::captured();
    let node = house.nodes.0.clone();
    let late = house.bed.pod(&node, "late").unwrap();
    let before = links(&house.one);
    house.add(&late, &serde_json::json!({ "lark.mesh/mtls": "strict" }));
    house.one.wait_captured(3).unwrap();
    assert!(links(&house.one).len() > before.len());

    house.bed.end(&node, &late).unwrap();
    // The look-up hook and the second line are on its network, which is watched until it is unlisted.
    let is_hook = |name: &str| lark_bpf::hook::Hook::ALL.iter().any(|hook| hook.name() == name);
    let hooks = |agent: &Agent| {
        links(agent).iter().filter(|(pod, hook, _)| pod.contains("late") && is_hook(hook)).count()
    };
    eventually(Duration::from_secs(20), "its hooks go with its cgroup", || Ok(hooks(&house.one) == 0))
        .unwrap_or_else(|e| panic!("{e:#}\n{:?}\n{}", links(&house.one), house.logs()));
    house.mesh.replace(std::slice::from_ref(&late), &[], "late").unwrap();
    eventually(Duration::from_secs(20), "nothing of the pod is left", || Ok(links(&house.one) == before))
        .unwrap_or_else(|e| panic!("{e:#}\n{:?}\n{}", links(&house.one), house.logs()));
}

#[test]
fn a_pod_whose_wire_has_no_end_on_the_host_is_named_by_check() {
    let mut house = House::captured();
    let client = house.client.clone();
    // A second interface whose other end is in a namespace of somebody else.
    let elsewhere = house.bed.pod(&house.nodes.1.clone(), "elsewhere").unwrap();
    let name = |place: &Place| place.netns.file_name().unwrap().to_str().unwrap().to_owned();
    let (own, other) = (name(&client.place), name(&elsewhere.place));
    let ip = |arguments: &[&str]| {
        assert!(
            std::process::Command::new("ip").args(arguments).status().unwrap().success(),
            "{arguments:?}"
        );
    };
    ip(&["-n", &own, "link", "add", "eth1", "type", "veth", "peer", "name", "away", "netns", &other]);
    ip(&["-n", &own, "link", "set", "eth1", "up"]);
    house.strict(&client);
    let check = house.one.lark(&["check"]).unwrap();
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    let line = said.lines().find(|line| line.contains("second line")).unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains("shop/client") && line.contains("eth1 (veth) has no end on this host"), "{line}");
    // The interface that has one is kept.
    ip(&["-n", &own, "link", "del", "eth1"]);
    eventually(Duration::from_secs(20), "nothing is missing any more", || {
        let check = house.one.lark(&["check"])?;
        Ok(!String::from_utf8_lossy(&check.stdout).contains("second line"))
    })
    .unwrap();
}
