//! What the admin API tells, gathered from where it is kept.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use lark_abi::PodEntry;
use lark_bpf::{Counters, Heartbeat, Kernel, file_name};
use lark_core::capture::PodState;
use lark_core::check::{self, Facts, GuardFacts, PodFacts};
use lark_core::observe::Secured;
use lark_core::policy;
use lark_core::route::is_in_mesh;
use lark_core::snapshot::{Snapshot, Workload};
use lark_core::tap::Filter;
use lark_core::trace;
use lark_core::view::{
    BpfView, CertView, CheckView, ConnectionView, CounterView, CourseView, EdgeView, HistoryView, LinkView,
    LogView, MapView, Party, PolicyExplainView, PolicyView, ProgramView, RequestsView, ServiceView,
    StateCount, Status, TraceView, WorkloadView,
};
use lark_discovery::Discovery;
use lark_identity::{SvidState, SvidStore};
use tokio::sync::watch;

use super::accept::Seats;
use super::drain::Drains;
use super::heartbeat::Watched;
use super::logs::Logs;
use crate::admin::Source;
use crate::capture::{PodReport, Pods, StrictReport, plaintext};
use crate::cli::AgentArgs;
use crate::observe::{Observer, Tap};

pub(super) struct AgentSource {
    node: Arc<str>,
    ca_url: String,
    long_stream: u64,
    seats: Seats,
    watched: Vec<Watched>,
    records: String,
    started: Instant,
    discovery: Discovery,
    svids: SvidStore,
    observer: Observer,
    kernel: Arc<Mutex<Kernel>>,
    counters: Counters,
    heartbeat: Heartbeat,
    pods: Arc<Pods>,
    reports: Arc<Mutex<Vec<PodReport>>>,
    strict: Arc<Mutex<StrictReport>>,
    ready: watch::Receiver<bool>,
    drains: Drains,
    logs: Logs,
    /// Since when pods are pending, as far as that was looked at.
    pending: Mutex<HashMap<Arc<str>, Instant>>,
}

