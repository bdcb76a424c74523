use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::capture::Wanted;
use crate::policy::{
    Action, AuthorizationPolicy, AuthorizationRule, NetworkPolicy, NetworkRule, Peers, Policies, PortMatch,
    Ports, Scope, Selector, Source,
};
use crate::snapshot::{NamedPort, fixture};

/// Web and cache are on node one, cache of IPv4 alone; db is elsewhere.
fn snapshot(policies: Policies) -> Snapshot {
    let (nodes, mut workloads, services) = fixture::mesh();
    for workload in &mut workloads {
        workload.labels = BTreeMap::from([("app".to_owned(), workload.name.to_string())]).into();
        workload.ports = [NamedPort { name: "metrics".to_owned(), port: 9090 }].into();
    }
    Snapshot::build(1, fixture::settings(), nodes, workloads, services).unwrap().with_policies(policies)
}

fn between(snapshot: &Snapshot, from: &str, to: &str) -> Vec<Verdict> {
    let [from, to] =
        [from, to].map(|name| Subject::of(snapshot, snapshot.workload_named("shop", name).unwrap()));
    verdicts(snapshot, &from, &to)
}

/// Port, if it is one, and whether it is direct.
fn told(snapshot: &Snapshot) -> Vec<(Option<u16>, bool)> {
    let found = between(snapshot, "web", "cache");
    assert!(found.iter().all(|v| v.address == "10.0.1.2".parse::<IpAddr>().unwrap()), "{found:?}");
    found.into_iter().map(|v| (v.port, v.is_direct)).collect()
}

fn app(name: &str) -> Selector {
    Selector { labels: BTreeMap::from([("app".to_owned(), name.to_owned())]), ..Selector::default() }
}

fn rule(ports: Vec<std::ops::RangeInclusive<u16>>, account: Option<&str>) -> AuthorizationRule {
    let from = account
        .map(|name| Source { accounts: vec![("shop".to_owned(), name.to_owned())], ..Source::default() });
    AuthorizationRule { from: from.into_iter().collect(), ports }
}

fn policy(action: Action, rules: Vec<AuthorizationRule>) -> Policies {
    let policy = AuthorizationPolicy {
        namespace: "shop".into(),
        name: "cache".into(),
        scope: Scope::Namespace,
        selector: app("cache"),
        action,
        dry_run: false,
        rules,
    };
    Policies { authorization: vec![policy], ..Policies::default() }
}

fn network(ingress: Vec<PortMatch>) -> Policies {
    let policy = NetworkPolicy {
        namespace: "shop".into(),
        name: "cache".into(),
        pods: app("cache"),
        ingress: Some(vec![NetworkRule { peers: Peers::All, ports: Ports::These(ingress) }]),
        egress: None,
    };
    Policies { network: vec![policy], ..Policies::default() }
}

#[test]
fn two_pods_of_one_node_with_a_family_in_common_and_none_else() {
    let snapshot = snapshot(Policies::default());
    assert_eq!(told(&snapshot), [(None, true)]);
    for (from, to) in [("web", "web"), ("web", "db"), ("db", "db2"), ("db", "db3"), ("web", "ingress")] {
        let found = between(&snapshot, from, to);
        // db and db3 are both captured, on node two.
        assert_eq!(!found.is_empty(), (from, to) == ("db", "db3"), "{from} {to} {found:?}");
    }
    assert_eq!(between(&snapshot, "ingress", "web"), []);
}

#[test]
fn an_address_that_identifies_nobody_is_dialled_through_the_agent() {
    let (nodes, mut workloads, services) = fixture::mesh();
    let contested = crate::snapshot::Contested {
        address: "10.0.1.2".parse().unwrap(),
        claims: 2,
        other: "shop/thief".to_owned(),
    };
    workloads[1].contested = [contested].into();
    let snapshot = Snapshot::build(1, fixture::settings(), nodes, workloads, services).unwrap();
    assert_eq!(between(&snapshot, "web", "cache"), []);
}

#[test]
fn ports_that_policies_name_have_verdicts_of_their_own() {
    for (policies, expected) in [
        // Closed but for one port, and but for a named one.
        (policy(Action::Allow, vec![rule(vec![80..=80], None)]), vec![(Some(80), true)]),
        (network(vec![PortMatch::Name("metrics".to_owned())]), vec![(Some(9090), true)]),
        // Open but for one port.
        (policy(Action::Deny, vec![rule(vec![81..=81], None)]), vec![(Some(81), false), (None, true)]),
        (policy(Action::Deny, vec![rule(vec![], None)]), vec![]),
        // For somebody else: the port is looked at and is like the rest.
        (policy(Action::Deny, vec![rule(vec![81..=81], Some("db"))]), vec![(None, true)]),
        (policy(Action::Allow, vec![rule(vec![], Some("web"))]), vec![(None, true)]),
        // More ports than are told one by one: asked each time.
        (policy(Action::Deny, vec![rule(vec![1000..=2000], Some("db"))]), vec![]),
        // All of them tell none apart.
        (policy(Action::Allow, vec![rule(vec![1..=u16::MAX], None)]), vec![(None, true)]),
        (network(vec![PortMatch::Any]), vec![(None, true)]),
    ] {
        assert_eq!(told(&snapshot(policies.clone())), expected, "{policies:?}");
    }
}

#[test]
fn what_a_dry_run_would_deny_is_told_by_the_agent() {
    let mut policies = policy(Action::Deny, vec![rule(vec![], Some("web"))]);
    policies.authorization[0].dry_run = true;
    let snapshot = snapshot(policies);
    assert_eq!(told(&snapshot), []);
}

/// What the kernel makes of verdicts: the port's own, else the one for all others, else none.
fn is_direct(found: &[Verdict], port: u16) -> bool {
    let of = |asked: Option<u16>| found.iter().find(|v| v.port == asked).map(|v| v.is_direct);
    of(Some(port)).or(of(None)).unwrap_or(false)
}

proptest! {
    #[test]
    fn nothing_is_direct_that_policies_would_deny(
        rules in proptest::collection::vec((1_u16..40, 0_u16..3, 0_usize..3), 0..4),
        allow: bool,
        named in proptest::option::of(1_u16..40),
        port in 1_u16..45,
    ) {
        let accounts = [None, Some("web"), Some("db")];
        let rules = rules.into_iter().map(|(from, more, who)| rule(vec![from..=from + more], accounts[who]));
        let action = if allow { Action::Allow } else { Action::Deny };
        let mut policies = policy(action, rules.collect());
        policies.network = named.map(|port| network(vec![PortMatch::Range(port..=port)]).network)
            .unwrap_or_default();
        let snapshot = snapshot(policies);
        let [web, cache] = ["web", "cache"].map(|name| snapshot.workload_named("shop", name).unwrap());
        let to = SocketAddr::new(cache.addresses[0], port);
        let passage = Passage::new(web, web.addresses[0], Some(&Arc::clone(cache)), to, At::Both);
        let found = between(&snapshot, "web", "cache");
        prop_assert_eq!(is_direct(&found, port), passage.judge(&snapshot).denied.is_none());
    }
}

#[test]
fn who_is_not_captured_is_no_end_of_a_direct_connection() {
    let (nodes, mut workloads, services) = fixture::mesh();
    workloads[1].capture = Wanted::OptedOut;
    let snapshot = Snapshot::build(1, fixture::settings(), nodes, workloads, services).unwrap();
    assert_eq!(between(&snapshot, "web", "cache"), []);
    assert_eq!(between(&snapshot, "cache", "web"), []);
}
