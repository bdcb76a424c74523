use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lark_core::capture::Wanted;
use lark_core::identity::{SpiffeId, TrustDomain};
use lark_core::policy::{
    Action, AuthorizationPolicy, AuthorizationRule, NetworkPolicy, NetworkRule, Peer, Peers, Policies,
    PortMatch, Ports, Scope, Selector, Source,
};
use lark_core::route::{Route, changed_destinations, decide, mesh_destinations};
use lark_core::snapshot::{
    AgentDown, Alike, Change, Endpoint, MeshSettings, Node, PolicyChange, SameNode, Service, ServicePort,
    Snapshot, Traffic, Workload,
};
use serde_json::{Value, json};

use crate::cost::{quantile, resident};

/// Pods of one Deployment, and endpoints of its Service.
const REPLICAS: usize = 10;
const NAMESPACES: usize = 200;
const UPDATES: usize = 2_000;
const DECISIONS: usize = 200_000;

struct Cluster {
    domain: TrustDomain,
    workloads: usize,
    services: usize,
    nodes: usize,
}

/// Address of a number in a block of its own.
fn address(block: u8, number: usize) -> IpAddr {
    let [.., b, c, d] = number.to_be_bytes();
    IpAddr::from([block, b, c, d])
}

impl Cluster {
    fn node(&self, number: usize) -> Node {
        Node {
            name: node_name(number),
            addresses: vec![address(172, number)],
            tunnel_port: 15008,
            zone: None,
        }
    }

    /// A pod as Kubernetes has it, `life` being how often it was replaced.
    fn workload(&self, number: usize, life: usize) -> Result<Workload> {
        let deployment = number / REPLICAS;
        let (namespace, account) = (format!("team-{}", deployment % NAMESPACES), format!("app-{deployment}"));
        let labels = [
            ("app.kubernetes.io/name", account.clone()),
            ("app.kubernetes.io/part-of", namespace.clone()),
            ("app.kubernetes.io/version", "1.27.3".to_owned()),
            ("pod-template-hash", format!("{:010x}", deployment * 7919)),
        ];
        Ok(Workload {
            uid: format!("{number:08x}-{life:04x}-4000-8000-{:012x}", deployment * 31).into(),
            namespace: namespace.as_str().into(),
            name: format!("{account}-{:010x}-{:05x}", deployment * 7919, number + life * 1_000_003).into(),
            account: account.as_str().into(),
            identity: SpiffeId::new(&self.domain, &namespace, &account)?,
            labels: labels.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<BTreeMap<_, _>>().into(),
            addresses: [address(if life == 0 { 10 } else { 11 }, number)].into(),
            contested: Box::default(),
            node: node_name((number + life) % self.nodes),
            owner: Some(format!("Deployment/{account}").into()),
            host_network: false,
            ports: Box::default(),
            place: None,
            foreign_policies: Box::default(),
            capture: Wanted::ByNamespace,
            mode: lark_core::mode::Mode::default(),
        })
    }

    fn service(&self, number: usize, endpoints: impl Iterator<Item = IpAddr>) -> Service {
        Service {
            namespace: format!("team-{}", number % NAMESPACES).into(),
            name: format!("app-{number}").into(),
            addresses: vec![address(192, number)],
            ports: [80, 443].map(|port| ServicePort { name: None, port, target_port: port + 8000 }).into(),
            endpoints: endpoints.map(|address| Endpoint::new(address, true)).collect(),
            traffic: Traffic::default(),
        }
    }

    /// A snapshot of all, and the seconds that it took. What facts have alike is shared as each is learnt, as
    /// discovery does it.
    fn build(&self, alike: &mut Alike) -> Result<(Snapshot, f64)> {
        let mut sharing = Duration::ZERO;
        let mut nodes: Vec<_> = (0..self.nodes).map(|n| self.node(n)).collect();
        let mut workloads = Vec::with_capacity(self.workloads);
        for number in 0..self.workloads {
            let mut workload = self.workload(number, 0)?;
            let began = Instant::now();
            alike.workload(&mut workload);
            sharing += began.elapsed();
            workloads.push(workload);
        }
        let mut services: Vec<_> = (0..self.services)
            .map(|n| self.service(n, (n * REPLICAS..(n + 1) * REPLICAS).map(|pod| address(10, pod))))
            .collect();
        alike.texts(nodes.iter_mut().map(|node| &mut node.name));
        alike.texts(services.iter_mut().map(|service| &mut service.namespace));
        let mesh = MeshSettings {
            trust_domain: self.domain.clone(),
            same_node: SameNode::Agent,
            agent_down: AgentDown::Untouched,
            policy_change: PolicyChange::End,
            cluster_ranges: Vec::new(),
        };
        let began = Instant::now();
        let snapshot = Snapshot::build(1, mesh, nodes, workloads, services)?;
        Ok((snapshot, (began.elapsed() + sharing).as_secs_f64()))
    }