/// A pod that is pending for longer than this is told of: its certificate, or its cgroup, should have been there.
const PENDING_LONG: Duration = Duration::from_secs(30);

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AgentSource {
    #[expect(clippy::too_many_arguments, reason = "wiring: each part is used once")]
    pub(super) fn new(
        args: &AgentArgs,
        node: Arc<str>,
        seats: Seats,
        watched: Vec<Watched>,
        records: String,
        discovery: Discovery,
        svids: SvidStore,
        observer: Observer,
        kernel: Arc<Mutex<Kernel>>,
        counters: Counters,
        heartbeat: Heartbeat,
        pods: Arc<Pods>,
        reports: Arc<Mutex<Vec<PodReport>>>,
        strict: Arc<Mutex<StrictReport>>,
        ready: watch::Receiver<bool>,
        drains: Drains,
        logs: Logs,
    ) -> Self {
        Self {
            node,
            ca_url: args.ca_url.clone(),
            long_stream: args.long_stream,
            seats,
            watched,
            records,
            started: Instant::now(),
            discovery,
            svids,
            observer,
            kernel,
            counters,
            heartbeat,
            pods,
            reports,
            strict,
            ready,
            drains,
            logs,
            pending: Mutex::default(),
        }
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

    fn plaintext(&self) -> Vec<ConnectionView> {
        let mut told = self.observer.ends();
        let open = locked(&self.kernel).guards().direct();
        told.extend(open.into_iter().map(|c| (c.source, c.destination)));
        plaintext::connections(&self.pods, &self.snapshot(), &told)
    }

    /// How full the kernel's maps are.
    pub(super) fn maps(&self) -> Vec<MapView> {
        maps(&locked(&self.kernel))
    }

    /// What the hooks have counted.
    pub(super) fn counted(&self) -> Vec<CounterView> {
        let counted = self.counters.read().unwrap_or_default().into_iter();
        counted
            .map(|(counter, count)| CounterView {
                event: counter.label().to_owned(),
                count,
                meaning: counter.meaning().trim().to_owned(),
            })
            .collect()
    }
}

fn maps(kernel: &Kernel) -> Vec<MapView> {
    let usage = kernel.usage().unwrap_or_default().into_iter();
    usage.map(|u| MapView { name: u.map.to_owned(), entries: u.entries, max: u.max }).collect()
}

impl Source for AgentSource {
    fn failing(&self) -> Vec<(String, String)> {
        let (now, snapshot, reports) = (Instant::now(), self.snapshot(), self.reports());
        let is_pending = |report: &&PodReport| matches!(report.state, PodState::Pending { .. });
        let waiting: HashSet<&Arc<str>> = reports.iter().filter(is_pending).map(|r| &r.uid).collect();
        let mut pending = locked(&self.pending);
        pending.retain(|uid, _| waiting.contains(uid));
        let fails = |report: &&PodReport| match &report.state {
            PodState::Failed { .. } => true,
            PodState::Pending { .. } => {
                now.duration_since(*pending.entry(report.uid.clone()).or_insert(now)) >= PENDING_LONG
            }
            // What labels ask for cannot be done.
            PodState::NotCaptured { .. } => {
                snapshot.workload(&report.uid).is_some_and(|w| w.capture.is_mistaken())
            }
            PodState::Waiting { .. } | PodState::Captured | PodState::Releasing => false,
        };
        let failing: Vec<&PodReport> = reports.iter().filter(fails).collect();
        failing.into_iter().map(|r| (r.uid.to_string(), r.state.why().to_owned())).collect()
    }

    fn status(&self) -> Status {
        let snapshot = self.snapshot();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.node.to_string(),
            trust_domain: snapshot.mesh.trust_domain.to_string(),
            ready: self.ready(),
            uptime_seconds: self.started.elapsed().as_secs(),
            workers: self.accepted().len(),
            records: self.records.clone(),
            discovery_generation: snapshot.generation,
            discovery_error: self.discovery.health.borrow().error.clone(),
            pods: self.states(),
            connections_open: self.observer.open_connections(),
            ca_url: self.ca_url.clone(),
            draining: self.drains.views(),
            withheld: false,
        }
    }

    fn workloads(&self) -> Vec<WorkloadView> {
        let reports: HashMap<_, _> = self.reports().into_iter().map(|r| (r.uid.clone(), r)).collect();
        let snapshot = self.snapshot();
        let mut all: Vec<_> = snapshot
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
                    owner: w.belongs_to().to_string(),
                    node: w.node.to_string(),
                    identity: w.identity.to_string(),
                    addresses: w.addresses.iter().map(ToString::to_string).collect(),
                    is_wanted: w.capture.is_wanted(),
                    wanted: w.why_capture(),
                    state: state.to_owned(),
                    why,
                    mtls: match reports.get(&w.uid) {
                        Some(_) if w.capture.is_wanted() => w.told_mode(snapshot.policies()),
                        _ => w.mode.told(),
                    },
                    mtls_by: w.mode.by.label().to_owned(),
                }
            })
            .collect();
        all.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        all
    }

    fn services(&self) -> Vec<ServiceView> {
        let snapshot = self.snapshot();
        let mut all: Vec<_> = snapshot
            .services()
            .map(|s| ServiceView {
                namespace: s.namespace.to_string(),
                name: s.name.to_string(),
                addresses: s.addresses.iter().map(ToString::to_string).collect(),
                ports: s.ports.iter().map(|p| format!("{}->{}", p.port, p.target_port)).collect(),
                ready: s.endpoints.iter().filter(|e| e.ready).count(),
                endpoints: s.endpoints.len(),
                in_mesh: is_in_mesh(&snapshot, s),
            })
            .collect();
        all.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        all
    }

    fn connections(&self) -> Vec<ConnectionView> {
        let mut all = self.observer.connections();
        for long in all.iter_mut().filter(|c| c.age_seconds.is_some_and(|age| age >= self.long_stream)) {
            long.note = format!(
                "open for longer than --long-stream, {} s: it outlives what its tunnel was proved with, and an upgrade resets it when the drain is over",
                self.long_stream
            );
        }
        all.extend(self.drains.carried_before());
        all.extend(self.plaintext());
        all
    }

    fn edges(&self) -> Vec<EdgeView> {
        let mut edges = self.observer.edges();
        let mut plain: std::collections::BTreeMap<(Party, Party), u64> = std::collections::BTreeMap::new();
        for connection in self.plaintext() {
            let by_owner = |party: Party| Party { name: party.owner.clone(), ..party };
            *plain.entry((by_owner(connection.source), by_owner(connection.destination))).or_insert(0) += 1;
        }
        for ((source, destination), open) in plain {
            let direction = "outbound".to_owned();
            let is_it = |edge: &&mut EdgeView| {
                (&edge.direction, &edge.source, &edge.destination, edge.secured)
                    == (&direction, &source, &destination, Secured::Plaintext)
            };
            // Others of it have been followed since they began.
            if let Some(edge) = edges.iter_mut().find(is_it) {
                edge.connections += open;
                edge.open += open;
                continue;
            }
            edges.push(EdgeView {
                direction,
                source,
                destination,
                secured: Secured::Plaintext,
                connections: open,
                open,
                sent_bytes: 0,
                received_bytes: 0,
                reason: None,
                detail: None,
                round_trip_seconds: None,
                retransmits: None,
            });
        }
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
        let reports = self.reports();
        let strict = locked(&self.strict).clone();
        let snapshot = self.snapshot();
        let kernel = locked(&self.kernel);
        let pinned = kernel.pinned();
        let is_attached = |report: &PodReport| {
            let pins = pinned.iter().find(|p| p.name == file_name(&report.uid));
            pins.zip(report.cgroup_id).is_some_and(|(pins, id)| pins.is_attached_to(id))
        };
        let is_active = |report: &PodReport| {
            let entry = report.cgroup_id.and_then(|id| kernel.entry(id).ok());
            entry.is_some_and(|e| e.flags & PodEntry::ACTIVE != 0)
        };
        let strays = pinned.iter().filter(|p| !reports.iter().any(|r| file_name(&r.uid) == p.name));
        check::run(&Facts {
            discovery_error: self.discovery.health.borrow().error.clone(),
            heartbeat_age_ns: self.heartbeat.age_ns().ok().flatten(),
            clock_skew: self.svids.clock_skew(),
            certs: self.certs(),
            maps: maps(&kernel),
            strays: strays.map(|p| p.name.clone()).collect(),
            ranges: snapshot.mesh.cluster_ranges.len(),
            probes: if strict.pods.is_empty() { None } else { Some(strict.probes) },
            unreadable: snapshot
                .policies()
                .unreadable()
                .iter()
                .map(|u| (u.policy.to_string(), u.why.clone()))
                .collect(),
            pods: reports
                .iter()
                .map(|report| PodFacts {
                    name: report.name.clone(),
                    state: report.state.clone(),
                    mistaken: snapshot.workload(&report.uid).is_some_and(|w| w.capture.is_mistaken()),
                    attached: is_attached(report),
                    active: is_active(report),
                    guard: snapshot.workload(&report.uid).and_then(|w| {
                        let found = strict.pods.get(&report.uid).cloned().unwrap_or_default();
                        let is_closed =
                            w.capture.is_wanted() && snapshot.policies().plaintext(w).is_guarded();
                        (w.mode.is_guarded() || is_closed).then(|| GuardFacts {
                            mtls: w.told_mode(snapshot.policies()),
                            by: w.mode.by,
                            is_strict: w.mode.is_strict(),
                            host_network: w.host_network,
                            failed: found.failed,
                            second_line: found.second_line,
                            foreign: found.foreign,
                            older: found.older,
                        })
                    }),
                })
                .collect(),
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
                    pod.links.into_iter().chain(pod.guards).map(move |l| LinkView {
                        pod: name.clone(),
                        hook: l.hook,
                        link_id: l.link_id,
                        program_id: l.program_id,
                        cgroup_id: l.cgroup_id,
                        netns: l.netns,
                        interface: l.interface,
                    })
                })
                .collect(),
            maps: maps(&kernel),
            counters: self.counted(),
        }
    }

    fn trace(&self, from: &str, to: &str) -> Result<TraceView, String> {
        let state = |workload: &Workload| {
            let report = self.reports().into_iter().find(|r| r.uid == workload.uid);
            report.map_or(PodState::Pending { why: "not looked at yet".to_owned() }, |r| r.state)
        };
        trace::explain(&self.snapshot(), &self.node, from, to, state, &self.observer.edges())
    }

    fn last(&self, from: &str, to: &str) -> Vec<CourseView> {
        self.observer.last(from, to).into_iter().collect()
    }

    fn policies(&self) -> Vec<PolicyView> {
        policy::list(&self.snapshot())
    }

    fn policy(&self, from: &str, to: &str) -> Result<PolicyExplainView, String> {
        policy::explain(&self.snapshot(), from, to)
    }

    fn policies_of(&self, workload: &str) -> Result<Vec<PolicyView>, String> {
        policy::selecting(&self.snapshot(), workload)
    }

    fn history(&self) -> HistoryView {
        self.observer.history()
    }

    fn requests(&self, by_edge: bool, seconds: u64) -> Vec<RequestsView> {
        self.observer.requests(by_edge, seconds)
    }

    fn tap(&self, filter: Filter) -> Option<Tap> {
        self.observer.tap(filter)
    }

    fn log(&self) -> LogView {
        self.logs.view()
    }

    fn set_log(&self, filter: &str, seconds: u64) -> Result<LogView, String> {
        self.logs.change(filter, seconds)
    }

    fn recent(&self) -> String {
        self.logs.recent()
    }

    fn metrics(&self) -> String {
        let gauges = super::gauges::gather(self);
        self.observer.metrics(&gauges).unwrap_or_else(|error| {
            tracing::error!(%error, "metrics cannot be shown");
            String::new()
        })
    }

    fn stuck(&self) -> Option<&str> {
        self.watched.iter().find(|runtime| runtime.pulse.is_stuck()).map(|runtime| &*runtime.name)
    }

    fn ready(&self) -> bool {
        *self.ready.borrow() && !self.drains.is_own()
    }
}

