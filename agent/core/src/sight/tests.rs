use proptest::prelude::*;

use super::*;
use crate::observe::Secured;
use crate::view::{SeriesView, StageView, StateCount, Verdict};

/// Namespaces of the tests; the last is of what is no workload.
const ALL: [&str; 4] = ["shop", "bank", "shop-2", ""];

fn namespace() -> impl Strategy<Value = &'static str> {
    prop::sample::select(ALL.to_vec())
}

/// Some of them.
fn namespaces() -> impl Strategy<Value = Namespaces> {
    prop::sample::subsequence(ALL.to_vec(), 0..=ALL.len())
        .prop_map(|names| names.into_iter().map(Arc::from).collect())
}

fn direction() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["outbound", "inbound", "local"])
}

/// A pod, with its namespace in each of its names.
fn party(namespace: &str) -> Party {
    if namespace.is_empty() {
        return Party::outside([192, 0, 2, 1].into());
    }
    Party {
        namespace: namespace.into(),
        name: format!("pod-of-{namespace}.").into(),
        owner: format!("Deployment/{namespace}").into(),
        identity: format!("spiffe://cluster.local/ns/{namespace}/sa/web").into(),
    }
}

/// What an agent says of a connection: the policies of the ends that it knows of.
fn said(direction: &str, source: &str, destination: &str) -> String {
    match direction {
        "inbound" => format!("policy-of-{destination}."),
        _ => format!("policy-of-{source}. policy-of-{destination}."),
    }
}

fn edge(direction: &str, source: &str, destination: &str) -> EdgeView {
    EdgeView {
        direction: direction.to_owned(),
        source: party(source),
        destination: party(destination),
        secured: Secured::Denied,
        connections: 1,
        open: 0,
        sent_bytes: 2,
        received_bytes: 3,
        reason: Some("policy_denied".to_owned()),
        detail: Some(said(direction, source, destination)),
        round_trip_seconds: None,
        retransmits: None,
    }
}

fn connection(direction: &str, source: &str, destination: &str) -> ConnectionView {
    ConnectionView {
        direction: direction.to_owned(),
        source: party(source),
        destination: party(destination),
        source_address: "10.0.0.1:1".to_owned(),
        destination_address: "10.0.0.2:2".to_owned(),
        service: Some(format!("{destination}/service-of-{destination}.")),
        secured: Some(Secured::Mtls),
        sent_bytes: 0,
        received_bytes: 0,
        age_seconds: Some(1),
        note: said(direction, source, destination),
        protocol: "http1".to_owned(),
        requests: 1,
        round_trip_seconds: None,
        retransmits: None,
    }
}

fn course(direction: &str, source: &str, destination: &str) -> CourseView {
    let found = said(direction, source, destination);
    CourseView {
        direction: direction.to_owned(),
        source: party(source),
        destination: party(destination),
        source_address: "10.0.0.1:1".to_owned(),
        destination_address: "10.0.0.2:2".to_owned(),
        secured: None,
        began_ms: 1,
        stages: vec![StageView { stage: "allowed".to_owned(), after_seconds: 0.1, found }],
    }
}

fn check(subject: String) -> CheckView {
    CheckView { subject, verdict: Verdict::Fail, found: "it".to_owned(), advice: String::new() }
}

/// Names of pods, policies and Services of a namespace that is not seen.
fn leaks(told: &impl std::fmt::Debug, seen: &Namespaces) -> Option<String> {
    let told = format!("{told:?}");
    let hidden = ALL.iter().filter(|name| !name.is_empty() && !seen.has(name));
    let mut secrets =
        hidden.flat_map(|name| ["pod", "policy", "service"].map(|what| format!("{what}-of-{name}.")));
    secrets.find(|secret| told.contains(secret))
}