    /// Replaces pods that have been replaced `life` times: one workload less, another one, and its Service with its
    /// endpoints. Returns the milliseconds of each in order of size, and how many destinations all of them changed.
    fn replace_pods(
        &self,
        snapshot: &mut Snapshot,
        alike: &mut Alike,
        life: usize,
    ) -> Result<(Vec<f64>, usize)> {
        let mut updates = Vec::with_capacity(UPDATES);
        let mut written = 0;
        for update in 0..UPDATES {
            let number = update.wrapping_mul(7_919) % (self.services * REPLICAS);
            let (old, mut new) = (self.workload(number, life)?, self.workload(number, life + 1)?);
            let service = number / REPLICAS;
            let was = snapshot.service_by_address(address(192, service)).context("no such Service")?.clone();
            let endpoints = was.endpoints.iter().map(|e| match e.address == address(10, number) {
                true => address(11, number),
                false => e.address,
            });
            let service = self.service(service, endpoints);
            let began = Instant::now();
            alike.workload(&mut new);
            let changes = [Change::WorkloadGone(old.uid), Change::Workload(new), Change::Service(service)];
            let next = snapshot.with(snapshot.generation + 1, changes)?;
            let changed = changed_destinations(snapshot, &next);
            *snapshot = next;
            updates.push(began.elapsed().as_secs_f64() * 1e3);
            written += changed.written.len() + changed.removed.len();
        }
        updates.sort_by(f64::total_cmp);
        Ok((updates, written))
    }

    /// Policies as clusters have them: each namespace closed but for what is opened, and of every fifth application
    /// who may come in, by each of the two kinds.
    fn policies(&self) -> Policies {
        let namespace = |deployment: usize| Arc::from(format!("team-{}", deployment % NAMESPACES));
        let app = |deployment: usize| Selector {
            labels: [("app.kubernetes.io/name".to_owned(), format!("app-{deployment}"))].into(),
            expressions: Vec::new(),
        };
        let closed = (0..NAMESPACES).map(|number| NetworkPolicy {
            namespace: namespace(number),
            name: "closed".into(),
            pods: Selector::default(),
            ingress: Some(Vec::new()),
            egress: None,
        });
        let some = || (0..self.workloads / REPLICAS).step_by(5);
        let opened = some().map(|deployment| NetworkPolicy {
            namespace: namespace(deployment),
            name: format!("app-{deployment}").into(),
            pods: app(deployment),
            ingress: Some(vec![NetworkRule {
                peers: Peers::These(vec![Peer::Pods {
                    namespaces: None,
                    pods: app(deployment + NAMESPACES),
                }]),
                ports: Ports::These(vec![PortMatch::Range(8080..=8443)]),
            }]),
            egress: None,
        });
        let authorization = some().map(|deployment| AuthorizationPolicy {
            namespace: namespace(deployment),
            name: format!("app-{deployment}").into(),
            scope: Scope::Namespace,
            selector: app(deployment),
            action: Action::Allow,
            dry_run: false,
            rules: vec![AuthorizationRule {
                from: vec![Source {
                    namespaces: vec![namespace(deployment).to_string()],
                    ..Source::default()
                }],
                ports: Vec::new(),
            }],
        });
        Policies {
            network: closed.chain(opened).collect(),
            authorization: authorization.collect(),
            ..Policies::default()
        }
    }
}

fn node_name(number: usize) -> Arc<str> {
    format!("node-{number}.example.internal").into()
}

/// Everything about one cluster.
pub(crate) fn measure(workloads: usize, services: usize, nodes: usize) -> Result<Value> {
    ensure!(services * REPLICAS <= workloads, "there are fewer workloads than endpoints");
    let own = std::process::id();
    let cluster = Cluster { domain: TrustDomain::new("cluster.local")?, workloads, services, nodes };
    let before = resident(own)?;
    let mut alike = Alike::default();
    let (mut snapshot, load) = cluster.build(&mut alike)?;
    let memory = resident(own)? - before;
    let destinations = mesh_destinations(&snapshot).len();

    let (updates, written) = cluster.replace_pods(&mut snapshot, &mut alike, 0)?;

    let mut decisions = Vec::with_capacity(DECISIONS);
    let mut tunnels = 0;
    for turn in 0..DECISIONS {
        let dice = (turn as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let to = SocketAddr::new(address(192, turn.wrapping_mul(104_729) % services), 443);
        let began = Instant::now();
        let decision = decide(&snapshot, "node-0.example.internal", to, |_, _| None, |_| 0, dice);
        decisions.push(began.elapsed().as_secs_f64() * 1e6);
        tunnels += usize::from(matches!(decision.route, Route::Tunnel { .. }));
    }
    ensure!(tunnels > DECISIONS / 2, "only {tunnels} decisions led to a tunnel");
    decisions.sort_by(f64::total_cmp);
    let unknown = SocketAddr::new(Ipv4Addr::new(9, 9, 9, 9).into(), 443);
    ensure!(
        matches!(decide(&snapshot, "node-0", unknown, |_, _| None, |_| 0, 0).route, Route::Deny { .. }),
        "an unknown destination is known"
    );

    let policies = cluster.policies();
    let many = policies.network.len() + policies.authorization.len();
    let began = Instant::now();
    snapshot = snapshot.with_policies(policies);
    let compiled = began.elapsed().as_secs_f64();
    let (with_policies, _) = cluster.replace_pods(&mut snapshot, &mut alike, 1)?;
    Ok(json!({
        "workloads": workloads, "services": services, "nodes": nodes,
        "load_s": load,
        "bytes_a_workload": memory / workloads as f64,
        "destinations": destinations,
        "update_p50_ms": quantile(&updates, 0.5), "update_p99_ms": quantile(&updates, 0.99),
        "destinations_an_update": written as f64 / UPDATES as f64,
        "route_p50_us": quantile(&decisions, 0.5), "route_p99_us": quantile(&decisions, 0.99),
        "policies": many, "policies_compile_s": compiled,
        "policies_update_p50_ms": quantile(&with_policies, 0.5),
        "policies_update_p99_ms": quantile(&with_policies, 0.99),
    }))
}
