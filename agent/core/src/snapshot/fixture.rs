//! A small mesh for the tests of the pure decisions.

use std::sync::Arc;

use crate::capture::Wanted;
use crate::identity::{SpiffeId, TrustDomain};
use crate::snapshot::{
    AgentDown, Endpoint, MeshSettings, Node, PolicyChange, SameNode, Service, ServicePort, Snapshot, Traffic,
    Workload,
};

pub(crate) fn settings() -> MeshSettings {
    MeshSettings {
        trust_domain: TrustDomain::new("cluster.local").unwrap(),
        same_node: SameNode::Agent,
        agent_down: AgentDown::Untouched,
        policy_change: PolicyChange::End,
        cluster_ranges: Vec::new(),
    }
}

pub(crate) fn workload(name: &str, address: &str, node: &str, capture: Wanted) -> Workload {
    Workload {
        uid: format!("uid-{name}").into(),
        namespace: "shop".into(),
        name: name.into(),
        account: name.into(),
        identity: SpiffeId::new(&TrustDomain::new("cluster.local").unwrap(), "shop", name).unwrap(),
        labels: Arc::default(),
        addresses: address.split(',').map(|a| a.parse().unwrap()).collect(),
        contested: Box::default(),
        node: node.into(),
        owner: None,
        host_network: false,
        ports: Box::default(),
        place: None,
        foreign_policies: Box::default(),
        capture,
        mode: crate::mode::Mode::default(),
    }
}

pub(crate) fn node(name: &str, address: &str) -> Node {
    Node { name: name.into(), addresses: vec![address.parse().unwrap()], tunnel_port: 15008, zone: None }
}

/// Nodes one and two; web on one, db and plain on two, cache on one; ingress on one's host network.
pub(crate) fn mesh() -> (Vec<Node>, Vec<Workload>, Vec<Service>) {
    let ingress =
        Workload { host_network: true, ..workload("ingress", "192.168.0.1", "one", Wanted::ByNamespace) };
    let service = Service {
        namespace: "shop".into(),
        name: "db".into(),
        addresses: vec!["10.96.0.1".parse().unwrap(), "fd96::1".parse().unwrap()],
        ports: vec![ServicePort { name: None, port: 5432, target_port: 15432 }],
        endpoints: ["10.0.2.1", "10.0.2.2", "10.0.2.3", "fd02::1"]
            .map(|a| Endpoint::new(a.parse().unwrap(), a != "10.0.2.3"))
            .into(),
        traffic: Traffic::default(),
    };
    (
        vec![node("one", "192.168.0.1"), node("two", "192.168.0.2")],
        vec![
            workload("web", "10.0.1.1,fd01::1", "one", Wanted::ByNamespace),
            workload("cache", "10.0.1.2", "one", Wanted::ByNamespace),
            workload("db", "10.0.2.1,fd02::1", "two", Wanted::ByNamespace),
            workload("db2", "10.0.2.2", "two", Wanted::NotAsked),
            workload("db3", "10.0.2.3", "two", Wanted::ByWorkload),
            ingress,
        ],
        vec![service],
    )
}

pub(crate) fn snapshot() -> Snapshot {
    let (nodes, workloads, services) = mesh();
    Snapshot::build(1, settings(), nodes, workloads, services).unwrap()
}

#[test]
fn an_address_that_two_claim_makes_no_snapshot() {
    let (nodes, mut workloads, services) = mesh();
    workloads.push(workload("thief", "10.0.1.1", "two", Wanted::NotAsked));
    let error = Snapshot::build(2, settings(), nodes, workloads, services).unwrap_err();
    assert_eq!(
        error.to_string(),
        "address 10.0.1.1 is claimed by shop/web and shop/thief; an address must identify one workload"
    );
}

#[test]
fn a_host_network_address_identifies_nobody() {
    let snapshot = snapshot();
    assert_eq!(snapshot.workload_by_address("192.168.0.1".parse().unwrap()), None);
    let mapped = "::ffff:10.0.1.1".parse().unwrap();
    assert_eq!(snapshot.workload_by_address(mapped).map(|w| Arc::clone(&w.name)), Some("web".into()));
}
