use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::capture::Wanted;
use crate::policy::tests::policies;
use crate::policy::{At, NetworkPolicy, Passage, Policies, Selector, list};
use crate::reason::Reason;
use crate::route::{Route, decide, is_mesh_destination};
use crate::snapshot::fixture::{mesh, node, settings, snapshot, workload};
use crate::snapshot::{Contested, Endpoint, ServicePort, Traffic};

/// Everything that can be asked, in an order of its own.
fn told(snapshot: &Snapshot) -> Vec<String> {
    let mut all: Vec<String> = snapshot.workloads().map(|w| format!("{w:?}")).collect();
    all.extend(snapshot.services().map(|s| format!("{s:?}")));
    all.extend(snapshot.nodes().map(|n| {
        let on: Vec<_> = snapshot.workloads_on(&n.name).map(|w| w.full_name()).collect();
        format!("{n:?} {on:?}")
    }));
    for third in 0..4 {
        for fourth in 0..8 {
            let address = IpAddr::from([10, 0, third, fourth]);
            let of = snapshot.located(address).map(|(w, node)| (w.full_name(), node));
            let services: Vec<_> = snapshot.services_of_endpoint(address).map(|s| s.full_name()).collect();
            let contested = snapshot.is_contested(address);
            // The node is noted with the address, and must be the one of that name however both came and went.
            let found = snapshot.workload_by_address(address);
            assert_eq!(of, found.map(|w| (w.full_name(), snapshot.node(&w.node))));
            all.push(format!("{address} {of:?} {contested} {services:?}"));
        }
    }
    for last in 0..4 {
        let (node, service) = (IpAddr::from([192, 168, 0, last]), IpAddr::from([10, 96, 0, last]));
        let nodes: Vec<_> = snapshot.nodes_by_address(node).iter().map(|n| n.name.clone()).collect();
        all.push(format!("{nodes:?} {:?}", snapshot.service_by_address(service).map(|s| s.full_name())));
    }
    all.sort();
    all
}

fn service(name: &str, address: &str, endpoints: &[&str]) -> Service {
    Service {
        namespace: "shop".into(),
        name: name.into(),
        addresses: vec![address.parse().unwrap()],
        ports: vec![ServicePort { name: None, port: 80, target_port: 8080 }],
        endpoints: endpoints.iter().map(|a| Endpoint::new(a.parse().unwrap(), true)).collect(),
        traffic: Traffic::default(),
    }
}

#[test]
fn changes_lead_to_what_would_have_been_built() {
    let before = snapshot();
    let was = told(&before);
    let next = before
        .with(
            2,
            [
                Change::WorkloadGone("uid-cache".into()),
                // Takes over the address of one that goes, and is told before that.
                Change::Workload(workload("new", "10.0.1.2", "three", Wanted::ByNamespace)),
                Change::Workload(workload("db", "10.0.2.7", "one", Wanted::NotAsked)),
                Change::Node(node("three", "192.168.0.3")),
                Change::Service(service("db", "10.96.0.2", &["10.0.2.2", "10.0.2.7"])),
                Change::Service(service("web", "10.96.0.1", &["10.0.1.1"])),
            ],
        )
        .unwrap();
    let (mut nodes, mut workloads, _) = mesh();
    nodes.push(node("three", "192.168.0.3"));
    workloads.retain(|w| &*w.name != "cache" && &*w.name != "db");
    workloads.push(workload("new", "10.0.1.2", "three", Wanted::ByNamespace));
    workloads.push(workload("db", "10.0.2.7", "one", Wanted::NotAsked));
    let services = vec![
        service("db", "10.96.0.2", &["10.0.2.2", "10.0.2.7"]),
        service("web", "10.96.0.1", &["10.0.1.1"]),
    ];
    let built = Snapshot::build(2, settings(), nodes, workloads, services).unwrap();
    assert_eq!(told(&next), told(&built));
    assert_eq!(told(&before), was);
    assert_eq!((before.generation, next.generation), (1, 2));
}

#[test]
fn everything_can_go_and_come_again() {
    let before = snapshot();
    let gone: Vec<Change> = before
        .workloads()
        .map(|w| Change::WorkloadGone(w.uid.clone()))
        .chain(before.nodes().map(|n| Change::NodeGone(n.name.clone())))
        .chain([Change::ServiceGone { namespace: "shop".into(), name: "db".into() }])
        .collect();
    let nothing = before.with(2, gone).unwrap();
    assert_eq!(told(&nothing), told(&Snapshot::empty(settings())));
    let (nodes, workloads, services) = mesh();
    let all = nodes.into_iter().map(Change::Node);
    let all = all.chain(workloads.into_iter().map(Change::Workload));
    let again = nothing.with(3, all.chain(services.into_iter().map(Change::Service))).unwrap();
    assert_eq!(told(&again), told(&before));
}

