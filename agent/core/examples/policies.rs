//! What policies cost: `cargo run --release -p lark-core --example policies`. 10,000 policies over 10,000
//! workloads, spread over namespaces as clusters have them, and all in one namespace.

#![expect(clippy::print_stdout, reason = "its output is what it is for")]
#![expect(clippy::unwrap_used, reason = "what cannot be set up cannot be measured")]

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lark_core::capture::Wanted;
use lark_core::direct::{Subject, verdicts};
use lark_core::identity::{SpiffeId, TrustDomain};
use lark_core::policy::{
    Action, Attempt, AuthorizationPolicy, AuthorizationRule, Block, End, NetworkPolicy, NetworkRule, Peer,
    Peers, Policies, PolicyIndex, PortMatch, Ports, Scope, Selector, Source,
};
use lark_core::snapshot::{AgentDown, MeshSettings, Node, PolicyChange, SameNode, Snapshot, Workload};

const COUNT: usize = 10_000;
const DECISIONS: usize = 200_000;
/// What a decision may take, all stages of it, of the slowest in a hundred.
const MARK: Duration = Duration::from_micros(20);
/// Workloads of the one node, whose agent decides about each pair of them ahead.
const NODE: usize = 250;

fn workload(number: usize, namespaces: usize) -> Arc<Workload> {
    let namespace = format!("ns-{}", number % namespaces);
    let account = format!("app-{}", number / namespaces % 50);
    let domain = TrustDomain::new("cluster.local").unwrap();
    let [_, a, b, c] = u32::try_from(number).unwrap().to_be_bytes();
    let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    Arc::new(Workload {
        uid: format!("uid-{number}").into(),
        identity: SpiffeId::new(&domain, &namespace, &account).unwrap(),
        namespace: namespace.into(),
        name: format!("pod-{number}").into(),
        labels: Arc::new(
            [
                label("app", &account),
                label("version", "v1"),
                label("tier", "back"),
                label("pod-template-hash", "5d4f8c7b9"),
            ]
            .into(),
        ),
        account: account.into(),
        addresses: [IpAddr::from([10, a, b, c])].into(),
        contested: Box::default(),
        node: if number < NODE { "one" } else { "two" }.into(),
        owner: None,
        host_network: false,
        ports: Box::default(),
        place: None,
        foreign_policies: Box::default(),
        mode: lark_core::mode::Mode::default(),
        capture: Wanted::ByNamespace,
    })
}

fn app(number: usize) -> Selector {
    Selector { labels: [("app".to_owned(), format!("app-{}", number % 50))].into(), expressions: vec![] }
}

/// Half of each kind. Every tenth selects its whole namespace, the others one application of 50.
fn policies(namespaces: usize) -> Policies {
    let selector = |i: usize| if i.is_multiple_of(10) { Selector::default() } else { app(i / namespaces) };
    let namespace = |i: usize| Arc::from(format!("ns-{}", i % namespaces));
    let authorization = (0..COUNT / 2).map(|i| AuthorizationPolicy {
        namespace: namespace(i),
        name: format!("policy-{i}").into(),
        scope: Scope::Namespace,
        selector: selector(i),
        action: if i.is_multiple_of(5) { Action::Deny } else { Action::Allow },
        dry_run: false,
        rules: (0..2)
            .map(|r| AuthorizationRule {
                from: vec![Source {
                    accounts: vec![(format!("ns-{}", i % namespaces), format!("app-{}", (i + r) % 50))],
                    ..Source::default()
                }],
                ports: vec![8080..=8080],
            })
            .collect(),
    });
    let rule = |i: usize| {
        let mut peers = vec![
            Peer::Pods { namespaces: None, pods: app(i + 1) },
            Peer::Pods { namespaces: Some(Selector::default()), pods: app(i + 2) },
        ];
        if i.is_multiple_of(10) {
            let block = format!("10.{}.0.0/16", i % 256);
            peers.push(Peer::Block(Block::new(&block, &[]).unwrap()));
            peers.push(Peer::Pods { namespaces: Some(Selector::default()), pods: Selector::default() });
        }
        Some(vec![NetworkRule {
            peers: Peers::These(peers),
            ports: Ports::These(vec![PortMatch::Range(8080..=8090)]),
        }])
    };
    let network = (0..COUNT / 2).map(|i| NetworkPolicy {
        namespace: namespace(i),
        name: format!("policy-{i}").into(),
        pods: selector(i),
        ingress: (i % 4 != 0).then(|| rule(i)).flatten(),
        egress: (i % 4 < 2).then(|| rule(i + 3)).flatten(),
    });
    Policies { authorization: authorization.collect(), network: network.collect(), ..Policies::default() }
}

