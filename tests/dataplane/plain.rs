//! Whatever went in plaintext is said to be so, while it is open and after its end, and nothing of it is ever said to
//! be secured.

use std::time::Duration;

use lark_testbed::{Agent, Nginx, Pod, Running, Wire, eventually};
use serde_json::Value;

use crate::house::House;
use crate::requests::{scrape, sum};

/// Asks for a path over a connection of its own, and holds it until a file is there.
const HELD: &str = r"
import http.client, os, sys, time
c = http.client.HTTPConnection(sys.argv[1], 8080, timeout=20)
c.request('GET', '/' + sys.argv[2])
c.getresponse().read()
print('open', flush=True)
while not os.path.exists(sys.argv[3]): time.sleep(0.02)
";

/// A connection that has carried its canary in plaintext, and is open.
struct Held {
    process: Running,
    canary: &'static str,
    end: std::path::PathBuf,
}

impl House {
    fn held(&self, from: &Pod, to: &Pod, canary: &'static str) -> Held {
        let end = self.bed.directory().join(format!("end-{canary}"));
        let mut command = from.place.command("python3");
        command.args(["-c", HELD, &to.ip.to_string(), canary]).arg(&end);
        let log = self.bed.directory().join(format!("{canary}.log"));
        let process = from.place.start(command, &log).unwrap();
        eventually(Duration::from_secs(20), "it is open", || Ok(process.log().contains("open")))
            .unwrap_or_else(|e| panic!("{e:#}: {}\n{}", process.log(), self.logs()));
        Held { process, canary, end }
    }
}

impl Held {
    /// Lets it end in order.
    fn end(mut self) {
        std::fs::write(&self.end, "").unwrap();
        eventually(Duration::from_secs(20), "it has ended", || Ok(!self.process.is_running())).unwrap();
    }
}

/// What secures the edges of an agent between these two, with how many are open: whatever it is called.
fn edges(agent: &Agent, one: &str, other: &str) -> Vec<(String, u64, u64)> {
    let all = agent.json("edges").unwrap();
    let is = |party: &Value, name: &str| party["name"].as_str().is_some_and(|n| n.ends_with(name));
    let of = |edge: &&Value| {
        let (source, destination) = (&edge["source"], &edge["destination"]);
        is(source, one) && is(destination, other) || is(source, other) && is(destination, one)
    };
    let number = |value: &Value| value.as_u64().unwrap();
    let row = |edge: &Value| {
        (edge["secured"].as_str().unwrap().to_owned(), number(&edge["open"]), number(&edge["connections"]))
    };
    all.as_array().unwrap().iter().filter(of).map(row).collect()
}

fn plaintext(open: u64, connections: u64) -> Vec<(String, u64, u64)> {
    vec![("plaintext".to_owned(), open, connections)]
}

/// Waits until an agent tells this of the edges between two.
fn told(house: &House, agent: &Agent, between: (&str, &str), expected: &[(String, u64, u64)]) {
    let mut last = Vec::new();
    eventually(Duration::from_secs(20), "the edge is told", || {
        last = edges(agent, between.0, between.1);
        Ok(last == expected)
    })
    .unwrap_or_else(|e| {
        panic!("{e:#}: {between:?}: {last:?}, not {expected:?}\n{}", house.logs());
    });
}

