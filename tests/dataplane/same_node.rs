//! Two captured pods of one node, as the mesh's `sameNode` says.

use lark_testbed::{Checked, Echo, Load, Nginx, Wire, eventually};
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

#[test]
fn a_pod_that_is_being_captured_is_waited_for_by_those_of_its_own_node() {
    let mut house = House::captured();
    let mut late = Vec::new();
    for n in 0..6 {
        let pod = house.bed.pod(&house.nodes.0, &format!("late{n}")).unwrap();
        let echo = Echo::start(&house.bed, &pod).unwrap();
        let load = Load { long: 0, short: 8, block: 100, pause: Duration::from_millis(1), ..Load::default() };
        let traffic = Checked::start(&house.bed, &house.client, pod.ip, load).unwrap();
        traffic.flows(50).unwrap();
        // From here on it is the mesh's, and has no certificate yet.
        house.mesh.replace(&[], std::slice::from_ref(&pod), &format!("late{n}")).unwrap();
        house.one.wait_captured(3 + n).unwrap();
        traffic.flows(50).unwrap();
        let seen = traffic.finish().unwrap();
        assert_eq!(seen.failed(), 0, "{seen:?}\n{}", house.logs());
        late.push((pod, echo));
    }
}
