//! Policies on real connections: of both kinds and directions, between nodes and on one node, and while
//! connections are open.

use std::time::Duration;

use lark_testbed::{Agent, Nginx, Pod, Running, Wire, eventually};
use serde_json::{Value, json};

use crate::house::House;
use crate::strict::canary;

fn manifest(kind: &str, name: &str, spec: Value) -> Value {
    let version = if kind == "NetworkPolicy" { "networking.k8s.io/v1" } else { "lark.mesh/v1alpha1" };
    json!({
        "apiVersion": version, "kind": kind,
        "metadata": { "namespace": "shop", "name": name }, "spec": spec,
    })
}

impl House {
    /// Makes these the policies of the mesh, and waits until both agents have them.
    pub(crate) fn policies(&mut self, network: &[(&str, Value)], authorization: &[(&str, Value)]) {
        let all = |kind: &str, policies: &[(&str, Value)]| {
            policies.iter().map(|(name, spec)| manifest(kind, name, spec.clone())).collect::<Vec<_>>()
        };
        let (network, authorization) =
            (all("NetworkPolicy", network), all("AuthorizationPolicy", authorization));
        self.change(|document| {
            document["networkPolicies"] = json!(network);
            document["authorizationPolicies"] = json!(authorization);
        });
    }

    /// One change of the discovery file, until both agents have it.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Value)) {
        let generation = |agent: &Agent| agent.json("status").map(|s| s["discovery_generation"].as_u64());
        let before = [generation(&self.one).unwrap(), generation(&self.two).unwrap()];
        self.mesh.change(change).unwrap();
        for (agent, before) in [(&self.one, before[0]), (&self.two, before[1])] {
            eventually(Duration::from_secs(20), "the agent has the policies", || {
                Ok(generation(agent)? > before)
            })
            .unwrap();
        }
    }

    /// Labels each pod with its name.
    pub(crate) fn labelled(&mut self) {
        self.change(|document| {
            for workload in document["workloads"].as_array_mut().into_iter().flatten() {
                workload["labels"]["app"] = workload["name"].clone();
            }
        });
    }

    pub(crate) fn reaches(&self, from: &Pod, to: &Pod) -> bool {
        let url = format!("http://{}:8080/", to.ip);
        let output = from.place.output("curl", &["-sS", "--max-time", "15", &url]).unwrap();
        if !output.status.success() {
            // Refused in time and before a byte, not timed out: curl hears the reset as it connects, sends (55) or
            // waits for the answer (56).
            assert!(matches!(output.status.code(), Some(7 | 52 | 55 | 56)), "{output:?}\n{}", self.logs());
            assert!(output.stdout.is_empty(), "{output:?}");
        }
        output.status.success()
    }
}

pub(crate) fn app(name: &str) -> Value {
    json!({ "matchLabels": { "app": name } })
}

#[test]
fn network_policy_holds_inside_the_tunnel_and_on_one_node_in_both_directions() {
    let mut house = House::captured();
    house.labelled();
    let (client, neighbour, server) = (house.client.clone(), house.neighbour.clone(), house.server.clone());
    let _far = Nginx::start(&house.bed, &server).unwrap();
    let _near = Nginx::start(&house.bed, &neighbour).unwrap();
    assert!(house.reaches(&client, &server) && house.reaches(&client, &neighbour));

    // Closed at the destination, whose agent says so.
    house.policies(&[("closed", json!({ "podSelector": {} }))], &[]);
    assert!(!house.reaches(&client, &server) && !house.reaches(&client, &neighbour));
    for agent in [&house.one, &house.two] {
        let log = agent.process.log();
        assert!(log.contains("ingress denied: no rule matched of NetworkPolicy shop/closed"), "{log}");
        assert!(
            agent.table(&["edges"]).unwrap().contains("policy_denied"),
            "{}",
            agent.table(&["edges"]).unwrap()
        );
    }

    // Opened for one, by its label; the port is the pod's own behind whatever Service.
    let rule = json!([{ "from": [{ "podSelector": app("client") }], "ports": [{ "port": 8080 }] }]);
    house.policies(
        &[("closed", json!({ "podSelector": {} })), ("some", json!({ "podSelector": {}, "ingress": rule }))],
        &[],
    );
    assert!(house.reaches(&client, &server) && house.reaches(&client, &neighbour));
    assert!(!house.reaches(&neighbour, &server));

    // Closed at the source: its agent dials nobody.
    let near_only = json!({
        "podSelector": app("client"), "policyTypes": ["Egress"],
        "egress": [{ "to": [{ "podSelector": app("neighbour") }] }],
    });
    house.policies(&[("near-only", near_only)], &[]);
    assert!(!house.reaches(&client, &server) && house.reaches(&client, &neighbour));
    let log = house.one.process.log();
    assert!(log.contains("egress denied: no rule matched of NetworkPolicy shop/near-only"), "{log}");
}

