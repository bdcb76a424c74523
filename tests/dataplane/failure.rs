//! Agents that are killed, maps that are full, discovery that is wrong, applications that do not answer.

use std::time::Duration;

use lark_abi::{Flow, Tuple};
use lark_core::constants::LABEL_CAPTURE;
use lark_testbed::{Agent, Controller, Load, Nginx, Place, Pod, Record, eventually};

use crate::house::{House, fate};

#[test]
fn a_killed_agent_leaves_permissive_pods_alone_and_the_next_one_takes_over() {
    let mut record = Record::of("own agent killed, agentDown: untouched").unwrap();
    let mut house = House::captured();
    let _echo = house.echo();
    let traffic = house.traffic(Load::default());
    let links = house.one.json("bpf").unwrap()["links"].clone();
    house.one.process.kill();
    record.injected(1);
    // Within the two seconds of the heartbeat connects are refused, afterwards left alone: plaintext by
    // the mesh's setting, and counted.
    traffic.flows(50).unwrap();
    house.one = Agent::start(&house.bed, &house.nodes.0, &house.controller, &house.mesh).unwrap();
    house.one.wait_captured(2).unwrap();
    let left_alone = house.one.kernel_counter("agent_down_untouched").unwrap();
    assert!(left_alone > 0);
    let ids = |links: &serde_json::Value| {
        links.as_array().unwrap().iter().map(|l| l["link_id"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&links), ids(&house.one.json("bpf").unwrap()["links"]), "links were made anew");
    eventually(Duration::from_secs(15), "the new agent carries connections", || {
        Ok(house.one.table(&["edges"])?.contains("√ mTLS"))
    })
    .unwrap();
    House::checks(&house.one).unwrap();
    let seen = traffic.finish().unwrap();
    // The two that stay open, and perhaps the short one that was under way.
    assert!(matches!(seen.lost, 2 | 3) && seen.refused > 0 && seen.stalled == 0, "{seen:?}");
    record.traffic(seen);
    record
        .write(format!(
            "{} refused, then {left_alone} left alone and counted; mTLS again by the next agent, same links",
            seen.refused
        ))
        .unwrap();
}

/// A house whose mesh refuses without an agent, nginx in pod server, and its address, which answers.
fn refusing_house() -> (House, Nginx, String) {
    let mut house = House::captured();
    let nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let url = format!("http://{}:8080/", house.server.ip);
    house.mesh.change(|document| document["mesh"]["agentDown"] = "refuse".into()).unwrap();
    let generation = || Ok(house.one.json("status")?["discovery_generation"].as_u64() >= Some(3));
    eventually(Duration::from_secs(20), "the agent has read it", generation).unwrap();
    house.curl(&url);
    (house, nginx, url)
}

/// Asks, and is refused.
fn is_refused(pod: &Pod, url: &str) {
    let output = pod.place.output("curl", &["-sS", "--max-time", "15", url]).unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn where_the_mesh_says_so_pods_of_a_dead_agent_are_refused_and_nothing_is_on_the_wire() {
    let mut record = Record::of("own agent killed, agentDown: refuse").unwrap();
    let (mut house, _nginx, url) = refusing_house();
    let wire = lark_testbed::Wire::listen(&house.bed).unwrap();
    house.one.process.kill();
    record.injected(1);
    // Longer than the heartbeat is waited for.
    for _ in 0..20 {
        is_refused(&house.client, &url);
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(wire.count("canary-of-lark").unwrap(), 0);
    house.one = Agent::start(&house.bed, &house.nodes.0, &house.controller, &house.mesh).unwrap();
    house.one.wait_captured(2).unwrap();
    let refused = house.one.kernel_counter("agent_down_refused").unwrap();
    assert!(refused > 0);
    house.curl(&url);
    record
        .write(format!(
            "20 of 20 refused, {refused} of them counted for the dead agent, canary 0 times on the wire"
        ))
        .unwrap();
}

#[test]
fn where_the_mesh_says_so_pods_stay_refused_until_the_next_agent_has_captured_them() {
    let mut record =
        Record::of("own agent killed and started again without a CA, agentDown: refuse").unwrap();
    let (mut house, _nginx, url) = refusing_house();
    let wire = lark_testbed::Wire::listen(&house.bed).unwrap();
    house.one.process.kill();
    house.controller.process.kill();
    house.one = Agent::start_pending(&house.bed, &house.nodes.0, &house.controller, &house.mesh).unwrap();
    record.injected(1);
    for _ in 0..10 {
        is_refused(&house.client, &url);
        is_refused(&house.neighbour, &url);
        std::thread::sleep(Duration::from_millis(100));
    }
    let of_both = house.one.json("bpf").unwrap()["links"].as_array().unwrap().len();
    let counted = house.one.kernel_counter("agent_down_refused").unwrap();
    assert!(counted >= 20, "{counted}");
    // Whoever is taken out meanwhile is left alone, as one that was never captured.
    house.mesh.label(&house.neighbour, LABEL_CAPTURE, "disabled").unwrap();
    let links = || anyhow::Ok(house.one.json("bpf")?["links"].as_array().map_or(0, Vec::len));
    eventually(Duration::from_secs(20), "its hooks go", || Ok(2 * links()? == of_both))
        .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    let nodes = [&house.nodes.0, &house.nodes.1];
    house.controller = Controller::start(&house.bed, &house.nodes.0, &nodes, &house.mesh).unwrap();
    house.one.wait_captured(1).unwrap();
    house.curl(&url);
    assert_eq!(wire.count("canary-of-lark").unwrap(), 0);
    house.neighbour.place.run("curl", &["-sSf", "--max-time", "15", &url]).unwrap();
    record
        .write(format!("20 of 20 refused, {counted} of them counted; canary 0 times on the wire; then mTLS"))
        .unwrap();
}

#[test]
fn what_a_killed_agent_carried_is_reset_and_never_a_clean_end() {
    let mut record = Record::of("an agent at either end killed while it carries a connection").unwrap();
    for first in [true, false] {
        let mut house = House::captured();
        let _echo = house.echo();
        let traffic = house.traffic(Load { long: 3, short: 0, ..Load::default() });
        if first {
            house.one.process.kill()
        } else {
            house.two.process.kill()
        }
        record.injected(1);
        eventually(Duration::from_secs(20), "the client is told", || Ok(traffic.seen()?.lost == 3)).unwrap();
        let seen = traffic.finish().unwrap();
        // A clean end before the whole answer would count as missing bytes.
        assert_eq!((seen.lost, seen.corrupted), (3, 0), "{seen:?}");
        record.traffic(seen);
    }
    record.write("all reset, none ended in order").unwrap();
}

/// Fills a pinned map of connections under way.
fn fill(
    house: &House,
    node: &lark_testbed::Node,
    map: &str,
) -> aya::maps::HashMap<aya::maps::MapData, Tuple, Flow> {
    let pin = house.bed.pins(node).join("maps").join(map);
    let data = aya::maps::MapData::from_pin(pin).unwrap();
    let mut filled = aya::maps::HashMap::try_from(aya::maps::Map::HashMap(data)).unwrap();
    for netns in 1.. {
        if filled.insert(Tuple { netns, ..Tuple::default() }, Flow::default(), 0).is_err() {
            break;
        }
    }
    filled
}

#[test]
fn a_full_map_is_a_reset_counted_and_said_and_never_a_wrong_address() {
    let mut record = Record::of("a map of connections under way full, at either end").unwrap();
    let house = House::captured();
    let nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let url = format!("http://{}:8080/who", house.server.ip);
    house.curl(&url);
    let said = "a map of connections under way is full";
    for (agent, map, counter) in
        [(&house.one, "FLOWS", "flows_full"), (&house.two, "DELIVERIES", "deliveries_full")]
    {
        let mut filled = fill(&house, &agent.node, map);
        for _ in 0..3 {
            let output = house.client.place.output("curl", &["-sS", "--max-time", "15", &url]).unwrap();
            assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
        record.injected(3);
        assert_eq!(agent.kernel_counter(counter).unwrap(), 3);
        eventually(Duration::from_secs(10), "the programs' message is in the log", || {
            Ok(agent.process.log().contains(said))
        })
        .unwrap_or_else(|e| panic!("{e:#}\n{}", agent.process.log()));
        let keys: Vec<Tuple> = filled.keys().map(Result::unwrap).collect();
        keys.iter().for_each(|key| filled.remove(key).unwrap());
        house.curl(&url);
    }
    let log = nginx.access_log();
    let client = house.client.ip.to_string();
    assert!(log.lines().filter(|l| l.contains("/who")).all(|l| l.starts_with(&client)), "{log}");
    record
        .write(
            "6 of 6 reset, counted as flows_full and deliveries_full, and said; every logged address right",
        )
        .unwrap();
}

/// The ports of the listeners on that address in a pod's namespace: an agent's, where no program listens.
fn listeners(house: &House, address: &str) -> Vec<u16> {
    let said = house.client.place.run("ss", &["-Htln"]).unwrap();
    let locals = said.lines().filter_map(|line| line.split_whitespace().nth(3));
    locals.filter_map(|local| local.strip_prefix(address)?.strip_prefix(':')?.parse().ok()).collect()
}

#[test]
fn a_connection_without_an_entry_is_reset_and_counted() {
    let mut record = Record::of("no entry: a listener of Lark dialled by hand").unwrap();
    let house = House::captured();
    let ports = listeners(&house, "127.0.0.1");
    assert!(!ports.is_empty());
    let loopback = "127.0.0.1".parse().unwrap();
    // The pod's own programs meet the hook; somebody in its namespace who is not of the pod does not.
    let outside = Place { netns: house.client.place.netns.clone(), ..house.bed.wire_place().unwrap() };
    for port in &ports {
        assert_eq!(fate(&house.client.place, loopback, *port, None), "refused");
        assert_eq!(fate(&outside, loopback, *port, None), "reset");
        record.injected(2);
    }
    let count = u64::try_from(ports.len()).unwrap();
    assert_eq!(house.one.kernel_counter("listener_dialled").unwrap(), count);
    let counted = house.one.process.log();
    assert_eq!(counted.matches("reason=no_original_destination").count(), ports.len(), "{counted}");
    record
        .write(format!(
            "{count} of {count} of the pod refused, {count} of {count} of others reset; all counted"
        ))
        .unwrap();
}

#[test]
fn a_family_without_a_listener_is_refused_and_counted() {
    let fault = "no listener for the family: a device-bound IPv6 socket of a pod without IPv6";
    let mut record = Record::of(fault).unwrap();
    let mut house = House::new();
    let ip = house.client.ip.to_string();
    house.mesh.change(|document| document["workloads"][0]["addresses"] = serde_json::json!([ip])).unwrap();
    house.capture();
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    for _ in 0..3 {
        assert_eq!(fate(&house.client.place, house.server.ip6, 8080, Some("eth0")), "refused");
        record.injected(1);
    }
    assert_eq!(house.one.kernel_counter("no_listener").unwrap(), 3);
    record.write("3 of 3 refused, counted as no_listener").unwrap();
}

#[test]
fn a_destination_that_discovery_lacks_is_left_alone_and_counted() {
    let mut record = Record::of("destination not in discovery yet").unwrap();
    let mut house = House::new();
    let server = [house.server.clone()];
    house.mesh.replace(&server, &[], "").unwrap();
    house.mesh.capture(true).unwrap();
    house.one.wait_captured(2).unwrap();
    house.two.wait_captured(0).unwrap();
    record.injected(1);
    let _echo = house.echo();
    let traffic = house.traffic(Load { long: 0, short: 2, ..Load::default() });
    let left_alone = house.one.kernel_counter("not_mesh").unwrap();
    assert!(left_alone > 0);
    assert_eq!(traffic.seen().unwrap().failed(), 0);
    house.mesh.replace(&[], &server, "server").unwrap();
    house.two.wait_captured(1).unwrap();
    eventually(Duration::from_secs(20), "new connections are secured", || {
        Ok(house.one.table(&["edges"])?.contains("√ mTLS"))
    })
    .unwrap();
    traffic.flows(10).unwrap();
    let seen = traffic.finish().unwrap();
    assert_eq!((seen.lost, seen.stalled), (0, 0), "{seen:?}");
    record.traffic(seen);
    record
        .write(format!(
            "{left_alone} left alone and counted as not_mesh, then mTLS; {} reset while only one of the nodes knew of it",
            seen.refused + seen.reset
        ))
        .unwrap();
}

#[test]
fn a_bad_discovery_file_keeps_the_last_good_state_and_is_said() {
    let mut record = Record::of("discovery file broken").unwrap();
    let house = House::captured();
    let _echo = house.echo();
    let traffic = house.traffic(Load::default());
    std::fs::write(house.mesh.path(), "mesh: {}\nnodes: 7\n").unwrap();
    record.injected(1);
    eventually(Duration::from_secs(20), "the agent says so", || {
        Ok(House::checks(&house.one).is_err_and(|said| said.contains("mesh.yaml:2:")))
    })
    .unwrap();
    traffic.flows(20).unwrap();
    assert!(house.one.table(&["edges"]).unwrap().contains("√ mTLS"));
    let seen = traffic.finish().unwrap();
    assert_eq!(seen.failed(), 0, "{seen:?}");
    record.traffic(seen);
    record.write("said as mesh.yaml:2; open and new connections as before").unwrap();
}

#[test]
fn nobody_listening_is_a_reset_with_its_reason_at_both_ends() {
    let mut record = Record::of("the dial fails at the far end").unwrap();
    let house = House::captured();
    for i in 0..10 {
        let address = if i % 2 == 0 { house.server.ip } else { house.server.ip6 };
        assert_eq!(fate(&house.client.place, address, 9999, None), "reset");
        record.injected(1);
    }
    for agent in [&house.one, &house.two] {
        let edges = agent.table(&["edges"]).unwrap();
        assert!(edges.contains("dial_refused"), "{edges}");
        let log = agent.process.log();
        assert!(log.lines().filter(|line| line.contains("dial_refused")).count() >= 10, "{log}");
        assert!(!log.contains("dial_timeout"), "{log}");
    }
    record.write("10 of 10 reset with zero bytes, by both families, dial_refused in both logs").unwrap();
}

/// Takes connections by both families and closes them at once.
const HANGS_UP: &str = r"
import socket, threading
def serve(host):
    s = socket.create_server((host, 7400), family=socket.AF_INET6 if ':' in host else socket.AF_INET)
    while True: s.accept()[0].close()
for host in '0.0.0.0', '::': threading.Thread(target=serve, args=(host,)).start()
print('serves', flush=True)
";

/// Waits for the end, and goes on sending until it fails.
const TALKS_ON: &str = r"
import socket, sys, time
s = socket.create_connection((sys.argv[1], 7400), 20)
assert s.recv(1) == b''
end = time.monotonic() + 30
while time.monotonic() < end:
    try: s.send(b'x')
    except (ConnectionResetError, BrokenPipeError): print('told'); break
    time.sleep(0.02)
";

#[test]
fn whoever_sends_to_an_application_that_has_closed_is_told_by_both_families() {
    let house = House::captured();
    let mut server = house.server.place.command("python3");
    server.args(["-c", HANGS_UP]);
    let server = house.server.place.start(server, &house.bed.directory().join("server.log")).unwrap();
    eventually(Duration::from_secs(20), "it serves", || Ok(server.log().contains("serves"))).unwrap();
    for (address, counted) in [(house.server.ip, 0), (house.server.ip6, 1)] {
        let said = house.client.place.run("python3", &["-c", TALKS_ON, &address.to_string()]).unwrap();
        assert_eq!(said.trim(), "told", "{address}: {}", house.logs());
        // To ::1 the kernel's reset does not come, so a hook ends it.
        assert_eq!(house.two.kernel_counter("reset_lost").unwrap(), counted, "{address}");
    }
}
