//! What the admin API tells, gathered from where it is kept.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, UNIX_EPOCH};

use lark_bpf::{Counters, Heartbeat, Kernel};
use lark_core::capture::PodState;
use lark_core::observe::Secured;
use lark_core::route::{decide, mesh_destinations};
use lark_core::snapshot::Snapshot;
use lark_core::view::{
    BpfView, CertView, CheckView, ConnectionView, CounterView, EdgeView, LinkView, MapView, Party,
    ProgramView, ServiceView, StateCount, Status, TraceView, WorkloadView,
};
use lark_discovery::Discovery;
use lark_identity::{SvidState, SvidStore};
use lark_sys::cgroup::Cgroup;
use lark_sys::netns::NetNs;

use super::check::{self, Facts};
use crate::admin::Source;
use crate::capture::PodReport;
use crate::cli::AgentArgs;
use crate::observe::Observer;

/// Established connections listed of one pod.
const CONNECTIONS_A_POD: usize = 10_000;

pub(super) struct AgentSource {
    node: Arc<str>,
    ca_url: String,
    workers: usize,
    started: Instant,
    discovery: Discovery,
    svids: SvidStore,
    observer: Observer,
    kernel: Arc<Mutex<Kernel>>,
    counters: Counters,
    heartbeat: Heartbeat,
    reports: Arc<Mutex<Vec<PodReport>>>,
    ready: Arc<AtomicBool>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AgentSource {
    #[expect(clippy::too_many_arguments, reason = "wiring: each part is used once")]
    pub(super) fn new(
        args: &AgentArgs,
        node: Arc<str>,
        workers: usize,
        discovery: Discovery,
        svids: SvidStore,
        observer: Observer,
        kernel: Arc<Mutex<Kernel>>,
        counters: Counters,
        heartbeat: Heartbeat,
        reports: Arc<Mutex<Vec<PodReport>>>,
    ) -> Self {
        Self {
            node,
            ca_url: args.ca_url.clone(),
            workers,
            started: Instant::now(),
            discovery,
            svids,
            observer,
            kernel,
            counters,
            heartbeat,
            reports,
            ready: Arc::default(),
        }
    }

    pub(super) fn ready_flag(&self) -> Arc<AtomicBool> {
        self.ready.clone()
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.discovery.snapshot.borrow().clone()
    }

    fn reports(&self) -> Vec<PodReport> {
        locked(&self.reports).clone()
    }

    fn states(&self) -> Vec<StateCount> {
        let mut counts = std::collections::BTreeMap::new();
        for report in self.reports() {
            *counts.entry(report.state.label()).or_insert(0) += 1;
        }
        counts.into_iter().map(|(state, count)| StateCount { state: state.to_owned(), count }).collect()
    }

    /// Connections of captured pods that Lark does not carry: from before the capture, or to peers
    /// outside the mesh. Seen in the pods' namespaces, so nothing is believed.
    fn plaintext(&self, snapshot: &Snapshot) -> Vec<ConnectionView> {
        let mut all = Vec::new();
        for report in
            self.reports().iter().filter(|r| matches!(r.state, PodState::Captured | PodState::Releasing))
        {
            let Some(workload) = snapshot.workload(&report.uid) else { continue };
            let Some(place) = &workload.place else { continue };
            let (Ok(netns), Ok(cgroup)) = (NetNs::open(&place.netns), Cgroup::open(&place.cgroup)) else {
                continue;
            };
            let below = cgroup.ids_below();
            let Ok(Ok(found)) = netns.within(|| lark_sys::connections::established(CONNECTIONS_A_POD)) else {
                continue;
            };
            let me = party(workload);
            for connection in found {
                // Redirected and delivered ones have a loopback end.
                let local = connection.local.ip().is_loopback() || connection.remote.ip().is_loopback();
                let own = connection.local.ip() == connection.remote.ip();
                if local || own || connection.cgroup.is_none_or(|id| !below.contains(&id)) {
                    continue;
                }
                let peer = snapshot.workload_by_address(connection.remote.ip()).map_or_else(
                    || Party {
                        name: connection.remote.ip().to_string(),
                        owner: "outside".to_owned(),
                        ..Party::default()
                    },
                    |w| party(w),
                );
                all.push(ConnectionView {
                    direction: "outbound".to_owned(),
                    source: me.clone(),
                    destination: peer,
                    source_address: connection.local.to_string(),
                    destination_address: connection.remote.to_string(),
                    service: None,
                    secured: Some(Secured::Plaintext),
                    sent_bytes: 0,
                    received_bytes: 0,
                    age_seconds: None,
                    note: "not carried by Lark: older than the capture, or with a peer outside the mesh; either end may have dialled".to_owned(),
                });
            }
        }
        all
    }
}

/// A workload as views show it.
pub(super) fn party(workload: &lark_core::snapshot::Workload) -> Party {
    Party {
        namespace: workload.namespace.to_string(),
        name: workload.name.to_string(),
        owner: workload
            .owner
            .as_ref()
            .map_or_else(|| workload.name.to_string(), |o| format!("{}/{}", o.kind, o.name)),
        identity: String::new(),
    }
}

impl Source for AgentSource {
    fn status(&self) -> Status {
        let snapshot = self.snapshot();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.node.to_string(),
            trust_domain: snapshot.mesh.trust_domain.to_string(),
            ready: self.ready(),
            uptime_seconds: self.started.elapsed().as_secs(),
            workers: self.workers,
            discovery_generation: snapshot.generation,
            discovery_error: self.discovery.health.borrow().error.clone(),
            pods: self.states(),
            connections_open: self.observer.open_connections(),
            ca_url: self.ca_url.clone(),
        }
    }

