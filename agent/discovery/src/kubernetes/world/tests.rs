use lark_core::mode::ModeBy;
use lark_core::route::{Route, decide};
use lark_core::snapshot::{AgentDown, MeshSettings, PolicyChange, SameNode};
use proptest::prelude::*;

use super::*;
use crate::kubernetes::fact::{self, Port};

fn settings() -> MeshSettings {
    MeshSettings {
        trust_domain: TrustDomain::new("cluster.local").unwrap(),
        same_node: SameNode::Agent,
        agent_down: AgentDown::Untouched,
        policy_change: PolicyChange::End,
        cluster_ranges: Vec::new(),
    }
}

fn namespace(name: &str, capture: bool) -> Namespace {
    let value = if capture { "enabled" } else { "disabled" };
    Namespace {
        name: name.into(),
        labels: [("lark.mesh/capture".to_owned(), value.to_owned())].into(),
        annotations: BTreeMap::new(),
    }
}

fn node(name: &str, address: &str) -> Node {
    Node { name: name.into(), addresses: vec![address.parse().unwrap()], zone: None }
}

fn pod(name: &str, uid: &str, address: &str) -> Pod {
    Pod {
        uid: uid.into(),
        namespace: "shop".into(),
        name: name.into(),
        account: Some(name.into()),
        labels: Arc::default(),
        annotations: BTreeMap::new(),
        addresses: vec![address.parse().unwrap()],
        node: Some("two".into()),
        owner: None,
        host_network: false,
        ports: Vec::new(),
        life: Life::Alive,
    }
}

fn service(name: &str, cluster: &str) -> Service {
    Service {
        namespace: "shop".into(),
        name: name.into(),
        cluster: vec![cluster.parse().unwrap()],
        outer: Vec::new(),
        ports: vec![Port { name: Arc::default(), number: 80 }],
        affinity: None,
        local: false,
        near: fact::Near::Any,
    }
}

fn endpoint(address: &str, uid: Option<&str>) -> fact::Endpoint {
    fact::Endpoint {
        address: address.parse().unwrap(),
        pod: uid.map(Arc::from),
        ready: true,
        draining: false,
        node: None,
        zone: None,
        zones: Vec::new(),
        nodes: Vec::new(),
    }
}

fn slice(name: &str, service: &str, endpoints: Vec<fact::Endpoint>) -> Slice {
    Slice {
        namespace: "shop".into(),
        name: name.into(),
        service: service.into(),
        ports: vec![Port { name: Arc::default(), number: 8080 }],
        endpoints,
    }
}

/// A world, and the snapshot that follows it as the watch does it.
struct Followed {
    world: World,
    snapshot: Snapshot,
}

impl Followed {
    fn new() -> Self {
        let world = World::new(settings().trust_domain, Mtls::Permissive, 15008);
        Self { world, snapshot: Snapshot::empty(settings()) }
    }

    /// Two nodes, a captured namespace, a Service.
    fn shop() -> Self {
        let mut shop = Self::new();
        shop.tell([
            Told::Namespace(Event::Changed(namespace("shop", true))),
            Told::Node(Event::Changed(node("one", "192.168.0.1"))),
            Told::Node(Event::Changed(node("two", "192.168.0.2"))),
            Told::Service(Event::Changed(service("db", "10.96.0.1"))),
        ]);
        shop
    }

    fn tell(&mut self, all: impl IntoIterator<Item = Told>) {
        for told in all {
            self.world.take(told);
        }
        let changes = news(&self.snapshot, self.world.changes());
        self.snapshot = self.snapshot.with(self.snapshot.generation + 1, changes).unwrap();
    }

    fn way(&self, to: &str) -> String {
        let decision = decide(&self.snapshot, "one", to.parse().unwrap(), |_, _| None, |_| 0, 0);
        match decision.route {
            Route::Tunnel { destination, address, .. } => format!("{} at {address}", destination.uid),
            Route::Local { destination, .. } => format!("local {}", destination.uid),
            Route::Passthrough { address, .. } => format!("plaintext {address}"),
            Route::Deny { reason } => reason.label().to_owned(),
        }
    }
}

