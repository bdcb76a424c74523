//! `sameNode: direct`: two captured pods of one node that the kernel leaves to each other.

use std::time::Duration;

use lark_testbed::{Agent, Nginx, Pod, Record, Wire, eventually};
use serde_json::{Value, json};

use crate::house::House;
use crate::policy::{app, hold};

const CANARY: &str = "canary-of-lark";

/// Sends a canary and so many bytes more, reads to the end, and says how many each way and between whom.
const EXACT: &str = r"
import socket, sys
host, size = sys.argv[1], int(sys.argv[2])
s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET)
s.settimeout(20)
s.connect((host, 8080))
request = b'PUT /put/%d HTTP/1.0\r\nX: canary-of-lark\r\nContent-Length: %d\r\n\r\n' % (size, size) + b'x' * size
s.sendall(request)
received = 0
while True:
    part = s.recv(65536)
    if not part: break
    received += len(part)
print(len(request), received, s.getpeername()[0], s.getsockname()[0])
";

impl House {
    /// Everything runs and is captured, and pods of one node are left to each other.
    fn direct() -> Self {
        let mut house = Self::new();
        house.mesh.change(|document| document["mesh"]["sameNode"] = json!("direct")).unwrap();
        house.capture();
        house.verdicts(4);
        house
    }

    /// Waits until the kernel has so many verdicts.
    fn verdicts(&self, count: u64) {
        let has = |bpf: &Value| {
            let maps = bpf["maps"].as_array().into_iter().flatten();
            maps.filter(|m| m["name"] == "DIRECT").any(|m| m["entries"] == count)
        };
        eventually(Duration::from_secs(20), "the verdicts are there", || Ok(has(&self.one.json("bpf")?)))
            .unwrap_or_else(|e| panic!("{e:#}\n{}\n{}", self.one.table(&["bpf"]).unwrap(), self.logs()));
    }

    /// Waits until the kernel has recorded so many direct connections.
    fn recorded(&self, count: u64) {
        let has = |bpf: &Value| {
            let maps = bpf["maps"].as_array().into_iter().flatten();
            maps.filter(|m| m["name"] == "DIRECT_PASSES").any(|m| m["entries"] == count)
        };
        eventually(Duration::from_secs(20), "as many are recorded", || Ok(has(&self.one.json("bpf")?)))
            .unwrap_or_else(|e| panic!("{e:#}\n{}\n{}", self.one.table(&["bpf"]).unwrap(), self.logs()));
    }

    /// The edges of the first node that are secured so: connections, open ones, and bytes both ways.
    fn edges_of(&self, secured: &str) -> Vec<[u64; 4]> {
        let edges = self.one.json("edges").unwrap();
        let of = edges.as_array().into_iter().flatten().filter(|edge| edge["secured"] == secured);
        let number = |edge: &Value, key: &str| edge[key].as_u64().unwrap();
        of.map(|e| ["connections", "open", "sent_bytes", "received_bytes"].map(|key| number(e, key)))
            .collect()
    }

    fn ask(&self, from: &Pod, to: &str) -> String {
        let url = format!("http://{to}:8080/");
        let said = from.place.output("curl", &["-sS", "--max-time", "20", &url]).unwrap();
        String::from_utf8_lossy(&said.stdout).into_owned()
    }

    fn counted(&self) -> (u64, u64) {
        let of = |event| self.one.kernel_counter(event).unwrap();
        (of("direct"), of("redirected"))
    }
}