    fn workloads(&self) -> Vec<WorkloadView> {
        let reports: std::collections::HashMap<_, _> =
            self.reports().into_iter().map(|r| (r.uid.clone(), r)).collect();
        self.snapshot()
            .workloads()
            .map(|w| {
                let (state, why) = match reports.get(&w.uid) {
                    Some(report) => (report.state.label(), report.state.why().to_owned()),
                    None if *w.node == *self.node => ("pending", "not looked at yet".to_owned()),
                    None => ("remote", String::new()),
                };
                WorkloadView {
                    namespace: w.namespace.to_string(),
                    name: w.name.to_string(),
                    node: w.node.to_string(),
                    identity: w.identity.to_string(),
                    addresses: w.addresses.iter().map(ToString::to_string).collect(),
                    wanted: w.capture.why().to_owned(),
                    state: state.to_owned(),
                    why,
                }
            })
            .collect()
    }

    fn services(&self) -> Vec<ServiceView> {
        let snapshot = self.snapshot();
        let mesh: std::collections::HashSet<_> =
            mesh_destinations(&snapshot).into_iter().map(|d| d.address).collect();
        snapshot
            .services()
            .iter()
            .map(|s| ServiceView {
                namespace: s.namespace.to_string(),
                name: s.name.to_string(),
                addresses: s.addresses.iter().map(ToString::to_string).collect(),
                ports: s.ports.iter().map(|p| format!("{}->{}", p.port, p.target_port)).collect(),
                ready: s.endpoints.iter().filter(|e| e.ready).count(),
                endpoints: s.endpoints.len(),
                in_mesh: s.addresses.iter().any(|a| mesh.contains(&a.to_canonical())),
            })
            .collect()
    }

    fn connections(&self) -> Vec<ConnectionView> {
        let mut all = self.observer.connections();
        all.extend(self.plaintext(&self.snapshot()));
        all
    }

    fn edges(&self) -> Vec<EdgeView> {
        let mut edges = self.observer.edges();
        let mut plain: std::collections::BTreeMap<(Party, Party), u64> = std::collections::BTreeMap::new();
        for connection in self.plaintext(&self.snapshot()) {
            let by_owner = |party: Party| Party { name: party.owner.clone(), ..party };
            *plain.entry((by_owner(connection.source), by_owner(connection.destination))).or_insert(0) += 1;
        }
        edges.extend(plain.into_iter().map(|((source, destination), open)| EdgeView {
            direction: "outbound".to_owned(),
            source,
            destination,
            secured: Secured::Plaintext,
            connections: open,
            open,
            sent_bytes: 0,
            received_bytes: 0,
            reason: None,
        }));
        edges
    }

    fn certs(&self) -> Vec<CertView> {
        self.svids
            .status()
            .into_iter()
            .map(|s| CertView {
                identity: s.id.to_string(),
                state: match s.state {
                    SvidState::Pending => "pending",
                    SvidState::Valid => "valid",
                    SvidState::RenewalLate => "renewal_late",
                    SvidState::Expired => "expired",
                }
                .to_owned(),
                expires_at: s.not_after.and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map(|d| d.as_secs()),
                serial: s.serial,
                last_error: s.last_error,
            })
            .collect()
    }