#[test]
fn an_endpoint_is_nobody_until_its_very_pod_is_known_there() {
    let mut shop = Followed::shop();
    shop.tell([
        Told::Pod(Event::Changed(pod("db", "old", "10.0.2.1"))),
        Told::Slice(Event::Changed(slice("db-1", "db", vec![endpoint("10.0.2.1", Some("old"))]))),
    ]);
    assert_eq!(shop.way("10.96.0.1:80"), "old at 10.0.2.1:8080");
    // The slices' watch is ahead of the pods': the address is the next pod's already.
    shop.tell([Told::Slice(Event::Changed(slice("db-1", "db", vec![endpoint("10.0.2.1", Some("new"))])))]);
    assert_eq!(shop.way("10.96.0.1:80"), "destination_unknown");
    shop.tell([Told::Pod(Event::Changed(pod("db", "new", "10.0.2.1")))]);
    assert_eq!(shop.way("10.96.0.1:80"), "new at 10.0.2.1:8080");
    // And the other way round: the pod is another's already, the slice is from before.
    shop.tell([Told::Pod(Event::Changed(pod("db", "newest", "10.0.2.1")))]);
    assert_eq!(shop.way("10.96.0.1:80"), "destination_unknown");
    // A later event about a pod of that name that is gone changes nothing.
    shop.tell([Told::Pod(Event::Gone(pod("db", "new", "10.0.2.1")))]);
    assert_eq!(shop.way("10.0.2.1:80"), "newest at 10.0.2.1:80");
}

#[test]
fn an_address_that_two_live_pods_claim_is_nobodys_and_nothing_else_suffers() {
    let mut shop = Followed::shop();
    let mut other = pod("cache", "c", "10.0.2.3");
    shop.tell([
        Told::Pod(Event::Changed(pod("db", "a", "10.0.2.1"))),
        Told::Pod(Event::Changed(pod("web", "b", "10.0.2.2"))),
        Told::Pod(Event::Changed(other.clone())),
        Told::Slice(Event::Changed(slice("db-1", "db", vec![endpoint("10.0.2.1", Some("a"))]))),
    ]);
    other.addresses = vec!["10.0.2.1".parse().unwrap()];
    shop.tell([Told::Pod(Event::Changed(other.clone()))]);
    for to in ["10.0.2.1:80", "10.96.0.1:80"] {
        assert_eq!(shop.way(to), "destination_unknown", "{to}");
    }
    assert_eq!(shop.way("10.0.2.2:80"), "b at 10.0.2.2:80");
    let db = shop.snapshot.workload("a").unwrap();
    let address = "10.0.2.1".parse().unwrap();
    assert_eq!(*db.contested, [Contested { address, claims: 2, other: "pod shop/cache".to_owned() }]);
    // One of both has ended: the address is the other's.
    other.life = Life::Over;
    shop.tell([Told::Pod(Event::Changed(other))]);
    assert_eq!(shop.way("10.96.0.1:80"), "a at 10.0.2.1:8080");
}

#[test]
fn a_pod_cannot_take_the_address_of_a_service_or_node() {
    let mut shop = Followed::shop();
    shop.tell([
        Told::Pod(Event::Changed(pod("db", "a", "10.0.2.1"))),
        Told::Slice(Event::Changed(slice("db-1", "db", vec![endpoint("10.0.2.1", Some("a"))]))),
        Told::Pod(Event::Changed(pod("thief", "t", "10.96.0.1"))),
        Told::Pod(Event::Changed(pod("crook", "c", "192.168.0.1"))),
    ]);
    assert_eq!(shop.way("10.96.0.1:80"), "a at 10.0.2.1:8080");
    // A captured one that claims it may be who is there: not in plaintext, then.
    assert_eq!(shop.way("192.168.0.1:80"), "destination_unknown");
    let mut other = pod("crook", "c", "192.168.0.1");
    Arc::make_mut(&mut other.labels).insert("lark.mesh/capture".to_owned(), "disabled".to_owned());
    shop.tell([Told::Pod(Event::Changed(other))]);
    assert_eq!(shop.way("192.168.0.1:80"), "plaintext 192.168.0.1:80");
    // Whoever may write Services cannot take a pod's address or another Service's.
    let mut greedy = service("greedy", "10.96.0.2");
    greedy.outer =
        ["10.0.2.1", "10.96.0.1", "192.168.0.1", "198.51.100.1"].map(|a| a.parse().unwrap()).to_vec();
    shop.tell([Told::Service(Event::Changed(greedy))]);
    assert_eq!(shop.way("10.0.2.1:80"), "a at 10.0.2.1:80");
    assert_eq!(shop.way("10.96.0.1:80"), "a at 10.0.2.1:8080");
    let kept = &shop.snapshot.service_named("shop", "greedy").unwrap().addresses;
    assert_eq!(*kept, ["10.96.0.2", "198.51.100.1"].map(|a| a.parse::<IpAddr>().unwrap()));
}

