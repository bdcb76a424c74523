//! Values for metrics that are kept elsewhere than with the observer.

use lark_core::view::{CertView, CounterView, MapView, StateCount};

use super::source::AgentSource;
use crate::admin::Source;
use crate::observe::{Described, Gauge, Gauges, Observer};

/// What they are made from.
#[derive(Default)]
struct Facts {
    discovery_ok: bool,
    generation: u64,
    pods: Vec<StateCount>,
    certs: Vec<CertView>,
    clock_skew: Option<f64>,
    heartbeat_age: Option<f64>,
    maps: Vec<MapView>,
    counters: Vec<CounterView>,
    accepted: Vec<usize>,
    loads: Vec<i64>,
}

pub(super) fn gather(source: &AgentSource) -> Gauges {
    let (discovery_ok, generation) = source.discovery_health();
    let (pods, certs) = (source.pods_by_state(), source.certs());
    // Not what is attached where: that is asked for by name, and takes calls for each pod.
    let (maps, counters) = (source.maps(), source.counted());
    let (clock_skew, heartbeat_age) = (source.clock_skew(), source.heartbeat_age());
    let (accepted, loads) = (source.accepted(), source.loads());
    gauges(Facts {
        discovery_ok,
        generation,
        pods,
        certs,
        clock_skew,
        heartbeat_age,
        maps,
        counters,
        accepted,
        loads,
    })
}

/// All metrics of an agent, for documents.
///
/// # Errors
/// When metrics clash, which a test would have seen.
pub fn catalogue() -> anyhow::Result<Vec<Described>> {
    Ok(Observer::new()?.catalogue(&gauges(Facts::default()))?)
}

fn gauges(facts: Facts) -> Gauges {
    let Facts { discovery_ok, generation, pods, certs, clock_skew, heartbeat_age, .. } = facts;
    let (maps, counters, accepted, loads) = (facts.maps, facts.counters, facts.accepted, facts.loads);
    let failing = certs.iter().filter(|cert| cert.last_error.is_some()).count();
    let gauge = |name, help, labels, values| Gauge { name, help, labels, counter: false, values };
    #[expect(clippy::cast_precision_loss, reason = "metrics are floats by format")]
    let float = |n: u64| n as f64;
    let size = |n: usize| float(u64::try_from(n).unwrap_or(u64::MAX));
    let mut gauges = vec![
        gauge(
            "lark_build_info",
            "Version of the agent",
            &["version"],
            vec![(vec![env!("CARGO_PKG_VERSION").to_owned()], 1.0)],
        ),
        gauge(
            "lark_discovery_valid",
            "Whether the newest discovery state could be used",
            &[],
            vec![(vec![], f64::from(u8::from(discovery_ok)))],
        ),
        gauge(
            "lark_discovery_generation",
            "Number of the discovery state in use",
            &[],
            vec![(vec![], float(generation))],
        ),
        gauge(
            "lark_capture_pods",
            "Pods of this node by state",
            &["state"],
            pods.into_iter().map(|s| (vec![s.state], size(s.count))).collect(),
        ),
        gauge(
            "lark_tunnel_accepted",
            "Accepted tunnels open now, by the worker that carries them",
            &["worker"],
            accepted.into_iter().enumerate().map(|(n, open)| (vec![n.to_string()], size(open))).collect(),
        ),
        gauge(
            "lark_worker_connections",
            "Connections that pods of this node have open with each worker, by which the next one's is chosen",
            &["worker"],
            loads
                .into_iter()
                .enumerate()
                .map(|(n, open)| (vec![n.to_string()], float(open.max(0).unsigned_abs())))
                .collect(),
        ),
        gauge(
            "lark_identity_svid_expiration_timestamp_seconds",
            "When the certificate of an identity of this node expires",
            &["identity"],
            certs.into_iter().filter_map(|c| Some((vec![c.identity], float(c.expires_at?)))).collect(),
        ),
        gauge(
            "lark_identity_renewals_failing",
            "Identities of this node whose last attempt to get a certificate failed",
            &[],
            vec![(vec![], size(failing))],
        ),
        gauge(
            "lark_identity_clock_skew_seconds",
            "By how much this node's clock is ahead of the controller's, as far as it is known",
            &[],
            clock_skew.map(|skew| (vec![], skew)).into_iter().collect(),
        ),
        gauge(
            "lark_kernel_heartbeat_age_seconds",
            "Age of the agent's heartbeat; beyond two seconds the hooks take it for dead",
            &[],
            heartbeat_age.map(|age| (vec![], age)).into_iter().collect(),
        ),
        gauge(
            "lark_kernel_map_entries",
            "Entries in maps whose fullness matters",
            &["map"],
            maps.iter().map(|m| (vec![m.name.clone()], size(m.entries))).collect(),
        ),
        gauge(
            "lark_kernel_map_max_entries",
            "Entries that fit into these maps",
            &["map"],
            maps.iter().map(|m| (vec![m.name.clone()], f64::from(m.max))).collect(),
        ),
    ];
    gauges.push(Gauge {
        name: "lark_kernel_events_total",
        help: "What the hooks in the kernel did, by event",
        labels: &["event"],
        counter: true,
        values: counters.into_iter().map(|c| (vec![c.event], float(c.count))).collect(),
    });
    gauges
}