#[test]
fn what_policies_allow_goes_from_pod_to_pod_and_its_bytes_are_told_to_the_last() {
    let mut house = House::direct();
    let (client, neighbour) = (house.client.clone(), house.neighbour.clone());
    let _nginx = Nginx::start(&house.bed, &neighbour).unwrap();
    let wire = Wire::of_node(&house.bed, &house.nodes.0).unwrap();
    let (mut sent, mut received) = (0, 0);
    for (to, own) in [(neighbour.ip, client.ip), (neighbour.ip6, client.ip6)] {
        for size in ["0", "300000"] {
            let said = client.place.run("python3", &["-c", EXACT, &to.to_string(), size]);
            let said = said.unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
            let words: Vec<&str> = said.split_whitespace().collect();
            // Nothing is rewritten, so nobody is told another name.
            assert_eq!(words[2..], [to.to_string(), own.to_string()]);
            sent += words[0].parse::<u64>().unwrap();
            received += words[1].parse::<u64>().unwrap();
        }
    }
    assert!(wire.count(CANARY).unwrap() >= 4, "it is not in plaintext on the node's bridge");
    assert_eq!(house.counted(), (4, 0));
    eventually(Duration::from_secs(20), "all have ended", || {
        Ok(house.edges_of("direct") == [[4, 0, sent, received]])
    })
    .unwrap_or_else(|e| {
        panic!("{e:#}: {sent} {received}\n{}\n{}", house.one.table(&["edges"]).unwrap(), house.logs())
    });
    assert_eq!(house.edges_of("same_node"), [[0; 4]; 0]);
    let edges = house.one.table(&["edges"]).unwrap();
    assert!(edges.contains("~ direct") && edges.contains("neighbour.shop"), "{edges}");
    let log = house.one.process.log();
    assert_eq!(log.matches("secured=\"~ direct\"").count(), 4, "{log}");
    assert_eq!(log.matches("how=\"clean\"").count(), 4, "{log}");
    let metrics = format!("http://{}:15020/metrics", house.nodes.0.ip);
    let metrics = house.nodes.0.place.run("curl", &["-s", &metrics]).unwrap();
    let series = metrics
        .lines()
        .find(|line| line.starts_with("lark_proxy_sent_bytes_total") && line.contains("secured=\"direct\""));
    assert!(series.is_some_and(|line| line.ends_with(&format!(" {sent}"))), "{series:?}");
    // What the kernel measures is told, and no latency, which nobody has seen.
    let measured = |name: &str| {
        let of = |line: &&str| line.starts_with(&format!("{name}{{")) && line.contains("secured=\"direct\"");
        metrics.lines().find(of).and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
    };
    assert!(measured("lark_proxy_round_trip_seconds") > Some(0.0), "{metrics}");
    assert_eq!(measured("lark_proxy_retransmits_total"), Some(0.0), "{metrics}");
    assert!(!metrics.contains("lark_proxy_request_duration_seconds_count{"), "{metrics}");
    let trace = |to: String| house.one.table(&["trace", "--from", "shop/client", "--to", &to]).unwrap();
    let told = trace(format!("{}:8080", neighbour.ip));
    assert!(told.contains("direct") && told.contains("left") || told.contains("leaves it"), "{told}");

    // While it is open it is listed with what it has carried, and as no other plaintext.
    let held = hold(&house, &neighbour);
    eventually(Duration::from_secs(20), "it is listed", || {
        let all = house.one.json("connections")?;
        let all: Vec<&Value> = all.as_array().into_iter().flatten().collect();
        let is_it = |c: &&Value| {
            c["secured"] == "direct" && c["sent_bytes"] == 27 && c["received_bytes"].as_u64() > Some(100)
        };
        Ok(all.len() == 1 && all.iter().any(is_it))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{:#}", house.one.json("connections").unwrap()));
    drop(held);

    // The address of a Service is the agent's to resolve; so are its bytes.
    house.mesh.service("web", &["10.96.0.7"], 8080, 8080, &[&neighbour]).unwrap();
    eventually(Duration::from_secs(20), "it is reached", || {
        Ok(house.ask(&client, "10.96.0.7") == "canary-of-lark\n")
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    assert!(!house.edges_of("same_node").is_empty());
    assert!(house.counted().1 >= 1);
}

#[test]
fn what_policies_deny_is_refused_by_name_and_a_change_ends_what_is_open() {
    let mut house = House::direct();
    let (client, neighbour) = (house.client.clone(), house.neighbour.clone());
    house.labelled();
    let _nginx = Nginx::start(&house.bed, &neighbour).unwrap();
    let deny = |port: u16| {
        let rule = json!([{ "from": [{ "accounts": ["client"] }], "to": [{ "ports": [port] }] }]);
        json!({ "action": "DENY", "selector": app("neighbour"), "rules": rule })
    };
    // Of one port that is not this: the rest is direct.
    house.policies(&[], &[("not-9090", deny(9090))]);
    house.verdicts(6);
    let held = hold(&house, &neighbour);
    assert_eq!(house.counted(), (1, 0));

    house.policies(&[], &[("not-8080", deny(8080))]);
    eventually(Duration::from_secs(20), "the open one is ended", || Ok(held.log().contains("reset")))
        .unwrap_or_else(|e| panic!("{e:#}\n{}\n{}", held.log(), house.logs()));
    let log = house.one.process.log();
    let named = "AuthorizationPolicy shop/not-8080, rule 1";
    assert!(log.contains("policy changed: an open connection is ended") && log.contains(named), "{log}");
    eventually(Duration::from_secs(20), "it is told as denied", || {
        let log = house.one.process.log();
        let is_it = |line: &str| line.contains("how=\"denied\"") && line.contains("policy_denied");
        Ok(log.lines().any(is_it))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    house.verdicts(6);
    assert!(!house.reaches(&client, &neighbour));
    // The agent was asked, who says which policy it was.
    assert_eq!(house.counted(), (1, 1));
    let edges = house.one.json("edges").unwrap().to_string();
    assert!(edges.contains("policy_denied") && edges.contains(named), "{edges}");
    // The other way nothing denies it; nobody listens there.
    assert!(!house.reaches(&neighbour, &client));
    assert_eq!(house.counted().0, 2, "{}", house.logs());

    // What is closed at the source is closed as well, and open again once nothing closes it.
    let closed = json!({ "podSelector": app("client"), "policyTypes": ["Egress"] });
    house.policies(&[("closed", closed)], &[]);
    house.verdicts(2);
    assert!(!house.reaches(&client, &neighbour));
    house.policies(&[], &[]);
    house.verdicts(4);
    let direct = house.counted().0;
    assert!(house.reaches(&client, &neighbour));
    assert_eq!(house.counted().0, direct + 1);
    // And the setting goes back to what no interface sees.
    house.change(|document| document["mesh"]["sameNode"] = json!("agent"));
    house.verdicts(0);
    let wire = Wire::of_pod(&house.bed, &neighbour).unwrap();
    assert!(house.reaches(&client, &neighbour));
    assert_eq!(house.ask(&neighbour, "127.0.0.1"), "canary-of-lark\n");
    assert_eq!(wire.count(CANARY).unwrap(), 0);
}

#[test]
fn strict_pods_are_left_to_each_other_alone_and_to_nobody_when_their_agent_dies() {
    let mut record =
        Record::of("own agent killed while pods of its node talk directly (sameNode: direct)").unwrap();
    let mut house = House::direct();
    let (client, neighbour) = (house.client.clone(), house.neighbour.clone());
    let plain = house.plain(true, "plain");
    let nginx = Nginx::start(&house.bed, &neighbour).unwrap();
    house.strict(&client);
    house.strict(&neighbour);
    house.verdicts(4);
    let to = neighbour.ip.to_string();
    assert_eq!(house.ask(&client, &to), "canary-of-lark\n", "{}", house.logs());
    assert_eq!(house.ask(&client, &format!("[{}]", neighbour.ip6)), "canary-of-lark\n", "{}", house.logs());
    assert_eq!(house.counted(), (2, 0));
    assert!(house.one.kernel_counter("direct_passed").unwrap() >= 2);
    for event in ["past_hook_socket", "plaintext_refused", "direct_unconfirmed"] {
        assert_eq!(house.one.kernel_counter(event).unwrap(), 0, "{event}\n{}", house.logs());
    }
    // Nobody else passes for one of them.
    assert_eq!(crate::house::fate(&plain.place, neighbour.ip, 8080, None), "refused");
    House::checks(&house.one).unwrap();

    // An upgrade and a dead agent leave alone what is open; the next one lists it.
    let held = hold(&house, &neighbour);
    house.one.upgrade(&house.bed, &house.controller, &house.mesh).unwrap();
    house.one.wait_captured(2).unwrap();
    let is_listed = |agent: &Agent| {
        let all = agent.json("connections")?;
        Ok(all.as_array().into_iter().flatten().any(|c| c["secured"] == "direct"))
    };
    eventually(Duration::from_secs(20), "the new agent lists it", || is_listed(&house.one))
        .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    house.verdicts(4);
    house.one.process.kill();
    record.injected(1);
    eventually(Duration::from_secs(20), "nothing is left to them any more", || {
        let said =
            client.place.output("curl", &["-sS", "--max-time", "5", &format!("http://{to}:8080/dead")])?;
        Ok(said.status.code() == Some(7))
    })
    .unwrap();
    let wire = Wire::of_pod(&house.bed, &neighbour).unwrap();
    let before = nginx.access_log().matches("/dead").count();
    for _ in 0..5 {
        let said =
            client.place.output("curl", &["-sS", "--max-time", "5", &format!("http://{to}:8080/dead")]);
        assert_eq!(said.unwrap().status.code(), Some(7));
    }
    assert_eq!(nginx.access_log().matches("/dead").count(), before);
    assert_eq!(crate::house::fate(&plain.place, neighbour.ip, 8080, None), "refused");
    assert_eq!(wire.count(CANARY).unwrap(), 0);
    assert!(!held.log().contains("reset") && !held.log().contains("end"), "{}", held.log());
    house.one = Agent::start(&house.bed, &house.nodes.0, &house.controller, &house.mesh).unwrap();
    house.one.wait_captured(2).unwrap();
    house.verdicts(4);
    eventually(Duration::from_secs(20), "the next agent lists it", || is_listed(&house.one))
        .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    assert_eq!(house.ask(&client, &to), "canary-of-lark\n");
    assert!(!held.log().contains("reset") && !held.log().contains("end"), "{}", held.log());
    record
        .write("the open one went on; 6 of 6 new ones refused, canary 0 times on the wire; direct again, and listed, by the next agent")
        .unwrap();
}

#[test]
fn a_verdict_leads_nobody_to_the_next_owner_of_an_address() {
    let mut house = House::direct();
    let (client, neighbour, node) = (house.client.clone(), house.neighbour.clone(), house.nodes.0.clone());
    let nginx = Nginx::start(&house.bed, &neighbour).unwrap();
    assert_eq!(house.ask(&client, &neighbour.ip.to_string()), "canary-of-lark\n");
    assert_eq!(house.counted(), (1, 0));
    drop(nginx);
    let outsider = house.host(true, "outsider");
    // Discovery goes on saying that it is there. The agent finds out by itself, sooner or later than what follows:
    // that the kernel alone cuts off what still has a verdict is shown by a test of the kernel's part.
    house.bed.end(&node, &neighbour).unwrap();
    let next = house.bed.pod(&node, "next").unwrap();
    assert_eq!((next.ip, next.ip6), (neighbour.ip, neighbour.ip6));
    let nginx = Nginx::start(&house.bed, &next).unwrap();
    // What a CNI does by gratuitous ARP.
    client.place.run("ip", &["neigh", "flush", "all"]).unwrap();
    // Who is no pod of the mesh reaches it.
    let url = format!("http://{}:8080/", next.ip);
    assert_eq!(outsider.run("curl", &["-sS", "--max-time", "20", &url]).unwrap(), "canary-of-lark\n");
    let wire = Wire::of_pod(&house.bed, &next).unwrap();
    for to in [neighbour.ip, neighbour.ip6] {
        for _ in 0..3 {
            let said = client.place.output("python3", &["-c", EXACT, &to.to_string(), "0"]).unwrap();
            assert!(!said.status.success(), "{said:?}\n{}", house.logs());
        }
    }
    assert_eq!(wire.count(CANARY).unwrap(), 0, "{}", house.logs());
    assert!(!nginx.access_log().contains("/put/"), "{}", nginx.access_log());
    let fault = "an address changes hands while a verdict of sameNode: direct still names its former pod";
    Record::told(
        fault,
        6,
        "6 of 6 refused or cut off, canary 0 times in the pod that has the address now, which others reach",
    )
    .unwrap();
}

#[test]
fn what_was_open_before_an_agent_is_its_to_end_however_busy_the_node_and_nothing_stays_recorded() {
    let mut house = House::direct();
    let (client, neighbour) = (house.client.clone(), house.neighbour.clone());
    house.labelled();
    let _nginx = Nginx::start(&house.bed, &neighbour).unwrap();
    let held = hold(&house, &neighbour);
    house.recorded(1);
    // Killed; the next one meets a node where connections come and go all the time.
    house.one.process.kill();
    house.one = Agent::start(&house.bed, &house.nodes.0, &house.controller, &house.mesh).unwrap();
    house.verdicts(4);
    let mut busy = client.place.command("bash");
    let url = format!("http://{}:8080/", neighbour.ip);
    busy.args(["-c", &format!("while :; do curl -s --max-time 5 {url} >/dev/null; done")]);
    let busy = client.place.start(busy, &house.bed.directory().join("busy")).unwrap();
    eventually(Duration::from_secs(20), "they do", || Ok(house.counted().0 > 20)).unwrap();
    let rule = json!([{ "from": [{ "accounts": ["client"] }], "to": [{ "ports": [8080] }] }]);
    let deny = json!({ "action": "DENY", "selector": app("neighbour"), "rules": rule });
    eventually(Duration::from_secs(20), "the held one is listed", || {
        let all = house.one.json("connections")?;
        let is_it = |c: &&Value| c["secured"] == "direct" && c["age_seconds"].as_u64() > Some(0);
        Ok(all.as_array().into_iter().flatten().any(|c| is_it(&c)))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{:#}", house.one.json("connections").unwrap()));
    house.policies(&[], &[("not-8080", deny)]);
    eventually(Duration::from_secs(20), "the held one is ended", || Ok(held.log().contains("reset")))
        .unwrap_or_else(|e| panic!("{e:#}\n{}\n{}", held.log(), house.logs()));
    drop(busy);
    house.policies(&[], &[]);
    house.verdicts(4);

    // Nobody sees the end of one whose pod was let go while no agent ran.
    let held = hold(&house, &neighbour);
    house.recorded(1);
    house.one.process.kill();
    house.mesh.label(&client, "lark.mesh/capture", "disabled").unwrap();
    house.one = Agent::start(&house.bed, &house.nodes.0, &house.controller, &house.mesh).unwrap();
    house.recorded(0);
    assert!(!held.log().contains("reset"), "{}", held.log());
}
