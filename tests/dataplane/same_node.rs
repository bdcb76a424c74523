//! Two captured pods of one node, as the mesh's `sameNode` says.

use lark_testbed::{Nginx, Wire, eventually};
use serde_json::json;
use std::time::Duration;

use crate::house::House;

const CANARY: &str = "canary-of-lark";

#[test]
fn by_mtls_no_interface_of_the_node_carries_a_plain_byte() {
    let mut house = House::new();
    house.mesh.change(|document| document["mesh"]["sameNode"] = json!("mtls")).unwrap();
    let _nginx = Nginx::start(&house.bed, &house.neighbour).unwrap();
    let url = format!("http://{}:8080/{CANARY}", house.neighbour.ip);
    let ask = |house: &House, path: &str| house.curl(&format!("http://{}:8080{path}", house.neighbour.ip));

    // The capture sees what is there to be seen.
    let wire = Wire::of_node(&house.bed, &house.nodes.0).unwrap();
    house.curl(&url);
    assert!(wire.count(CANARY).unwrap() > 0);

    house.capture();
    let wire = Wire::of_node(&house.bed, &house.nodes.0).unwrap();
    assert!(ask(&house, "/").contains(CANARY), "{}", house.logs());
    assert!(ask(&house, "/who").starts_with(&house.client.ip.to_string()));
    let url6 = format!("http://[{}]:8080/", house.neighbour.ip6);
    assert!(house.curl(&url6).contains(CANARY), "{}", house.logs());
    assert_eq!(wire.count(CANARY).unwrap(), 0);

    // Both ends are the agent's, and say so.
    eventually(Duration::from_secs(10), "both ends have ended", || {
        let edges = house.one.json("edges")?;
        let mtls = |direction: &str| {
            edges.as_array().into_iter().flatten().any(|edge| {
                edge["direction"] == direction && edge["secured"] == "mtls" && edge["connections"] == 3
            })
        };
        Ok(mtls("outbound") && mtls("inbound"))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", house.one.table(&["edges"]).unwrap()));
    let to = format!("{}:8080", house.neighbour.ip);
    let trace = house.one.table(&["trace", "--from", "shop/client", "--to", &to]).unwrap();
    assert!(trace.contains("tunnel to its agent at") && trace.contains("sa/neighbour"), "{trace}");

    // A Service in front of the caller itself leads back to it, with its own address.
    let _own = Nginx::start(&house.bed, &house.client).unwrap();
    house.mesh.service("own", &["10.96.0.9"], 80, 8080, &[&house.client]).unwrap();
    let own = house.client.ip.to_string();
    eventually(Duration::from_secs(20), "it reaches itself", || {
        let said = house.client.place.output("curl", &["-s", "--max-time", "10", "http://10.96.0.9/who"])?;
        Ok(String::from_utf8_lossy(&said.stdout).starts_with(&own))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
}