#[test]
fn authorization_goes_by_the_proved_identity_and_a_broken_policy_closes() {
    let mut house = House::captured();
    house.labelled();
    let (client, neighbour, server) = (house.client.clone(), house.neighbour.clone(), house.server.clone());
    let _far = Nginx::start(&house.bed, &server).unwrap();
    let allow = |rules: Value| json!({ "selector": app("server"), "rules": rules });
    let neighbour_only =
        json!([{ "from": [{ "identities": ["spiffe://cluster.local/ns/shop/sa/neighbour"] }] }]);

    house.policies(&[], &[("server", allow(neighbour_only.clone()))]);
    assert!(!house.reaches(&client, &server) && house.reaches(&neighbour, &server));
    let log = house.two.process.log();
    assert!(
        log.contains("authorization denied: no ALLOW matched of AuthorizationPolicy shop/server"),
        "{log}"
    );
    // The other end is told which policy it was, and says so too.
    let log = house.one.process.log();
    let said = "by what it says, authorization denied: no ALLOW matched of AuthorizationPolicy shop/server";
    assert!(log.contains("reason=\"policy_denied\"") && log.contains(said), "{log}");
    let explain = ["policy", "explain", "--from", "shop/client", "--to", "shop/server:8080"];
    let told = house.one.table(&explain).unwrap();
    assert!(
        told.contains("DENIED at node two: no ALLOW matched of AuthorizationPolicy shop/server"),
        "{told}"
    );
    let to = format!("{}:8080", server.ip);
    let told = house.one.table(&["trace", "--from", "shop/client", "--to", &to]).unwrap();
    assert!(told.contains("authorization denied") && told.contains("deny"), "{told}");
    assert!(told.contains("that was denied: policy_denied") && told.contains(said), "{told}");

    // A dry run denies nothing and is counted and said.
    let mut dry = allow(neighbour_only);
    dry["dryRun"] = json!(true);
    house.policies(&[], &[("server", dry)]);
    assert!(house.reaches(&client, &server));
    for (agent, direction) in [(&house.one, "outbound"), (&house.two, "inbound")] {
        let url = format!("http://{}:15020/metrics", agent.node.ip);
        let metrics = agent.node.place.run("curl", &["-s", &url]).unwrap();
        let series = format!("lark_policy_dry_run_denials_total{{direction=\"{direction}\"}} 1");
        assert!(metrics.contains(&series), "{metrics}");
        let log = agent.process.log();
        let line = log.lines().find(|line| line.contains("a dry run would deny this connection")).unwrap();
        assert!(line.contains("no ALLOW matched of AuthorizationPolicy shop/server"), "{line}");
    }

    // One that cannot be read closes what it selects, and check says which.
    house.policies(&[], &[("server", allow(json!([{ "form": [] }])))]);
    assert!(!house.reaches(&client, &server) && !house.reaches(&neighbour, &server));
    let check = house.two.lark(&["check"]).unwrap();
    assert!(!check.status.success());
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(
        said.contains("AuthorizationPolicy shop/server") && said.contains("unknown field `form`"),
        "{said}"
    );

    // Expected decisions, by the agent and by the file alone.
    let cases = house.bed.directory().join("cases.yaml");
    let by = "AuthorizationPolicy shop/server";
    let write = |expect: &str| {
        let case = json!([{ "from": "shop/client", "to": "shop/server:8080", "expect": expect, "by": by }]);
        std::fs::write(&cases, case.to_string()).unwrap();
    };
    let file = format!("file:{}", house.mesh.path().display());
    for (expect, code) in [("deny", 0), ("allow", 1)] {
        write(expect);
        let asked = house.one.lark(&["policy", "test", &cases.to_string_lossy()]).unwrap();
        assert_eq!(asked.status.code(), Some(code), "{}", String::from_utf8_lossy(&asked.stderr));
        let alone = std::process::Command::new(house.bed.lark().unwrap())
            .args(["policy", "test", &cases.to_string_lossy(), "--discovery", &file])
            .output()
            .unwrap();
        assert_eq!(alone.status.code(), Some(code), "{}", String::from_utf8_lossy(&alone.stderr));
    }
}