    fn check(&self) -> Vec<CheckView> {
        let (pinned, usage, entries) = {
            let kernel = locked(&self.kernel);
            let reports = self.reports();
            let entries = reports
                .iter()
                .filter_map(|r| Some((r.uid.clone(), kernel.entry(r.cgroup_id?).ok()?)))
                .collect();
            (kernel.pinned(), kernel.usage().unwrap_or_default(), entries)
        };
        check::run(&Facts {
            reports: self.reports(),
            pinned,
            usage,
            entries,
            certs: self.certs(),
            discovery: self.discovery.health.borrow().clone(),
            heartbeat_age_ns: self.heartbeat.age_ns().ok().flatten(),
        })
    }

    fn bpf(&self) -> BpfView {
        let kernel = locked(&self.kernel);
        BpfView {
            programs: kernel.programs().into_iter().map(|(name, id)| ProgramView { name, id }).collect(),
            links: kernel
                .pinned()
                .into_iter()
                .flat_map(|pod| {
                    let name = pod.name;
                    pod.links.into_iter().map(move |l| LinkView {
                        pod: name.clone(),
                        hook: l.hook,
                        link_id: l.link_id,
                        program_id: l.program_id,
                        cgroup_id: l.cgroup_id,
                    })
                })
                .collect(),
            maps: kernel
                .usage()
                .unwrap_or_default()
                .into_iter()
                .map(|u| MapView { name: u.map.to_owned(), entries: u.entries, max: u.max })
                .collect(),
            counters: self
                .counters
                .read()
                .unwrap_or_default()
                .into_iter()
                .map(|(counter, count)| CounterView {
                    event: counter.label().to_owned(),
                    count,
                    meaning: counter.meaning().trim().to_owned(),
                })
                .collect(),
        }
    }

    fn trace(&self, from: &str, to: &str) -> Result<TraceView, String> {
        let snapshot = self.snapshot();
        let (namespace, name) =
            from.split_once('/').ok_or_else(|| format!("--from {from} must be NAMESPACE/NAME"))?;
        let source = snapshot
            .workload_named(namespace, name)
            .ok_or_else(|| format!("no workload {from} is known; see `lark workloads`"))?;
        let asked: SocketAddr = to.parse().map_err(|_| format!("--to {to} must be IP:PORT"))?;
        if *source.node != *self.node {
            return Err(format!("{from} runs on node {}; ask the agent there", source.node));
        }
        let ip = asked.ip().to_canonical();
        let untouched = |why: String| TraceView {
            from: from.to_owned(),
            to: to.to_owned(),
            way: "untouched".to_owned(),
            steps: vec![lark_core::route::Step { stage: "capture".to_owned(), found: why }],
        };
        let report = self.reports().into_iter().find(|r| r.uid == source.uid);
        let state = report.map_or(PodState::Pending { why: String::new() }, |r| r.state);
        if state != PodState::Captured {
            return Ok(untouched(format!("{from} is {}: {}", state.label(), state.why())));
        }
        if source.addresses.iter().any(|a| a.to_canonical() == ip) {
            return Ok(untouched(
                "the destination is the pod itself; it never leaves its namespace".to_owned(),
            ));
        }
        let taken = mesh_destinations(&snapshot)
            .into_iter()
            .find(|d| d.address == ip && d.port.is_none_or(|p| p == asked.port()));
        if taken.is_none() {
            return Ok(untouched(format!(
                "{asked} is no mesh destination; the kernel leaves the connect alone"
            )));
        }
        let decision = decide(&snapshot, &self.node, asked, |_| 0, 0);
        Ok(TraceView {
            from: from.to_owned(),
            to: to.to_owned(),
            way: decision.way().to_owned(),
            steps: decision.steps(asked),
        })
    }

    fn metrics(&self) -> String {
        let gauges = super::gauges::gather(self);
        self.observer.metrics(&gauges).unwrap_or_else(|error| {
            tracing::error!(%error, "metrics cannot be shown");
            String::new()
        })
    }

    fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }
}

impl AgentSource {
    pub(super) fn pods_by_state(&self) -> Vec<StateCount> {
        self.states()
    }

    pub(super) fn discovery_health(&self) -> (bool, u64) {
        (self.discovery.health.borrow().error.is_none(), self.snapshot().generation)
    }
}