impl AgentSource {
    pub(super) fn pods_by_state(&self) -> Vec<StateCount> {
        self.states()
    }

    /// By how many seconds this node's clock is ahead of the controller's.
    pub(super) fn clock_skew(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "no clock is wrong by more than 2^53 seconds")]
        self.svids.clock_skew().map(|seconds| seconds as f64)
    }

    /// How many accepted tunnels each worker carries.
    pub(super) fn accepted(&self) -> Vec<usize> {
        self.seats.taken()
    }

    /// How many connections pods have open with each worker, as the kernel counts them.
    pub(super) fn loads(&self) -> Vec<i64> {
        let workers = u32::try_from(self.seats.taken().len()).unwrap_or(0);
        locked(&self.kernel).loads(workers).unwrap_or_default()
    }

    /// Age of the heartbeat in seconds.
    pub(super) fn heartbeat_age(&self) -> Option<f64> {
        let age = self.heartbeat.age_ns().ok().flatten()?;
        Some(Duration::from_nanos(age).as_secs_f64())
    }

    /// The pods that are to be captured and are not, with the reason.
    pub(super) fn not_captured(&self) -> String {
        let open = self
            .reports()
            .into_iter()
            .filter(|r| matches!(r.state, PodState::Pending { .. } | PodState::Failed { .. }));
        open.map(|r| format!("{} ({})", r.name, r.state.why())).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn discovery_health(&self) -> (bool, u64) {
        (self.discovery.health.borrow().error.is_none(), self.snapshot().generation)
    }
}