/// Connects until told otherwise, and says how each attempt ended.
const KNOCKING: &str = r"
import socket, sys, time
while True:
    s = socket.socket()
    s.settimeout(20)
    try:
        s.connect((sys.argv[1], 8080))
        s.sendall(b'GET / HTTP/1.0\r\n\r\n')
        print('served' if s.recv(4096) else 'end', flush=True)
    except ConnectionError: print('denied', flush=True)
    s.close()
    time.sleep(0.01)
";

#[test]
fn what_explain_says_holds_for_the_next_connection_within_a_moment_of_the_change() {
    let mut house = House::captured();
    house.labelled();
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let mut knocking = house.client.place.command("python3");
    knocking.args(["-c", KNOCKING, &house.server.ip.to_string()]);
    let log = house.bed.directory().join("knocking.log");
    let knocking = house.client.place.start(knocking, &log).unwrap();
    let count = |word: &str| knocking.log().lines().filter(|line| *line == word).count();
    eventually(Duration::from_secs(20), "it is served", || Ok(count("served") > 3)).unwrap();
    let deny = manifest("AuthorizationPolicy", "nobody", json!({ "action": "DENY", "rules": [{}] }));
    let explain = ["policy", "explain", "--from", "shop/client", "--to", "shop/server:8080"];
    let mut took = [(); 2].map(|()| Duration::MAX);
    let (closed, open) = ((json!([deny]), "denied", "served"), (json!([]), "served", "denied"));
    for (policies, word, others) in [closed.clone(), open.clone(), closed, open] {
        let (began, before) = (std::time::Instant::now(), count(word));
        house.mesh.change(|document| document["authorizationPolicies"] = policies).unwrap();
        eventually(Duration::from_secs(20), "a connection follows the change", || Ok(count(word) > before))
            .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
        println!("{word} {:?} after the change", began.elapsed());
        let took = &mut took[usize::from(word == "denied")];
        *took = began.elapsed().min(*took);
        // The agent that decides says so, and from then on decides so.
        let said = house.two.table(&explain).unwrap();
        assert_eq!(said.contains("DENIED"), word == "denied", "{said}");
        // One that was judged before this may still end after it.
        let (before, after) = (count(others), count(word));
        eventually(Duration::from_secs(20), "more of them", || Ok(count(word) > after + 10)).unwrap();
        assert!(count(others) <= before + 1, "{}", knocking.log());
    }
    // A busy machine may be late with one of the two that open or close; an agent that looks only now and then is
    // late with both.
    assert!(took.iter().all(|took| *took < Duration::from_secs(1)), "{took:?}");
    let log = house.two.process.log();
    assert!(log.contains("AuthorizationPolicy shop/nobody, rule 1"), "{log}");
}

