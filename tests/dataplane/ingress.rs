//! The ingress on the host network: captured by its cgroup, it reaches strict pods by mTLS, and nobody else who
//! has its node's address does.

use std::net::SocketAddr;
use std::time::Duration;

use lark_testbed::{Nginx, Wire, eventually};
use serde_json::{Value, json};

use crate::house::House;

#[test]
fn an_ingress_on_the_host_network_reaches_strict_pods_by_mtls_and_masqueraded_traffic_does_not() {
    let mut house = House::captured();
    let (server, one, two) = (house.server.clone(), house.nodes.0.clone(), house.nodes.1.clone());
    let ingress = house.bed.host_pod(&one, "ingress").unwrap();
    let workload = json!({
        "namespace": "shop", "name": "ingress", "account": "ingress", "node": "one", "hostNetwork": true,
        "addresses": [ingress.ip, ingress.ip6], "cgroup": ingress.place.cgroup,
        "networkNamespace": ingress.place.netns,
    });
    let add = |document: &mut Value| document["workloads"].as_array_mut().unwrap().push(workload);
    house.mesh.change(add).unwrap();
    house.one.wait_captured(3).unwrap();
    let served = Nginx::start(&house.bed, &server).unwrap();
    let _ingress = Nginx::before(&house.bed, &ingress, SocketAddr::new(server.ip, 8080)).unwrap();
    // Node ports on both nodes, masqueraded as kube-proxy does it: to the pod they come from its own node, and
    // from the very address that the ingress has.
    for (node, port) in [(&one, 30080), (&two, 30080)] {
        let rules = format!(
            "table ip lark {{ chain in {{ type nat hook prerouting priority dstnat; ip daddr {} tcp dport {port} dnat to {}:8080; }};\n\
             chain out {{ type nat hook postrouting priority srcnat; ip daddr {} tcp dport 8080 ct status dnat masquerade; }}; }}",
            node.ip, server.ip, server.ip
        );
        node.place.run("nft", &[&rules]).unwrap();
    }
    let outside = house.plain(true, "outside");
    let ask = |to: String| {
        let url = format!("http://{to}/asked-by-{}", to.replace(':', "-"));
        outside.place.output("curl", &["-sS", "--max-time", "20", &url]).unwrap()
    };
    // As long as it is permissive each of them reaches it.
    for node in [&one, &two] {
        assert!(ask(format!("{}:30080", node.ip)).status.success());
    }
    house.strict(&server);
    let wire = Wire::listen(&house.bed).unwrap();
    let by_ingress =
        outside.place.run("curl", &["-sS", "--max-time", "20", &format!("http://{}:8080/", one.ip)]);
    assert_eq!(by_ingress.unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs())), "canary-of-lark\n");
    for node in [&one, &two] {
        let refused = ask(format!("{}:30080", node.ip));
        // Refused, and not timed out.
        assert_eq!(refused.status.code(), Some(7), "{refused:?}\n{}", house.logs());
    }
    // `outside` is on the ingress's own node, so that nothing but mTLS crosses the wire between the nodes.
    assert_eq!(wire.count("canary-of-lark").unwrap(), 0);
    eventually(Duration::from_secs(20), "the edge is there", || {
        let edges = house.two.json("edges")?;
        Ok(edges.as_array().into_iter().flatten().any(|edge| {
            edge["secured"] == "mtls"
                && edge["source"]["identity"] == "spiffe://cluster.local/ns/shop/sa/ingress"
        }))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{:#}", house.two.json("edges").unwrap()));
    assert_eq!(served.access_log().matches("/asked-by-").count(), 2, "{}", served.access_log());
    let log = house.two.process.log();
    let refused = log.matches("reason=\"plaintext_host\"").count();
    assert!(refused >= 2 && log.contains("src.addr=192.168.77.1:"), "{log}");
}