#[test]
fn a_pod_is_no_workload_before_its_namespace_is_known_and_stays_one_when_its_node_goes() {
    let mut world = Followed::new();
    world.tell([Told::Pod(Event::Changed(pod("db", "a", "10.0.2.1")))]);
    assert_eq!(world.snapshot.workloads().count(), 0);
    world.tell([Told::Node(Event::Changed(node("two", "192.168.0.2")))]);
    assert_eq!(world.snapshot.workloads().count(), 0);
    world.tell([Told::Namespace(Event::Changed(namespace("shop", true)))]);
    assert_eq!(world.way("10.0.2.1:80"), "a at 10.0.2.1:80");
    world.tell([Told::Node(Event::Gone(node("two", "192.168.0.2")))]);
    // Its own agent holds it, and others do not dial it in plaintext.
    assert!(world.snapshot.workload("a").unwrap().capture.is_wanted());
    assert_eq!(world.way("10.0.2.1:80"), "node_unknown");
    world.tell([Told::Pod(Event::Changed(pod("db", "a", "10.0.2.1")))]);
    assert_eq!(world.way("10.0.2.1:80"), "node_unknown");
    // Also to an agent that starts meanwhile.
    world.world.forget_told();
    world.snapshot = Snapshot::empty(settings());
    world.tell([]);
    assert_eq!(world.way("10.0.2.1:80"), "node_unknown");
    world.tell([Told::Node(Event::Changed(node("two", "192.168.0.2")))]);
    assert_eq!(world.way("10.0.2.1:80"), "a at 10.0.2.1:80");
}

#[test]
fn an_endpoint_on_a_node_that_is_gone_is_left_for_others() {
    let mut shop = Followed::shop();
    let other = Pod { node: Some("one".into()), ..pod("db-2", "b", "10.0.1.1") };
    let endpoints = vec![endpoint("10.0.2.1", Some("a")), endpoint("10.0.1.1", Some("b"))];
    shop.tell([
        Told::Pod(Event::Changed(pod("db", "a", "10.0.2.1"))),
        Told::Pod(Event::Changed(other.clone())),
        Told::Slice(Event::Changed(slice("db-1", "db", endpoints))),
        Told::Node(Event::Gone(node("two", "192.168.0.2"))),
    ]);
    assert_eq!(shop.way("10.96.0.1:80"), "local b");
    shop.tell([Told::Pod(Event::Gone(other))]);
    assert_eq!(shop.way("10.96.0.1:80"), "destination_unknown");
}

#[test]
fn a_namespace_that_goes_before_its_pods_holds_them_as_it_did() {
    let mut shop = Followed::shop();
    let mut strict = namespace("shop", true);
    strict.labels.insert("lark.mesh/mtls".to_owned(), "strict".to_owned());
    shop.tell([
        Told::Namespace(Event::Changed(strict.clone())),
        Told::Pod(Event::Changed(pod("db", "a", "10.0.2.1"))),
    ]);
    let before = shop.snapshot.workload("a").unwrap().clone();
    assert!(before.mode.is_strict() && before.capture.is_wanted());
    assert!(shop.world.take(Told::Namespace(Event::Gone(strict.clone()))));
    assert!(shop.world.policies().unwrap().namespaces.contains_key("shop"));
    shop.tell([]);
    assert_eq!(shop.snapshot.workload("a"), Some(&before));
    // Another of its name says something else.
    shop.tell([Told::Namespace(Event::Changed(namespace("shop", false)))]);
    assert_eq!(shop.way("10.0.2.1:80"), "plaintext 10.0.2.1:80");
    shop.tell([
        Told::Namespace(Event::Changed(strict.clone())),
        Told::Namespace(Event::Gone(strict)),
        Told::Pod(Event::Gone(pod("db", "a", "10.0.2.1"))),
    ]);
    assert_eq!(shop.snapshot.workloads().count(), 0);
    // With its last pod it is forgotten.
    shop.tell([Told::Pod(Event::Changed(pod("db", "b", "10.0.2.1")))]);
    assert_eq!(shop.snapshot.workloads().count(), 0);
}

