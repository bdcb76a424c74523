//! Certificates of running agents.

use std::time::Duration;

use lark_testbed::{Agent, Controller, Load, Nginx, Record, eventually};

use crate::house::House;

#[test]
fn without_a_ca_capture_is_pending_and_traffic_goes_on() {
    let fault = "no SVID yet: the CA is away when a pod is to be captured";
    let mut record = Record::of(fault).unwrap();
    let mut house = House::new();
    let _echo = house.echo();
    let traffic = house.traffic(Load::default());
    house.controller.process.stop().unwrap();
    house.mesh.capture(true).unwrap();
    record.injected(3);
    eventually(Duration::from_secs(20), "capture is pending", || {
        let table = house.one.table(&["workloads"])?;
        Ok(table.contains("pending") && table.contains("cannot be reached"))
    })
    .unwrap();
    assert!(House::checks(&house.one).is_err());
    traffic.flows(20).unwrap();
    let nodes = [&house.nodes.0, &house.nodes.1];
    house.controller = Controller::start(&house.bed, &house.nodes.0, &nodes, &house.mesh).unwrap();
    house.one.wait_captured(2).unwrap();
    house.two.wait_captured(1).unwrap();
    eventually(Duration::from_secs(20), "new connections are secured", || {
        Ok(house.one.table(&["edges"])?.contains("√ mTLS"))
    })
    .unwrap();
    let seen = traffic.finish().unwrap();
    // A connect that is taken while its far end is still to be captured is reset.
    assert_eq!((seen.lost, seen.refused, seen.stalled), (0, 0, 0), "{seen:?}");
    record.traffic(seen);
    record
        .write(format!(
            "pending, \"cannot be reached\"; left alone meanwhile, then mTLS; {} reset while only one of the nodes had a certificate",
            seen.reset
        ))
        .unwrap();
}

#[test]
fn a_ca_that_is_away_is_said_and_harms_nothing_that_is_valid() {
    let mut record = Record::of("CA unreachable while certificates are valid").unwrap();
    let mut house = House::captured();
    let _echo = house.echo();
    let traffic = house.traffic(Load::default());
    house.controller.process.kill();
    record.injected(1);
    // Whoever needs a new certificate has none, and says why.
    let (node, late) = (house.nodes.0.clone(), house.bed.pod(&house.nodes.0, "late").unwrap());
    house.mesh.replace(&[], std::slice::from_ref(&late), "late").unwrap();
    eventually(Duration::from_secs(20), "the failure is said", || {
        Ok(House::checks(&house.one).is_err_and(|said| said.contains("cannot be reached")))
    })
    .unwrap();
    traffic.flows(50).unwrap();
    let nodes = [&house.nodes.0, &house.nodes.1];
    house.controller = Controller::start(&house.bed, &node, &nodes, &house.mesh).unwrap();
    house.one.wait_captured(3).unwrap();
    let seen = traffic.finish().unwrap();
    assert_eq!(seen.failed(), 0, "{seen:?}");
    record.traffic(seen);
    record.write("open and new connections as before; a new pod pending until the CA was back").unwrap();
}

#[test]
fn an_identity_that_the_peer_does_not_serve_is_a_reset() {
    let mut record = Record::of("the two nodes' discovery disagrees about an identity").unwrap();
    let mut house = House::captured();
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let mesh = std::fs::read_to_string(house.mesh.path()).unwrap();
    let other = house.bed.directory().join("other.yaml");
    let account = "\"account\": \"server\"";
    assert_eq!(mesh.matches(account).count(), 1);
    std::fs::write(&other, mesh.replace(account, "\"account\": \"other\"")).unwrap();
    house.one.process.stop().unwrap();
    let flags = [format!("--discovery=file:{}", other.display())];
    house.one =
        Agent::start_with(&house.bed, &house.nodes.0, &house.controller, &house.mesh, &flags).unwrap();
    house.one.wait_captured(2).unwrap();
    let wire = lark_testbed::Wire::listen(&house.bed).unwrap();
    for _ in 0..5 {
        let url = format!("http://{}:8080/canary-of-lark", house.server.ip);
        let output = house.client.place.output("curl", &["-sS", "--max-time", "15", &url]).unwrap();
        assert!(matches!(output.status.code(), Some(7 | 52 | 55 | 56)), "{output:?}");
        record.injected(1);
    }
    assert_eq!(wire.count("canary-of-lark").unwrap(), 0);
    let edges = house.one.table(&["edges"]).unwrap();
    assert!(edges.contains("tunnel_handshake"), "{edges}");
    record.write("5 of 5 reset for tunnel_handshake, canary 0 times on the wire").unwrap();
}

#[test]
fn an_agent_has_certificates_of_its_own_node_only_and_no_key_on_disk() {
    let house = House::captured();
    let certs = |agent: &Agent| -> Vec<String> {
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
    let roots = house.controller.home().join("roots");
    let (directory, key) = found.trim().rsplit_once('/').unwrap();
    assert!(directory == roots.to_str().unwrap() && key.ends_with(".key"), "{found}");
    assert_eq!(found.lines().count(), 1, "only the CA's own key may be on disk: {found}");
}
