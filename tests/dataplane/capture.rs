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
