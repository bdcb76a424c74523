//! Agents that die and come back, wires that fail, maps that are full.

use std::time::Duration;

use lark_abi::{Flow, Tuple};
use lark_testbed::{Agent, Nginx, eventually};

use crate::house::House;

#[test]
fn a_killed_agent_leaves_permissive_pods_alone_and_the_next_one_takes_over() {
    let mut house = House::captured();
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let url = format!("http://{}:8080/", house.server.ip);
    house.curl(&url);
    let links = house.one.json("bpf").unwrap()["links"].clone();
    house.one.process.kill();
    // Within the two seconds of the heartbeat connects are refused, afterwards left alone: plaintext by
    // the mesh's setting, and counted.
    eventually(Duration::from_secs(15), "connects are left alone", || {
        Ok(house.client.place.output("curl", &["-sf", "--max-time", "5", &url])?.status.success())
    })
    .unwrap();
    house.one = Agent::start(&house.bed, &house.nodes.0, &house.controller, &house.mesh).unwrap();
    house.one.wait_captured(2).unwrap();
    assert!(house.one.kernel_counter("agent_down_untouched").unwrap() > 0);
    let ids = |links: &serde_json::Value| {
        links.as_array().unwrap().iter().map(|l| l["link_id"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&links), ids(&house.one.json("bpf").unwrap()["links"]), "links were made anew");
    eventually(Duration::from_secs(15), "the new agent carries connections", || {
        house.curl(&url);
        Ok(house.one.table(&["edges"])?.contains("√ mTLS"))
    })
    .unwrap();
    let check = house.one.lark(&["check"]).unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
}

#[test]
fn a_dead_peer_is_a_reset_and_never_plaintext() {
    let mut house = House::captured();
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let url = format!("http://{}:8080/", house.server.ip);
    house.curl(&url);
    house.two.process.kill();
    let wire = lark_testbed::Wire::listen(&house.bed).unwrap();
    for _ in 0..3 {
        let output = house.client.place.output("curl", &["-sS", "--max-time", "15", &url]).unwrap();
        assert!(!output.status.success());
        // Reset after it was accepted, or so early that curl takes it for a refusal.
        assert!(matches!(output.status.code(), Some(7 | 52 | 56)), "{output:?}");
    }
    assert_eq!(wire.count("canary-of-lark").unwrap(), 0);
    let edges = house.one.table(&["edges"]).unwrap();
    assert!(edges.contains("⊘ denied"), "{edges}");
    house.two = Agent::start(&house.bed, &house.nodes.1, &house.controller, &house.mesh).unwrap();
    house.two.wait_captured(1).unwrap();
    eventually(Duration::from_secs(15), "it works again", || {
        Ok(house.client.place.output("curl", &["-sf", "--max-time", "5", &url])?.status.success())
    })
    .unwrap();
}

#[test]
fn nobody_listening_is_a_reset_with_its_reason_at_both_ends() {
    let house = House::captured();
    let url = format!("http://{}:9999/", house.server.ip);
    let output = house.client.place.output("curl", &["-sS", "--max-time", "15", &url]).unwrap();
    assert!(!output.status.success());
    for agent in [&house.one, &house.two] {
        let edges = agent.table(&["edges"]).unwrap();
        assert!(edges.contains("dial_refused"), "{edges}");
        assert!(agent.process.log().contains("dial_refused"));
    }
}

#[test]
fn a_bad_discovery_file_keeps_the_last_good_state_and_is_said() {
    let house = House::captured();
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    std::fs::write(house.mesh.path(), "mesh: {}\nnodes: 7\n").unwrap();
    eventually(Duration::from_secs(20), "the agent says so", || {
        let check = house.one.lark(&["check"])?;
        Ok(!check.status.success() && String::from_utf8_lossy(&check.stdout).contains("mesh.yaml:2:"))
    })
    .unwrap();
    house.curl(&format!("http://{}:8080/", house.server.ip));
    assert!(house.one.table(&["edges"]).unwrap().contains("√ mTLS"));
}

#[test]
fn a_node_that_vanishes_is_found_by_keepalive_and_its_connections_are_reset() {
    let house = House::captured();
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let mut held = house.client.place.command("python3");
    held.args(["-c", HELD, &house.server.ip.to_string()]);
    let held = house.client.place.start(held, &house.bed.directory().join("held.log")).unwrap();
    eventually(Duration::from_secs(20), "it is open", || Ok(held.log().contains("open"))).unwrap();
    let cut = lark_testbed::Fault::cut_off(&house.bed, &house.nodes.1).unwrap();
    eventually(Duration::from_secs(40), "the client is told", || Ok(held.log().contains("reset"))).unwrap();
    drop(cut);
    eventually(Duration::from_secs(40), "it works again", || {
        let url = format!("http://{}:8080/", house.server.ip);
        Ok(house.client.place.output("curl", &["-sf", "--max-time", "5", &url])?.status.success())
    })
    .unwrap();
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

#[test]
fn delay_and_reordering_lose_no_byte() {
    let house = House::captured();
    let nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let body: String = (0..400_000).map(|i| format!("{i} ")).collect();
    std::fs::write(nginx.files.join("body"), &body).unwrap();
    let (delay, jitter) = (Duration::from_millis(15), Duration::from_millis(5));
    let _late = lark_testbed::Fault::delay(&house.bed, &house.nodes.1, delay, jitter).unwrap();
    let url = format!("http://{}:8080/body", house.server.ip);
    assert_eq!(house.curl(&url).len(), body.len());
    assert!(house.curl(&url) == body);
}

#[test]
fn loss_and_a_slow_wire_lose_no_byte() {
    let house = House::captured();
    let nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let body: String = (0..400_000).map(|i| format!("{i} ")).collect();
    std::fs::write(nginx.files.join("body"), &body).unwrap();
    let _loss = lark_testbed::Fault::loss(&house.nodes.0, 3).unwrap();
    let _rate = lark_testbed::Fault::rate(&house.nodes.1, 200).unwrap();
    let got = house
        .client
        .place
        .run("curl", &["-sSf", "--max-time", "100", &format!("http://{}:8080/body", house.server.ip)])
        .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    assert!(got == body, "{} of {} bytes, or others", got.len(), body.len());
}

#[test]
fn what_a_killed_agent_carried_is_reset_and_never_a_clean_end() {
    for first in [true, false] {
        let mut house = House::captured();
        let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
        let mut held = house.client.place.command("python3");
        held.args(["-c", HELD, &house.server.ip.to_string()]);
        let held = house.client.place.start(held, &house.bed.directory().join("held.log")).unwrap();
        eventually(Duration::from_secs(20), "it is open", || Ok(held.log().contains("open"))).unwrap();
        if first {
            house.one.process.kill()
        } else {
            house.two.process.kill()
        }
        eventually(Duration::from_secs(20), "the client is told", || Ok(held.log().lines().count() > 1))
            .unwrap();
        assert!(held.log().contains("reset"), "{}", held.log());
    }
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
}

/// Stops one thread of a process, until this is killed: then it runs again. Arguments: process, thread's name.
const STOP_THREAD: &str = r"
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
pid, name = sys.argv[1:]
tids = [t for t in os.listdir(f'/proc/{pid}/task') if open(f'/proc/{pid}/task/{t}/comm').read().strip() == name]
assert len(tids) == 1, tids
libc.ptrace.argtypes = [ctypes.c_long] * 4
assert libc.ptrace(16, int(tids[0]), 0, 0) == 0, ctypes.get_errno()  # PTRACE_ATTACH
os.waitpid(int(tids[0]), 0x40000000)  # __WALL
print('stopped', flush=True)
time.sleep(600)
";

#[test]
fn a_stuck_worker_counts_as_a_dead_agent_and_is_said() {
    let house = House::captured();
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let url = format!("http://{}:8080/", house.server.ip);
    house.curl(&url);
    let mut stop = house.nodes.0.place.command("python3");
    stop.args(["-c", STOP_THREAD, &house.one.process.pid().to_string(), "lark-worker-0"]);
    let mut stop = house.nodes.0.place.start(stop, &house.bed.directory().join("stop.log")).unwrap();
    eventually(Duration::from_secs(20), "the thread is stopped", || Ok(stop.log().contains("stopped")))
        .unwrap_or_else(|e| panic!("{e:#}\n{}", stop.log()));
    eventually(Duration::from_secs(20), "connects are left alone", || {
        house.client.place.output("curl", &["-sf", "--max-time", "3", &url])?;
        Ok(house.one.kernel_counter("agent_down_untouched")? > 0)
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    let log = house.one.process.log();
    assert!(log.contains("does not turn runtime=\"worker-0\""), "{log}");
    stop.kill();
    eventually(Duration::from_secs(20), "it turns again", || {
        Ok(house.one.process.log().contains("turns again runtime=\"worker-0\""))
    })
    .unwrap();
    let before = house.one.kernel_counter("agent_down_untouched").unwrap();
    house.curl(&url);
    house.curl(&url);
    assert_eq!(house.one.kernel_counter("agent_down_untouched").unwrap(), before);
}

#[test]
fn where_the_mesh_says_so_pods_of_a_dead_agent_are_refused_and_nothing_is_on_the_wire() {
    let mut house = House::captured();
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let url = format!("http://{}:8080/", house.server.ip);
    house.mesh.change(|document| document["mesh"]["agentDown"] = "refuse".into()).unwrap();
    let generation = || Ok(house.one.json("status")?["discovery_generation"].as_u64() >= Some(3));
    eventually(Duration::from_secs(20), "the agent has read it", generation).unwrap();
    house.curl(&url);
    let wire = lark_testbed::Wire::listen(&house.bed).unwrap();
    house.one.process.kill();
    // Longer than the heartbeat is waited for.
    for _ in 0..20 {
        let output = house.client.place.output("curl", &["-sS", "--max-time", "15", &url]).unwrap();
        assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(wire.count("canary-of-lark").unwrap(), 0);
    house.one = Agent::start(&house.bed, &house.nodes.0, &house.controller, &house.mesh).unwrap();
    house.one.wait_captured(2).unwrap();
    assert!(house.one.kernel_counter("agent_down_refused").unwrap() > 0);
    house.curl(&url);
}