/// Memory of this process in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

fn node(name: &str, last: u8) -> Node {
    let addresses = vec![IpAddr::from([192, 168, 0, last])];
    Node { name: name.into(), addresses, tunnel_port: 15008, zone: None }
}

/// What an agent with `sameNode: direct` does for a node's pods when policies have changed.
fn ahead(namespaces: usize) {
    let mesh = MeshSettings {
        trust_domain: TrustDomain::new("cluster.local").unwrap(),
        same_node: SameNode::Direct,
        agent_down: AgentDown::Untouched,
        policy_change: PolicyChange::End,
        cluster_ranges: Vec::new(),
    };
    let workloads = (0..COUNT).map(|i| Arc::unwrap_or_clone(workload(i, namespaces))).collect();
    let snapshot = Snapshot::build(1, mesh, vec![node("one", 1), node("two", 2)], workloads, Vec::new());
    let snapshot = snapshot.unwrap().with_policies(policies(namespaces));
    let start = Instant::now();
    let own: Vec<_> = snapshot.workloads_on("one").map(|w| Subject::of(&snapshot, w)).collect();
    let pairs = own.iter().flat_map(|from| own.iter().map(move |to| (from, to)));
    let found: usize = pairs.map(|(from, to)| verdicts(&snapshot, from, to).len()).sum();
    println!(
        "  {} pods of a node: {found} verdicts about direct connections in {:.0?}",
        own.len(),
        start.elapsed()
    );
}

/// Returns the p99.
fn measure(namespaces: usize) -> Duration {
    let workloads: Vec<Arc<Workload>> = (0..COUNT).map(|i| workload(i, namespaces)).collect();
    let before = resident();
    let start = Instant::now();
    let index = PolicyIndex::build(policies(namespaces), workloads.iter(), [node("one", 1)].iter());
    let compiled = start.elapsed();
    let memory = resident().saturating_sub(before);
    let mut took = Vec::with_capacity(DECISIONS);
    let mut allowed = 0;
    for i in 0..DECISIONS {
        // Pairs within a namespace half of the time, as callers mostly are.
        let destination = i.wrapping_mul(7919) % COUNT;
        let source =
            if i % 2 == 0 { (destination + namespaces) % COUNT } else { i.wrapping_mul(104_729) % COUNT };
        let (source, destination) = (&workloads[source], &workloads[destination]);
        let attempt = Attempt {
            source: End { workload: Some(source), address: source.addresses[0], proved: true },
            destination: End { workload: Some(destination), address: destination.addresses[0], proved: true },
            port: 8080,
        };
        let start = Instant::now();
        let decided = index.egress(&attempt).allowed && index.inbound(&attempt).iter().all(|d| d.allowed);
        took.push(start.elapsed());
        allowed += usize::from(std::hint::black_box(decided));
    }
    took.sort_unstable();
    let at = |per_mille: usize| micros(took[DECISIONS * per_mille / 1000]);
    println!(
        "{COUNT} policies, {COUNT} workloads, {namespaces} namespaces: p50 {} p99 {} p99.9 {} max {}; compiled in {compiled:.0?}, {} MiB resident, {} sets; {allowed} of {DECISIONS} allowed",
        at(500),
        at(990),
        at(999),
        micros(took[DECISIONS - 1]),
        memory / 1024,
        index.distinct_sets(),
    );
    took[DECISIONS * 99 / 100]
}

fn micros(took: Duration) -> String {
    format!("{:.1} µs", took.as_secs_f64() * 1e6)
}

fn main() {
    for namespaces in [100, 10, 1] {
        let p99 = measure(namespaces);
        ahead(namespaces);
        // In a build that is meant to be fast.
        assert!(cfg!(debug_assertions) || p99 < MARK, "p99 {} is above {}", micros(p99), micros(MARK));
    }
}