#[test]
fn plaintext_passes_only_where_policy_lets_anybody_in() {
    let mut house = House::captured();
    house.labelled();
    let (client, server) = (house.client.clone(), house.server.clone());
    let far = house.plain(true, "far");
    let nginx = Nginx::start(&house.bed, &server).unwrap();
    assert_eq!(canary(&far.place, server.ip, 8080, "0"), "bytes");
    let open = hold_from(&house, &far, &server);
    let allow = |rules: Value| json!({ "selector": app("server"), "rules": rules });
    let client_only = json!([{ "from": [{ "accounts": ["client"] }] }]);

    // Whoever proves nothing is not let in, and what is open of his is ended.
    house.policies(&[], &[("server", allow(client_only))]);
    let taken = nginx.access_log().matches("canary-of-lark").count();
    let explain = ["policy", "explain", "--from", "shop/far", "--to", "shop/server:8080"];
    eventually(Duration::from_secs(20), "it is refused", || {
        Ok(canary(&far.place, server.ip, 8080, "0") == "refused")
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    eventually(Duration::from_secs(20), "the open one is ended", || Ok(open.log().contains("reset")))
        .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    let wire = Wire::within_pod(&house.bed, &server).unwrap();
    let before = nginx.access_log().matches("canary-of-lark").count();
    assert!(before <= taken + 1, "{}", nginx.access_log());
    for to in [server.ip, server.ip6] {
        assert_eq!(canary(&far.place, to, 8080, "0"), "refused");
    }
    assert_eq!(wire.count("GET /canary-of-lark").unwrap(), 0);
    assert!(house.reaches(&client, &server));
    let log = house.two.process.log();
    let is_told = |line: &str| line.contains("reason=\"plaintext_uncaptured\"") && line.contains("shop/far");
    assert!(log.lines().any(is_told), "{log}");
    let told = house.two.table(&explain).unwrap();
    assert!(told.contains("DENIED") && told.contains("does not let everybody in"), "{told}");
    let workloads = house.two.table(&["workloads"]).unwrap();
    assert!(workloads.contains("permissive; by policy strict"), "{workloads}");
    House::checks(&house.two).unwrap();

    // One port is for anybody, and a dry run closes nothing.
    let anybody = json!([{ "to": [{ "ports": [8080] }] }]);
    house.policies(&[], &[("server", allow(anybody))]);
    eventually(Duration::from_secs(20), "it is served again", || {
        Ok(canary(&far.place, server.ip, 8080, "0") == "bytes")
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    assert!(
        house.two.table(&["workloads"]).unwrap().contains("permissive; by policy strict, 8080=permissive")
    );
    let mut dry = allow(json!([]));
    dry["dryRun"] = json!(true);
    house.policies(&[], &[("server", dry)]);
    eventually(Duration::from_secs(20), "the other port is the pod's own again", || {
        let workloads = house.two.table(&["workloads"])?;
        Ok(!workloads.contains("by policy"))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    assert_eq!(canary(&far.place, server.ip, 8080, "0"), "bytes");
}

/// Asks once and waits for the end, whatever it is.
const HELD: &str = r"
import socket, sys
s = socket.create_connection((sys.argv[1], 8080), 20)
s.sendall(b'GET / HTTP/1.1\r\nHost: x\r\n\r\n')
s.recv(4096)
print('open', flush=True)
s.settimeout(None)
try: print('end', s.recv(4096), flush=True)
except ConnectionResetError: print('reset', flush=True)
";

pub(crate) fn hold(house: &House, to: &Pod) -> Running {
    hold_from(house, &house.client, to)
}

fn hold_from(house: &House, from: &Pod, to: &Pod) -> Running {
    let mut held = from.place.command("python3");
    held.args(["-c", HELD, &to.ip.to_string()]);
    let log = house.bed.directory().join(format!("held-{}-{}.log", from.name, to.name));
    let held = from.place.start(held, &log).unwrap();
    eventually(Duration::from_secs(20), "it is open", || Ok(held.log().contains("open"))).unwrap();
    held
}

#[test]
fn a_change_ends_what_it_does_not_allow_says_so_and_leaves_the_rest() {
    let mut house = House::captured();
    house.labelled();
    let (client, neighbour, server) = (house.client.clone(), house.neighbour.clone(), house.server.clone());
    let _far = Nginx::start(&house.bed, &server).unwrap();
    let _near = Nginx::start(&house.bed, &neighbour).unwrap();
    let deny = |selector: &str| {
        let from = json!([{ "from": [{ "accounts": ["client"] }] }]);
        json!({ "action": "DENY", "selector": app(selector), "rules": from })
    };

    // Where the mesh says so, what is open stays.
    house.change(|document| document["mesh"]["policyChange"] = json!("keep"));
    let kept = hold(&house, &server);
    house.policies(&[], &[("no-client", deny("server"))]);
    assert!(!house.reaches(&client, &server));
    assert!(!kept.log().contains("reset"), "{}", house.logs());
    drop(kept);
    house.policies(&[], &[]);
    house.change(|document| document["mesh"]["policyChange"] = json!("end"));

    // Otherwise the destination's agent ends it, tunnel or not, and what is still allowed goes on.
    let (far, near) = (hold(&house, &server), hold(&house, &neighbour));
    house.policies(&[], &[("no-client", deny("server"))]);
    eventually(Duration::from_secs(20), "the client is told", || Ok(far.log().contains("reset")))
        .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    let log = house.two.process.log();
    assert!(log.contains("policy changed: an open connection is ended"), "{log}");
    assert!(log.contains("AuthorizationPolicy shop/no-client, rule 1") && log.contains("denied"), "{log}");
    let log = house.one.process.log();
    let line = log.lines().find(|line| line.contains("because of a change of policy")).unwrap();
    assert!(line.contains("how=\"denied\"") && line.contains("reason=\"policy_denied\""), "{line}");
    assert!(!near.log().contains("reset"));
    house.policies(&[], &[("no-client", deny("neighbour"))]);
    eventually(Duration::from_secs(20), "the client is told", || Ok(near.log().contains("reset")))
        .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));

    // And the source's agent ends what may not go out any more.
    house.policies(&[], &[]);
    let far = hold(&house, &server);
    house.policies(&[("alone", json!({ "podSelector": app("client"), "policyTypes": ["Egress"] }))], &[]);
    eventually(Duration::from_secs(20), "the client is told", || Ok(far.log().contains("reset")))
        .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    let log = house.one.process.log();
    assert!(log.contains("egress denied: no rule matched of NetworkPolicy shop/alone"), "{log}");
}
