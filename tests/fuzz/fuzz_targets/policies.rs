//! Policies as manifests write them, a list of both kinds. Each is read or closes what it selects, none is
//! passed over, and their order changes no decision.
#![no_main]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::LazyLock;

use lark_core::identity::TrustDomain;
use lark_core::policy::{At, Kind, Passage};
use lark_core::snapshot::{Snapshot, Workload};
use lark_discovery::file;
use lark_discovery::policy::{self, PolicyError};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// Two namespaces on two nodes, no policies.
static MESH: LazyLock<Snapshot> = LazyLock::new(|| {
    let text = include_str!("../corpus/discovery/policies");
    file::parse(Path::new("mesh.yaml"), text, 1).expect("a document of the corpus")
});

/// Every decision between every two workloads, on a few ports, in words; nothing where two policies have
/// one name, of which the first counts.
fn decisions(authorization: Vec<Value>, network: Vec<Value>) -> Option<Vec<String>> {
    let domain = TrustDomain::new("cluster.local").expect("a domain");
    let given = [(Kind::Authorization, authorization.len()), (Kind::Network, network.len())];
    let policies = policy::read(&domain, [].into(), authorization, network);
    for (kind, given) in given {
        let unreadable = policies.unreadable.iter().filter(|u| u.policy.kind == kind).count();
        let read = match kind {
            Kind::Authorization => policies.authorization.len(),
            Kind::Network => policies.network.len(),
        };
        assert_eq!(read + unreadable, given, "one was passed over");
    }
    let twice = policies.unreadable.iter().any(|u| u.why == PolicyError::Twice.to_string());
    let snapshot = MESH.clone().with_policies(policies);
    let all: Vec<&Workload> = snapshot.workloads().map(|w| &**w).collect();
    let mut told = Vec::new();
    for (source, destination) in all.iter().flat_map(|s| all.iter().map(move |d| (s, d))) {
        for port in [1, 80, 8080] {
            let to = SocketAddr::new(destination.addresses[0], port);
            let passage = Passage::new(source, source.addresses[0], Some(destination), to, At::Both);
            told.extend(passage.decisions(&snapshot).iter().map(|decision| format!("{decision:?}")));
        }
    }
    (!twice).then_some(told)
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(manifests) = serde_json::from_slice::<Vec<Value>>(bytes) else { return };
    let is_network = |manifest: &Value| manifest["kind"] == "NetworkPolicy";
    let (mut network, mut authorization): (Vec<Value>, Vec<Value>) =
        manifests.into_iter().partition(is_network);
    let told = decisions(authorization.clone(), network.clone());
    network.reverse();
    authorization.reverse();
    assert_eq!(told, decisions(authorization, network));
});
