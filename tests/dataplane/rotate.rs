//! The root is replaced under real traffic, with a controller that is killed in every phase.

use std::process::Stdio;
use std::time::Duration;

use lark_testbed::{Agent, Controller, Record, Running, eventually};

use crate::house::House;
use crate::upgrade::{LOOP, echo, python};

/// One connection that asks ten times a second until there is a file.
const LONG: &str = r"
import os, socket, sys, time
s = socket.create_connection((sys.argv[1], 7777), 20)
n = 0
while not os.path.exists(sys.argv[2]):
    s.sendall(b'%d\n' % n)
    assert s.recv(100) == b'%d\n' % n
    if n == 0: print('open', flush=True)
    n += 1
    time.sleep(0.1)
s.shutdown(socket.SHUT_WR)
assert s.recv(100) == b''
print('whole', flush=True)
";

fn phase(house: &House) -> String {
    let status = house.controller.ca_status();
    status.map(|status| status["phase"].as_str().unwrap_or_default().to_owned()).unwrap_or_default()
}

fn restart_controller(house: &mut House) {
    house.controller.process.kill();
    let nodes = [&house.nodes.0, &house.nodes.1];
    house.controller = Controller::start(&house.bed, &house.nodes.0, &nodes, &house.mesh).unwrap();
}

fn roots_of(house: &House, of: &str) -> Vec<String> {
    let status = house.controller.ca_status().unwrap();
    let nodes = status["nodes"].as_array().unwrap();
    let all = nodes.iter().flat_map(|node| node[of].as_array().unwrap());
    let mut all: Vec<String> = all.map(|root| root.as_str().unwrap().to_owned()).collect();
    all.sort();
    all.dedup();
    all
}

#[test]
fn a_root_is_replaced_under_load_by_a_controller_that_is_killed_in_every_phase() {
    let fault = "a root replaced under load, its controller killed in every phase";
    let mut record = Record::of(fault).unwrap();
    let mut house = House::captured();
    let _server = echo(&house);
    eventually(Duration::from_secs(20), "both agents follow", || {
        Ok(roots_of(&house, "svids").len() == 1
            && house.controller.ca_status()?["nodes"]
                .as_array()
                .is_some_and(|nodes| nodes.iter().all(|n| n["heard"].is_u64())))
    })
    .unwrap();
    let before = roots_of(&house, "roots");
    let (ip, stop) = (house.server.ip.to_string(), house.bed.directory().join("stop"));
    let arguments = [ip.as_str(), stop.to_str().unwrap()];
    let mut clients: Vec<Running> =
        (0..2).map(|n| python(&house, &format!("loop-{n}.log"), LOOP, &arguments)).collect();
    // Older than the rotation, and still there at its end.
    let long = python(&house, "long.log", LONG, &arguments);
    eventually(Duration::from_secs(20), "it is open", || Ok(long.log().contains("open"))).unwrap();

    let rotate = house.controller.ca(&["rotate", "--no-wait"]).stdout(Stdio::piped()).output().unwrap();
    assert!(rotate.status.success(), "{}", String::from_utf8_lossy(&rotate.stderr));
    let mut seen: Vec<String> = Vec::new();
    eventually(Duration::from_secs(120), "the rotation ends", || {
        let now = phase(&house);
        if seen.last() != Some(&now) && !now.is_empty() {
            seen.push(now.clone());
            restart_controller(&mut house);
            record.injected(1);
        }
        Ok(now == "steady")
    })
    .unwrap();
    for phase in ["settle", "steady"] {
        assert!(seen.iter().any(|s| s == phase), "{seen:?}");
    }
    eventually(Duration::from_secs(20), "both are heard again", || Ok(roots_of(&house, "svids").len() == 1))
        .unwrap();
    let after = roots_of(&house, "svids");
    assert_ne!(after, before);
    eventually(Duration::from_secs(20), "the old root is trusted by nobody", || {
        Ok(roots_of(&house, "roots") == after)
    })
    .unwrap();

    std::fs::write(&stop, "").unwrap();
    clients.push(long);
    eventually(Duration::from_secs(30), "the clients end", || {
        Ok(clients.iter_mut().all(|c| !c.is_running()))
    })
    .unwrap();
    let logs: String = clients.iter().map(Running::log).collect();
    assert!(!logs.contains("bad") && logs.contains("whole"), "{logs}\n{}", house.logs());
    let good: u64 = logs.lines().filter_map(|l| l.strip_prefix("good ")?.parse::<u64>().ok()).sum();
    assert!(good > 1_000, "the loop was not at full rate: {good}");
    let phases = seen.join(", ");
    record.write(format!("killed in {phases}; all of {good} connections and an old one whole")).unwrap();

    // An agent that starts anew goes by what it learned, not by the root that it began with.
    house.one.process.stop().unwrap();
    house.one = Agent::start(&house.bed, &house.nodes.0, &house.controller, &house.mesh).unwrap();
    house.one.wait_captured(2).unwrap();

    // One that knows the old root alone gets nothing, and says why.
    house.two.process.stop().unwrap();
    std::fs::remove_dir_all(house.bed.directory().join("agent-two/state")).unwrap();
    let two = &house.nodes.1;
    let command = Agent::command(&house.bed, two, &house.controller, &house.mesh).unwrap();
    house.two.process = two.place.start(command, &house.bed.directory().join("stale.log")).unwrap();
    eventually(Duration::from_secs(20), "the new root is refused", || {
        Ok(house.two.process.log().contains("is not accepted"))
    })
    .unwrap();
}