#[test]
fn what_would_identify_two_is_no_next_snapshot() {
    let before = snapshot();
    let refused = |change| before.with(2, [change]).unwrap_err().to_string();
    let new = |name: &str, address: &str, node: &str| {
        Change::Workload(workload(name, address, node, Wanted::NotAsked))
    };
    assert_eq!(
        [
            refused(new("thief", "10.0.1.1", "two")),
            refused(new("vip", "10.96.0.1", "two")),
            refused(Change::Service(service("web", "10.96.0.1", &[]))),
            refused(Change::Service(service("web", "10.0.1.1", &[]))),
            refused(Change::Workload(Workload {
                uid: "another".into(),
                ..workload("web", "10.0.3.1", "one", Wanted::NotAsked)
            })),
        ],
        [
            "address 10.0.1.1 is claimed by shop/web and shop/thief; an address must identify one workload",
            "address 10.96.0.1 of Service shop/db is already used by shop/vip",
            "address 10.96.0.1 of Service shop/web is already used by shop/db",
            "address 10.0.1.1 of Service shop/web is already used by shop/web",
            "workload shop/web appears twice",
        ]
    );
}

#[test]
fn workloads_of_a_node_that_is_gone_stay_and_are_refused() {
    let before = snapshot();
    let lost = workload("lost", "10.0.3.1", "nine", Wanted::ByNamespace);
    let next = before.with(2, [Change::NodeGone("two".into()), Change::Workload(lost)]).unwrap();
    for to in ["10.0.2.1:80", "10.0.3.1:80"] {
        let to = to.parse().unwrap();
        let route = decide(&next, "one", to, |_, _| None, |_| 0, 0).route;
        assert_eq!(route, Route::Deny { reason: Reason::NodeUnknown }, "{to}");
        assert!(is_mesh_destination(&next, to), "{to}");
    }
    let again = next.with(3, [Change::Node(node("two", "192.168.0.2"))]).unwrap();
    let route = decide(&again, "one", "10.0.2.1:80".parse().unwrap(), |_, _| None, |_| 0, 0).route;
    assert!(matches!(route, Route::Tunnel { .. }), "{route:?}");
}

#[test]
fn only_what_changed_is_told() {
    let before = snapshot();
    let moved = workload("db", "10.0.2.7", "two", Wanted::ByNamespace);
    let same = workload("cache", "10.0.1.2", "one", Wanted::ByNamespace);
    let next = before.with(2, [Change::Workload(moved), Change::Workload(same)]).unwrap();
    let changed: Vec<_> =
        next.changed_workloads(&before).map(|(old, new)| (old.is_some(), new.unwrap().full_name())).collect();
    assert_eq!(changed, [(true, "shop/db".to_owned())]);
    assert_eq!(next.changed_services(&before).count(), 0);
}

/// What policies say between all workloads, and of connections to nodes, with every reason.
fn judged(snapshot: &Snapshot) -> Vec<String> {
    let mut workloads: Vec<_> = snapshot.workloads().collect();
    workloads.sort_by(|a, b| a.uid.cmp(&b.uid));
    let say = |passage: Passage| {
        let decisions = passage.decisions(snapshot);
        let each = decisions
            .iter()
            .map(|d| format!("{d} {:?}", d.dry_run.iter().map(ToString::to_string).collect::<Vec<_>>()));
        format!("{passage:?} {:?} {:?}", each.collect::<Vec<_>>(), passage.judge(snapshot))
    };
    let mut all: Vec<String> = list(snapshot).iter().map(|policy| format!("{policy:?}")).collect();
    for from in &workloads {
        for to in &workloads {
            for port in [80, 443] {
                let address = SocketAddr::new(to.addresses[0], port);
                all.push(say(Passage::new(from, from.addresses[0], Some(to), address, At::Both)));
            }
        }
        for last in 1..6 {
            let node = SocketAddr::from(([192, 168, 0, last], 80));
            all.push(say(Passage::new(from, from.addresses[0], None, node, At::Source)));
        }
    }
    all
}

/// A change by numbers: few names and addresses, so that they meet, with labels that policies select.
fn change((kind, name, address, bits): (u8, u8, u8, u8)) -> Change {
    let name = ["web", "db", "cache", "job"][usize::from(name % 4)];
    let node_name = ["one", "two", "three"][usize::from(address % 3)];
    let uid = if bits & 1 == 1 { format!("uid-{name}") } else { format!("uid-{name}-again") };
    match kind % 8 {
        0 => Change::WorkloadGone(uid.into()),
        1 => Change::ServiceGone { namespace: "shop".into(), name: name.into() },
        2 => Change::NodeGone(node_name.into()),
        3 => Change::Node(node(node_name, &format!("192.168.0.{}", bits % 5 + 1))),
        4 => Change::Service(service(
            name,
            &format!("10.96.0.{}", bits % 4),
            &[&format!("10.0.1.{}", address % 6)],
        )),
        _ => {
            let mut workload =
                workload(name, &format!("10.0.1.{}", address % 6), node_name, Wanted::ByNamespace);
            workload.uid = uid.into();
            workload.host_network = bits & 6 == 6;
            workload.namespace = if bits & 8 == 8 { "other" } else { "shop" }.into();
            let tier = if bits & 16 == 16 { "front" } else { "back" };
            let address = workload.addresses[0];
            let contested = Contested { address, claims: 2, other: "pod shop/thief".to_owned() };
            workload.contested = (bits & 96 == 96).then_some(contested).into_iter().collect();
            let labels = [("app".to_owned(), name.to_owned()), ("tier".to_owned(), tier.to_owned())];
            workload.labels = BTreeMap::from(labels).into();
            Change::Workload(workload)
        }
    }
}