#[test]
fn a_peer_that_is_not_captured_and_a_permissive_pod_are_plaintext_to_the_last_byte() {
    let mut house = House::new();
    let (far, away) = (house.plain(false, "far"), house.plain(true, "away"));
    house.capture();
    let _servers = [&house.server, &far].map(|pod| Nginx::start(&house.bed, pod).unwrap());
    let wire = Wire::listen(&house.bed).unwrap();
    // A captured pod dials one that is not, and the other way round: the captured one is permissive.
    let ends = [
        (&house.nodes.0, &house.one, "outbound", ("client", "far")),
        (&house.nodes.1, &house.two, "inbound", ("away", "server")),
    ];
    let out = house.held(&house.client, &far, "canary-out");
    let into = house.held(&away, &house.server, "canary-in");
    for (_, agent, direction, between) in ends {
        told(&house, agent, between, &plaintext(1, 1));
        let connections = agent.json("connections").unwrap();
        let all = connections.as_array().unwrap();
        assert_eq!(all.len(), 1, "{connections:#}");
        let one = &all[0];
        assert_eq!((&one["secured"], &one["direction"]), (&"plaintext".into(), &direction.into()), "{one:#}");
        assert_eq!(one["note"], "not_captured", "{one:#}");
        // Nobody has proved who he is.
        assert_eq!((&one["source"]["identity"], &one["destination"]["identity"]), (&"".into(), &"".into()));
        eventually(Duration::from_secs(20), "its bytes move while it is open", || {
            let now = agent.json("connections")?;
            Ok(now[0]["sent_bytes"].as_u64() > Some(50) && now[0]["round_trip_seconds"].as_f64() > Some(0.0))
        })
        .unwrap_or_else(|e| panic!("{e:#}: {:#}", agent.json("connections").unwrap()));
    }
    let seen = wire.finish().unwrap();
    for held in [out, into] {
        let text = format!("GET /{}", held.canary);
        assert!(lark_testbed::occurrences(&seen, &text) > 0, "{text} is not in plaintext on the wire");
        held.end();
    }
    for (node, agent, direction, between) in ends {
        told(&house, agent, between, &plaintext(0, 1));
        let log = agent.process.log();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(" access: ")).collect();
        assert!(lines.len() == 1 && lines[0].contains("secured=\"✗ plaintext\""), "{lines:?}");
        assert!(
            lines[0].contains("how=\"clean\"") && lines[0].contains("reason=\"not_captured\""),
            "{lines:?}"
        );
        let text = scrape(node);
        let opened = |secured| {
            let of = [("direction", direction), ("secured", secured)];
            sum(&text, "lark_proxy_connections_opened_total", &of)
        };
        assert_eq!((opened("plaintext"), opened("mtls"), opened("same_node")), (1, 0, 0), "{text}");
    }
}

#[test]
fn what_an_agent_found_open_or_missed_while_it_was_dead_is_plaintext_and_never_anything_else() {
    let mut house = House::new();
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let (client, server) = (house.client.clone(), house.server.clone());
    let between = ("client", "server");
    let wire = Wire::listen(&house.bed).unwrap();
    let older = house.held(&client, &server, "canary-older");
    house.capture();
    // It is found at both ends by looking at the kernel.
    for agent in [&house.one, &house.two] {
        told(&house, agent, between, &plaintext(1, 1));
    }
    house.one.process.kill();
    // Once its heartbeat is stale, connects are left alone.
    let url = format!("http://{}:8080/canary-dead", server.ip);
    eventually(Duration::from_secs(20), "connects are left alone", || {
        let said = client.place.output("curl", &["-sS", "--max-time", "5", &url])?;
        Ok(said.status.success())
    })
    .unwrap();
    let missed = house.held(&client, &server, "canary-missed");
    house.one = Agent::start(&house.bed, &house.nodes.0, &house.controller, &house.mesh).unwrap();
    house.one.wait_captured(2).unwrap();
    told(&house, &house.one, between, &plaintext(2, 2));
    let all = edges(&house.two, between.0, between.1);
    assert!(all.iter().all(|(secured, ..)| secured == "plaintext"), "{all:?}");
    let seen = wire.finish().unwrap();
    for canary in ["canary-older", "canary-dead", "canary-missed"] {
        assert!(
            lark_testbed::occurrences(&seen, &format!("GET /{canary}")) > 0,
            "{canary} is not in plaintext"
        );
    }
    // The new agent hears of the end of what the hooks have followed, and tells it as a whole.
    missed.end();
    eventually(Duration::from_secs(20), "its end is in the log", || {
        let log = house.one.process.log();
        let line =
            log.lines().find(|line| line.contains(" access: ") && line.contains("dst.workload=\"server\""));
        Ok(line.is_some_and(|line| {
            line.contains("secured=\"✗ plaintext\"") && line.contains("reason=\"not_taken\"")
        }))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    told(&house, &house.one, between, &plaintext(1, 2));
    // And what comes next is what a handshake proves, beside it.
    house.curl(&format!("http://{}:8080/", server.ip));
    eventually(Duration::from_secs(20), "the next one is secured", || {
        let mtls = ("mtls".to_owned(), 0, 1);
        Ok(edges(&house.one, between.0, between.1).contains(&mtls))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    older.end();
}