#[test]
fn labels_and_annotations_say_whether_a_pod_takes_plaintext() {
    let mut shop = Followed::shop();
    shop.tell([Told::Pod(Event::Changed(pod("db", "1", "10.0.2.1")))]);
    let mode = |shop: &Followed| shop.snapshot.workload("1").unwrap().mode.clone();
    assert_eq!(mode(&shop), Mode::default());
    let mut strict = namespace("shop", true);
    strict.labels.insert("lark.mesh/mtls".to_owned(), "strict".to_owned());
    strict.annotations.insert("lark.mesh/mtls-ports".to_owned(), "9090=permissive".to_owned());
    shop.tell([Told::Namespace(Event::Changed(strict))]);
    let ports = BTreeMap::from([(9090, Mtls::Permissive)]);
    assert_eq!(mode(&shop), Mode { mtls: Mtls::Strict, by: ModeBy::Namespace, ports: ports.clone() });
    let mut own = pod("db", "1", "10.0.2.1");
    Arc::make_mut(&mut own.labels).insert("lark.mesh/mtls".to_owned(), "permissive".to_owned());
    shop.tell([Told::Pod(Event::Changed(own))]);
    assert_eq!(mode(&shop), Mode { mtls: Mtls::Permissive, by: ModeBy::Workload, ports });
}

#[test]
fn a_relabelled_namespace_changes_its_pods_and_services() {
    let mut shop = Followed::shop();
    shop.tell([
        Told::Pod(Event::Changed(pod("db", "a", "10.0.2.1"))),
        Told::Slice(Event::Changed(slice("db-1", "db", vec![endpoint("10.0.2.1", Some("a"))]))),
        Told::Namespace(Event::Changed(namespace("shop", false))),
    ]);
    assert_eq!(shop.way("10.96.0.1:80"), "plaintext 10.0.2.1:8080");
    // Nobody asks for the capture of what might be there: it is left alone as before.
    shop.tell([Told::Pod(Event::Gone(pod("db", "a", "10.0.2.1")))]);
    assert_eq!(shop.way("10.96.0.1:80"), "no_ready_endpoint");
    shop.tell([Told::Namespace(Event::Changed(namespace("shop", true)))]);
    assert_eq!(shop.way("10.96.0.1:80"), "destination_unknown");
}

#[test]
fn endpoints_on_the_host_network_and_of_static_pods_are_outside_of_the_mesh() {
    let mut shop = Followed::shop();
    let ingress = Pod { host_network: true, ..pod("ingress", "i", "192.168.0.2") };
    let fixed = Pod { account: None, ..pod("etcd", "e", "10.0.2.9") };
    let endpoints = vec![endpoint("192.168.0.2", Some("i"))];
    shop.tell([
        Told::Slice(Event::Changed(slice("db-1", "db", endpoints))),
        Told::Pod(Event::Changed(fixed)),
    ]);
    assert_eq!(shop.way("10.96.0.1:80"), "destination_unknown");
    shop.tell([Told::Pod(Event::Changed(ingress))]);
    assert_eq!(shop.way("10.96.0.1:80"), "plaintext 192.168.0.2:8080");
    shop.tell([Told::Slice(Event::Changed(slice("db-1", "db", vec![endpoint("10.0.2.9", Some("e"))])))]);
    assert_eq!(shop.way("10.96.0.1:80"), "plaintext 10.0.2.9:8080");
    // What somebody wrote by hand means whatever is at that address.
    shop.tell([Told::Slice(Event::Changed(slice("db-1", "db", vec![endpoint("198.51.100.7", None)])))]);
    assert_eq!(shop.way("10.96.0.1:80"), "plaintext 198.51.100.7:8080");
}