proptest! {
    #[test]
    fn a_connection_is_seen_from_either_end_and_names_nothing_of_the_other(
        seen in namespaces(), direction in direction(), source in namespace(), destination in namespace()
    ) {
        let concerns = [source, destination].iter().any(|name| seen.has(name));
        let told = edge(direction, source, destination).seen_from(&seen);
        prop_assert_eq!(told.is_some(), concerns);
        prop_assert_eq!(leaks(&told, &seen), None);
        let told = connection(direction, source, destination).seen_from(&seen);
        prop_assert_eq!(told.is_some(), concerns);
        prop_assert_eq!(leaks(&told, &seen), None);
        let told = course(direction, source, destination).seen_from(&seen);
        prop_assert_eq!(told.is_some(), concerns);
        prop_assert_eq!(leaks(&told, &seen), None);
        let mut requests = RequestsView::of(&crate::observe::Totals::default(), 1.0);
        requests.source_namespace = source.to_owned();
        requests.destination_namespace = destination.to_owned();
        prop_assert_eq!(requests.seen_from(&seen).is_some(), concerns);
    }

    #[test]
    fn whose_both_ends_are_is_told_whole(
        direction in direction(), source in 0..3_usize, destination in 0..3_usize
    ) {
        let (source, destination) = (ALL[source], ALL[destination]);
        let seen: Namespaces = ALL.into_iter().map(Arc::from).collect();
        let edge = edge(direction, source, destination);
        prop_assert_eq!(edge.clone().seen_from(&seen), Some(edge));
        let connection = connection(direction, source, destination);
        prop_assert_eq!(connection.clone().seen_from(&seen), Some(connection));
        let course = course(direction, source, destination);
        prop_assert_eq!(course.clone().seen_from(&seen), Some(course));
    }

    #[test]
    fn what_is_of_one_namespace_is_told_there_alone(seen in namespaces(), namespace in namespace()) {
        let his = seen.has(namespace);
        prop_assert!(!namespace.is_empty() || !his, "what is in no namespace is somebody's");
        let identity = party(namespace).identity;
        let cert = CertView {
            identity: identity.to_string(), state: "valid".to_owned(), expires_at: None, serial: None, last_error: None
        };
        prop_assert_eq!(cert.seen_from(&seen).is_some(), his);
        for subject in [
            format!("{namespace}/pod"),
            format!("certificate {identity}"),
            format!("AuthorizationPolicy {namespace}/policy"),
        ] {
            prop_assert_eq!(check(subject.clone()).seen_from(&seen).is_some(), his, "{}", subject);
        }
        let policy = PolicyView {
            kind: "NetworkPolicy".to_owned(), namespace: namespace.to_owned(), name: "x".to_owned(),
            effect: String::new(), dry_run: false, selector: String::new(), within: String::new(), selected: 1,
            error: None,
        };
        prop_assert_eq!(policy.seen_from(&seen).is_some(), his);
        let service = ServiceView {
            namespace: namespace.to_owned(), name: "x".to_owned(), addresses: vec![], ports: vec![], ready: 1,
            endpoints: 1, in_mesh: true,
        };
        prop_assert_eq!(service.seen_from(&seen).is_some(), his);
        let history = HistoryView {
            at: vec![1],
            series: vec![SeriesView { namespace: namespace.to_owned(), ..SeriesView::default() }],
        };
        let told = history.seen_from(&seen).map(|history| history.series.len());
        prop_assert_eq!(told, Some(usize::from(his)));
    }
}

#[test]
fn parts_of_an_agent_and_subjects_of_another_form_are_nobodys() {
    let seen: Namespaces = ["shop", "map", "discovery"].into_iter().map(Arc::from).collect();
    for subject in
        ["discovery", "map DESTINATIONS", "cluster ranges", "shop/a/b", "a b shop/c", "", "/", "shop"]
    {
        assert_eq!(check(subject.to_owned()).seen_from(&seen), None, "{subject}");
    }
}

#[test]
fn of_a_node_it_is_told_that_it_is_there_and_nothing_that_it_counts() {
    let status = Status {
        version: "1".to_owned(),
        node: "one".to_owned(),
        trust_domain: "cluster.local".to_owned(),
        ready: true,
        uptime_seconds: 1,
        workers: 2,
        records: String::new(),
        discovery_generation: 3,
        discovery_error: Some("policy-of-bank".to_owned()),
        pods: vec![StateCount { state: "captured".to_owned(), count: 7 }],
        connections_open: 9,
        ca_url: "https://elsewhere".to_owned(),
        draining: Vec::new(),
        withheld: false,
    };
    let told = status.seen_from(&Namespaces::default()).unwrap();
    assert!(told.withheld && told.ready && told.node == "one" && told.version == "1");
    assert!(told.pods.is_empty() && told.connections_open == 0 && told.ca_url.is_empty());
    assert_eq!(told.discovery_error.as_deref(), Some("it is not current"));
}
