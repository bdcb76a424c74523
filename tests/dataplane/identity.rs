//! Certificates of running agents.

use std::time::Duration;

use lark_testbed::{Controller, Nginx, eventually};

use crate::house::House;

#[test]
fn without_a_ca_capture_is_pending_and_traffic_goes_on() {
    let mut house = House::new();
    house.controller.process.stop().unwrap();
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    house.mesh.capture(true).unwrap();
    eventually(Duration::from_secs(20), "capture is pending", || {
        let table = house.one.table(&["workloads"])?;
        Ok(table.contains("pending") && table.contains("cannot be reached"))
    })
    .unwrap();
    assert!(!house.one.lark(&["check"]).unwrap().status.success());
    house.curl(&format!("http://{}:8080/", house.server.ip));
    let nodes = [&house.nodes.0, &house.nodes.1];
    house.controller = Controller::start(&house.bed, &house.nodes.0, &nodes, &house.mesh).unwrap();
    house.one.wait_captured(2).unwrap();
    house.two.wait_captured(1).unwrap();
    house.curl(&format!("http://{}:8080/", house.server.ip));
    assert!(house.one.table(&["edges"]).unwrap().contains("√ mTLS"));
}

#[test]
fn an_agent_has_certificates_of_its_own_node_only_and_no_key_on_disk() {
    let house = House::captured();
    let certs = |agent: &lark_testbed::Agent| -> Vec<String> {
        let value = agent.json("certs").unwrap();
        value.as_array().unwrap().iter().map(|c| c["identity"].as_str().unwrap().to_owned()).collect()
    };
    let id = |account: &str| format!("spiffe://cluster.local/ns/shop/sa/{account}");
    assert_eq!(certs(&house.one), [id("client"), id("neighbour")]);
    assert_eq!(certs(&house.two), [id("server")]);
    let found = std::process::Command::new("grep")
        .args(["-rlE", "PRIVATE KEY"])
        .arg(house.bed.directory())
        .output()
        .unwrap();
    let found = String::from_utf8(found.stdout).unwrap();
    let expected = house.controller.home().join("ca.key");
    assert_eq!(found.trim(), expected.to_str().unwrap(), "only the CA's own key may be on disk");
}