/// The facts that changes lead to, kept beside the snapshot.
#[derive(Clone)]
struct Known {
    nodes: BTreeMap<NodeName, Node>,
    workloads: BTreeMap<Arc<str>, Workload>,
    services: BTreeMap<ServiceKey, Service>,
}

impl Known {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Node(node) => drop(self.nodes.insert(node.name.clone(), node)),
            Change::NodeGone(name) => drop(self.nodes.remove(&name)),
            Change::Workload(workload) => drop(self.workloads.insert(workload.uid.clone(), workload)),
            Change::WorkloadGone(uid) => drop(self.workloads.remove(&uid)),
            Change::Service(service) => drop(self.services.insert(service.key(), service)),
            Change::ServiceGone { namespace, name } => drop(self.services.remove(&(namespace, name))),
        }
    }

    fn build(&self) -> Result<Snapshot, SnapshotError> {
        let Self { nodes, workloads, services } = self.clone();
        let (nodes, workloads) = (nodes.into_values().collect(), workloads.into_values().collect());
        Snapshot::build(1, settings(), nodes, workloads, services.into_values().collect())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// Whatever changes, the next snapshot is the one that would have been built of the same facts, policies
    /// included; and what would not have been built is refused.
    #[test]
    fn any_changes_lead_to_what_would_have_been_built(
        policies in policies(),
        steps in prop::collection::vec(prop::collection::vec(any::<(u8, u8, u8, u8)>(), 1..5), 1..8),
    ) {
        let (nodes, workloads, services) = mesh();
        let mut known = Known {
            nodes: nodes.into_iter().map(|n| (n.name.clone(), n)).collect(),
            workloads: workloads.into_iter().map(|w| (w.uid.clone(), w)).collect(),
            services: services.into_iter().map(|s| (s.key(), s)).collect(),
        };
        let mut now = known.build().unwrap().with_policies(policies.clone());
        for step in steps {
            let before = (told(&now), judged(&now));
            let mut then = known.clone();
            step.iter().for_each(|numbers| then.apply(change(*numbers)));
            let next = now.with(now.generation + 1, step.into_iter().map(change));
            let built = then.build();
            prop_assert_eq!(&before, &(told(&now), judged(&now)));
            let (next, built) = match (next, built) {
                (Ok(next), Ok(built)) => (next, built),
                (Err(_), Err(_)) => continue,
                (next, built) => return Err(TestCaseError::fail(format!("{:?} {:?}", next.err(), built.err()))),
            };
            let built = built.with_policies(policies.clone());
            prop_assert_eq!(told(&next), told(&built));
            prop_assert_eq!(judged(&next), judged(&built));
            prop_assert_eq!(next.policies().distinct_sets(), built.policies().distinct_sets());
            (now, known) = (next, then);
        }
    }
}

/// A mesh in which nothing may come into a namespace.
fn closed() -> Snapshot {
    let closed = NetworkPolicy {
        namespace: "shop".into(),
        name: "closed".into(),
        pods: Selector::default(),
        ingress: Some(Vec::new()),
        egress: None,
    };
    snapshot().with_policies(Policies { network: vec![closed], ..Policies::default() })
}

#[test]
fn policies_close_a_workload_that_comes_after_them() {
    let before = closed();
    let new = workload("new", "10.0.3.1", "two", Wanted::ByNamespace);
    let next = before.with(2, [Change::Workload(new.clone())]).unwrap();
    let web = next.workload_named("shop", "web").unwrap();
    let to = SocketAddr::new(new.addresses[0], 80);
    let passage = Passage::new(web, web.addresses[0], Some(&new), to, At::Destination);
    let denied = passage.judge(&next).denied.unwrap();
    assert!(denied.why.contains("shop/closed"), "{}", denied.why);
}

#[test]
fn policies_close_workloads_of_which_many_come_at_once() {
    let before = closed();
    for count in [1, 255, 256, 257, 1_000] {
        let new = (0..count).map(|number: u16| {
            let [high, low] = number.to_be_bytes();
            Change::Workload(workload(
                &format!("new-{number}"),
                &format!("10.9.{high}.{low}"),
                "two",
                Wanted::ByNamespace,
            ))
        });
        let next = before.with(2, new).unwrap();
        let selected = |snapshot: &Snapshot| list(snapshot).first().unwrap().selected;
        assert_eq!(selected(&next) - selected(&before), u32::from(count));
    }
}
