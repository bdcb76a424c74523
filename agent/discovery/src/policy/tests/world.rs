//! Three namespaces of three pods each, on two nodes, and who else there is.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use lark_core::capture::Wanted;
use lark_core::identity::SpiffeId;
use lark_core::policy::{Attempt, End, Labels, Policies, PolicyIndex};
use lark_core::snapshot::{NamedPort, Node, Workload};

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// `x`, `w` and `z`; the latter two are of team red.
pub(super) fn namespaces() -> BTreeMap<Arc<str>, Labels> {
    [
        ("x", &[("ns", "x")][..]),
        ("w", &[("ns", "w"), ("team", "red")]),
        ("z", &[("ns", "z"), ("team", "red")]),
    ]
    .map(|(name, pairs)| (name.into(), labels(pairs)))
    .into()
}

fn pod(
    namespace: &str,
    name: &str,
    addresses: &[String],
    node: &str,
    tags: &[(&str, &str)],
) -> Arc<Workload> {
    Arc::new(Workload {
        uid: format!("{namespace}.{name}").into(),
        namespace: namespace.into(),
        name: name.into(),
        account: name.into(),
        identity: SpiffeId::new(&super::domain(), namespace, name).unwrap(),
        labels: labels(tags).into(),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        contested: Box::default(),
        node: node.into(),
        owner: None,
        host_network: namespace == "host",
        ports: [("web", 80), ("admin", if name == "b" { 9000 } else { 8000 })]
            .map(|(name, port)| NamedPort { name: name.to_owned(), port })
            .into(),
        place: None,
        foreign_policies: Box::default(),
        mode: lark_core::mode::Mode::default(),
        capture: Wanted::ByNamespace,
    })
}

/// `x/a` to `z/c`, and a pod on the host network of each node. Those of x are on node one.
fn pods() -> Vec<Arc<Workload>> {
    let mut pods = Vec::new();
    for (n, namespace) in (1..).zip(["x", "w", "z"]) {
        for (p, name) in (1..).zip(["a", "b", "c"]) {
            let mut tags = vec![("pod", name)];
            tags.extend(match name {
                "a" => Some(("tier", "front")),
                "b" => Some(("tier", "back")),
                _ => None,
            });
            let addresses = [format!("10.0.{n}.{p}"), format!("fd00:{n}::{p}")];
            pods.push(pod(namespace, name, &addresses, if namespace == "x" { "one" } else { "two" }, &tags));
        }
    }
    for (node, address) in [("one", "192.168.0.1"), ("two", "192.168.0.2")] {
        pods.push(pod("host", node, &[address.to_owned()], node, &[("pod", "a")]));
    }
    pods
}

/// Policies over this world.
pub(super) struct World {
    pods: Vec<Arc<Workload>>,
    index: PolicyIndex,
}

impl World {
    pub(super) fn new(policies: Policies) -> Self {
        let pods = pods();
        let nodes = [("one", "192.168.0.1"), ("two", "192.168.0.2")].map(|(name, address)| Node {
            name: name.into(),
            addresses: vec![address.parse().unwrap()],
            tunnel_port: 15008,
            zone: None,
        });
        let index = PolicyIndex::build(policies, pods.iter(), nodes.iter());
        Self { pods, index }
    }

    /// `NAMESPACE/NAME`, with a `6` behind it for its second address, or an address outside.
    fn end(&self, text: &str) -> End<'_> {
        let (name, second) = text.strip_suffix('6').filter(|n| n.contains('/')).map_or((text, 0), |n| (n, 1));
        match self.pods.iter().find(|w| w.full_name() == name) {
            Some(pod) => End { workload: Some(pod), address: pod.addresses[second], proved: true },
            None => End { workload: None, address: text.parse::<IpAddr>().unwrap(), proved: false },
        }
    }

    /// What both ends' agents say of `SOURCE>DESTINATION:PORT`: all in one sentence each.
    pub(super) fn ask(&self, connection: &str) -> (bool, String) {
        let (from, to) = connection.split_once('>').unwrap();
        let (to, port) = to.rsplit_once(':').unwrap();
        let attempt =
            Attempt { source: self.end(from), destination: self.end(to), port: port.parse().unwrap() };
        let egress = self.index.egress(&attempt);
        let [authorization, ingress] = self.index.inbound(&attempt);
        let all = [egress, authorization, ingress];
        let told = all.iter().map(|d| d.to_string()).collect::<Vec<_>>().join("; ");
        (all.iter().all(|d| d.allowed), told)
    }

    /// Asks each `CONNECTION+` or `CONNECTION-` of a list; returns how many there were.
    pub(super) fn expect(&self, title: &str, connections: &str) -> usize {
        let all: Vec<&str> = connections.split_whitespace().collect();
        for asked in &all {
            let (connection, allowed) = match asked.strip_suffix('+') {
                Some(connection) => (connection, true),
                None => (asked.strip_suffix('-').unwrap(), false),
            };
            let (answer, told) = self.ask(connection);
            assert_eq!(answer, allowed, "{title}: {connection}: {told}");
        }
        all.len()
    }
}