#[test]
fn an_endpoint_that_moves_between_slices_is_one_and_never_missing() {
    let mut shop = Followed::shop();
    let at = |name: &str| slice(name, "db", vec![endpoint("10.0.2.1", Some("a"))]);
    shop.tell([
        Told::Pod(Event::Changed(pod("db", "a", "10.0.2.1"))),
        Told::Slice(Event::Changed(at("db-1"))),
    ]);
    shop.tell([Told::Slice(Event::Changed(at("db-2")))]);
    assert_eq!(shop.snapshot.service_named("shop", "db").unwrap().endpoints.len(), 1);
    shop.tell([Told::Slice(Event::Gone(at("db-1")))]);
    assert_eq!(shop.way("10.96.0.1:80"), "a at 10.0.2.1:8080");
    // The pod that has its address after it is still looked at.
    shop.tell([Told::Pod(Event::Changed(pod("db", "b", "10.0.2.1")))]);
    assert_eq!(shop.way("10.96.0.1:80"), "destination_unknown");
}

#[test]
fn a_list_replaces_everything_at_its_end_and_not_before() {
    let mut shop = Followed::shop();
    shop.tell([Told::Pod(Event::Changed(pod("db", "a", "10.0.2.1")))]);
    shop.tell([Told::Pod(Event::Listing), Told::Pod(Event::Listed(pod("web", "b", "10.0.2.2")))]);
    assert_eq!(shop.way("10.0.2.1:80"), "a at 10.0.2.1:80");
    assert_eq!(shop.way("10.0.2.2:80"), "destination_unknown");
    // It broke off and begins again.
    shop.tell([
        Told::Pod(Event::Listing),
        Told::Pod(Event::Listed(pod("db", "c", "10.0.2.1"))),
        Told::Pod(Event::ListedAll),
    ]);
    assert_eq!(shop.way("10.0.2.1:80"), "c at 10.0.2.1:80");
    assert_eq!(shop.snapshot.workloads().count(), 1);
}

/// An event by numbers: few names, uids and addresses, so that they meet.
fn told((kind, name, address, bits): (u8, u8, u8, u8)) -> Told {
    let pick = |all: [&'static str; 4], n: u8| all[usize::from(n % 4)];
    let address = pick(["10.0.2.1", "10.0.2.2", "192.168.0.2", "10.96.0.1"], address);
    let pod_name = pick(["db", "web", "cache", "db"], name);
    let uid = format!("{pod_name}-{}", bits % 3);
    match kind % 12 {
        0 => Told::Namespace(Event::Changed(namespace("shop", bits & 1 == 0))),
        1 if bits % 4 == 0 => Told::Namespace(Event::Gone(namespace("shop", true))),
        1 | 2 => Told::Node(Event::Changed(node(
            pick(["one", "two", "two", "two"], name),
            pick(["192.168.0.1", "192.168.0.2", "192.168.0.3", "10.0.2.1"], bits),
        ))),
        3 if bits % 4 == 0 => Told::Node(Event::Gone(node("two", "192.168.0.2"))),
        3 | 4 => Told::Pod(Event::Gone(pod(pod_name, &uid, address))),
        5..=7 => Told::Pod(Event::Changed(Pod {
            life: if bits % 8 == 7 { Life::Over } else { Life::Alive },
            host_network: address == "192.168.0.2" && bits & 8 == 0,
            account: (bits % 16 != 15).then(|| pod_name.into()),
            ..pod(pod_name, &uid, address)
        })),
        8 => {
            let mut service = service(
                pick(["db", "web", "db", "web"], name),
                pick(["10.96.0.1", "10.96.0.2", "10.96.0.1", "10.96.0.3"], bits),
            );
            service.outer.extend((bits & 4 == 4).then(|| address.parse::<IpAddr>().unwrap()));
            Told::Service(Event::Changed(service))
        }
        9 if bits % 3 == 0 => Told::Service(Event::Gone(service("db", "10.96.0.1"))),
        9 => Told::Slice(Event::Gone(slice(pick(["s1", "s2", "s1", "s2"], name), "db", Vec::new()))),
        _ => {
            let target = (bits % 5 != 0).then_some(&*uid);
            let endpoints = vec![endpoint(address, target)];
            Told::Slice(Event::Changed(slice(
                pick(["s1", "s2", "s1", "s2"], name),
                pick(["db", "web", "db", "db"], bits),
                endpoints,
            )))
        }
    }
}

/// The same facts told at once, as to an agent that starts.
fn anew(world: &World) -> Snapshot {
    let mut fresh = Followed::new();
    let namespaces = world.namespaces.all().chain(world.departed.values());
    let namespaces = namespaces.cloned().map(|f| Told::Namespace(Event::Changed(f)));
    let departed = world.departed.values().cloned().map(|f| Told::Namespace(Event::Gone(f)));
    let nodes = world.nodes.all().cloned().map(|f| Told::Node(Event::Changed(f)));
    let pods = world.pods.all().cloned().map(|f| Told::Pod(Event::Changed(f)));
    let services = world.services.all().cloned().map(|f| Told::Service(Event::Changed(f)));
    let slices = world.slices.all().cloned().map(|f| Told::Slice(Event::Changed(f)));
    // In another order than any agent would hear it.
    let all: Vec<Told> =
        slices.chain(services).chain(pods).chain(nodes).chain(namespaces).chain(departed).collect();
    fresh.tell(all);
    fresh.snapshot
}

fn everything(snapshot: &Snapshot) -> Vec<String> {
    let mut all: Vec<String> = snapshot.workloads().map(|w| format!("{w:?}")).collect();
    all.extend(snapshot.services().map(|s| format!("{s:?}")));
    all.extend(snapshot.nodes().map(|n| format!("{n:?}")));
    for address in ["10.0.2.1", "10.0.2.2", "192.168.0.2", "10.96.0.1"] {
        let address = address.parse().unwrap();
        let workload = snapshot.workload_by_address(address).map(|w| w.uid.clone());
        all.push(format!("{workload:?} {:?}", snapshot.service_by_address(address).map(|s| s.full_name())));
    }
    all.sort();
    all
}

proptest! {
    /// Whatever the watches tell, in whatever order: a snapshot can be made, it is the one that would have
    /// been made from the same facts at once, and no address or endpoint stands for a pod that is not known
    /// to be there, alone.
    #[test]
    fn no_order_of_events_leads_to_a_guess(
        events in proptest::collection::vec(any::<(u8, u8, u8, u8)>().prop_map(told), 1..60),
        together in 1..4_usize,
    ) {
        let mut followed = Followed::new();
        for some in events.chunks(together) {
            followed.tell(some.to_vec());
            let (world, snapshot) = (&followed.world, &followed.snapshot);
            prop_assert_eq!(everything(snapshot), everything(&anew(world)));
            let alive = |address: IpAddr| -> Vec<Arc<str>> {
                let is_there = |p: &&Pod| !p.host_network && p.life == Life::Alive && p.addresses.contains(&address);
                world.pods.all().filter(is_there).map(|p| p.uid.clone()).collect()
            };
            for address in ["10.0.2.1", "10.0.2.2", "192.168.0.2", "10.96.0.1"] {
                let address: IpAddr = address.parse().unwrap();
                if let Some(workload) = snapshot.workload_by_address(address) {
                    prop_assert_eq!(alive(address), vec![workload.uid.clone()]);
                }
            }
            for service in snapshot.services() {
                let key = (service.namespace.clone(), service.name.clone());
                for endpoint in service.endpoints.iter().filter(|e| !e.unknown) {
                    let named: Vec<_> = world.endpoints(&key).filter(|(_, e)| e.address == endpoint.address).collect();
                    let alive = alive(endpoint.address);
                    prop_assert!(alive.len() <= 1, "{endpoint:?} of {alive:?}");
                    let is_named = named.iter().any(|(_, e)| e.pod.is_none() || alive.is_empty() || e.pod.as_ref() == alive.first());
                    prop_assert!(is_named, "{endpoint:?} is not {alive:?}");
                }
            }
        }
    }
}
