//! `lark check`: what is wanted against what the kernel has, as a pure function over facts.

use crate::capture::PodState;
use crate::constants::{CLOCK_SKEW, HEARTBEAT_STALE};
use crate::mode::ModeBy;
use crate::view::{CertView, CheckView, MapView, Verdict};

/// Everything that is compared.
#[derive(Debug, Default)]
pub struct Facts {
    /// Why discovery is not current, if it is not.
    pub discovery_error: Option<String>,
    /// Age of the agent's last sign of life, as the hooks see it.
    pub heartbeat_age_ns: Option<u64>,
    /// By how many seconds this node's clock is ahead of the controller's, as far as it is known.
    pub clock_skew: Option<i64>,
    /// The certificates of this node.
    pub certs: Vec<CertView>,
    /// Maps whose fullness matters.
    pub maps: Vec<MapView>,
    /// Why probes of strict pods are not told from others, if there are strict pods and they are not.
    pub probes: Option<Result<(), String>>,
    /// How many ranges of addresses are said to be the cluster's own.
    pub ranges: usize,
    /// The pods of this node.
    pub pods: Vec<PodFacts>,
    /// Policies that could not be read, and why.
    pub unreadable: Vec<(String, String)>,
    /// Names of pins whose pod is none of this node's.
    pub strays: Vec<String>,
}

/// What is known of one pod.
#[derive(Debug)]
pub struct PodFacts {
    /// `namespace/name`.
    pub name: String,
    /// What the agent believes.
    pub state: PodState,
    /// Whether what asks for its capture cannot be followed, so that it is not captured.
    pub mistaken: bool,
    /// Whether the kernel has all hooks on the pod's cgroup.
    pub attached: bool,
    /// Whether the pod's entry tells the hooks to redirect.
    pub active: bool,
    /// What keeps plaintext from it, if it is strict or has a strict port.
    pub guard: Option<GuardFacts>,
}

/// What keeps plaintext from a strict pod.
#[derive(Debug, Clone)]
pub struct GuardFacts {
    /// The mode and its ports.
    pub mtls: String,
    /// What said so.
    pub by: ModeBy,
    /// Whether what it dials is kept in too.
    pub is_strict: bool,
    /// Whether it shares the node's network namespace, where nothing is kept from it.
    pub host_network: bool,
    /// Why the look-up hook is not attached, if it is not.
    pub failed: Option<String>,
    /// What of its second line is missing, if something is.
    pub second_line: Option<String>,
    /// Programs of others that steer look-ups in its namespace.
    pub foreign: usize,
    /// Open connections that are older than strict and could not be ended.
    pub older: usize,
}

/// One line for each pod of the node and for each part of the agent.
pub fn run(facts: &Facts) -> Vec<CheckView> {
    let mut checks = vec![discovery(facts.discovery_error.as_deref()), heartbeat(facts.heartbeat_age_ns)];
    checks.extend(facts.clock_skew.map(clock));
    checks.extend(facts.certs.iter().map(certificate));
    checks.extend(facts.maps.iter().map(map));
    checks.extend(facts.unreadable.iter().map(|(policy, why)| {
        line(
            policy,
            Verdict::Fail,
            format!("could not be read: {why}"),
            "correct it; what it selects is closed until then, see `lark policy list`",
        )
    }));
    checks.extend(facts.probes.as_ref().map(|found| match found {
        Ok(()) => line("probes", Verdict::Ok, "known by the kubelet's cgroup", ""),
        Err(why) => line(
            "probes",
            Verdict::Warn,
            why,
            "give --kubelet-cgroup; until then HTTP, TCP and gRPC probes of strict pods are refused",
        ),
    }));
    let is_strict = |pod: &PodFacts| {
        let captured = !matches!(pod.state, PodState::NotCaptured { .. });
        captured && pod.guard.as_ref().is_some_and(|guard| guard.is_strict)
    };
    if facts.ranges == 0 && facts.pods.iter().any(is_strict) {
        checks.push(line(
            "cluster ranges",
            Verdict::Fail,
            "none are given: what strict pods dial and discovery does not know goes out in plaintext",
            "say which addresses are the cluster's own: mesh.clusterRanges in the file, --cluster-range in a cluster",
        ));
    }
    checks.extend(facts.pods.iter().map(pod));
    checks.extend(facts.pods.iter().flat_map(|pod| {
        let guard = pod.guard.iter();
        guard
            .flat_map(|found| strict(found, &pod.state))
            .map(|(v, found, advice)| line(&pod.name, v, found, advice))
    }));
    checks.extend(facts.strays.iter().map(|name| {
        line(
            name,
            Verdict::Warn,
            "hooks are pinned for a pod that is not of this node any more",
            "the agent removes them; if this stays, see its log",
        )
    }));
    checks
}

fn line(subject: &str, verdict: Verdict, found: impl Into<String>, advice: &str) -> CheckView {
    CheckView { subject: subject.to_owned(), verdict, found: found.into(), advice: advice.to_owned() }
}

fn discovery(error: Option<&str>) -> CheckView {
    match error {
        None => line("discovery", Verdict::Ok, "current", ""),
        Some(error) => line("discovery", Verdict::Fail, error, "mend it; the last good state is in use"),
    }
}

fn heartbeat(age_ns: Option<u64>) -> CheckView {
    let stale = u64::try_from(HEARTBEAT_STALE.as_nanos()).unwrap_or(u64::MAX);
    match age_ns {
        Some(age) if age <= stale => {
            line("heartbeat", Verdict::Ok, format!("{} ms old", age / 1_000_000), "")
        }
        Some(age) => line(
            "heartbeat",
            Verdict::Fail,
            format!("{} ms old: the kernel takes the agent for dead", age / 1_000_000),
            "a worker is stuck or the host is overloaded; see the agent's log",
        ),
        None => line("heartbeat", Verdict::Warn, "none yet", "the agent has just started"),
    }
}

fn clock(ahead: i64) -> CheckView {
    let seconds = ahead.unsigned_abs();
    if seconds < CLOCK_SKEW.as_secs() {
        return line("clock", Verdict::Ok, "agrees with the controller's", "");
    }
    let side = if ahead > 0 { "ahead of" } else { "behind" };
    line(
        "clock",
        Verdict::Fail,
        format!("{seconds} s {side} the controller's (clock_skew)"),
        "set this node's clock or the controller's right: certificates seem not yet valid, or over too early",
    )
}

fn certificate(cert: &CertView) -> CheckView {
    let subject = format!("certificate {}", cert.identity);
    let error = cert.last_error.clone().unwrap_or_default();
    match cert.state.as_str() {
        "valid" if error.is_empty() => line(&subject, Verdict::Ok, "valid", ""),
        "valid" => line(
            &subject,
            Verdict::Warn,
            format!("valid, but its renewal failed: {error}"),
            "see the CA; it is tried again",
        ),
        "renewal_late" => {
            line(&subject, Verdict::Warn, format!("renewal is late: {error}"), "see the CA before it expires")
        }
        "pending" => line(
            &subject,
            Verdict::Fail,
            format!("none yet: {error}"),
            "see the CA; pods of it are not captured",
        ),
        other => line(
            &subject,
            Verdict::Fail,
            format!("{other}: {error}"),
            "see the CA; connections of it are refused",
        ),
    }
}

fn map(usage: &MapView) -> CheckView {
    let subject = format!("map {}", usage.name);
    let max = usize::try_from(usage.max).unwrap_or(usize::MAX);
    let found = format!("{} of {max}", usage.entries);
    let is_nearly_full = usage.entries > max / 10 * 9;
    if usage.name == "GUARDED" && is_nearly_full {
        // A pod's ports find a place all or none, so that it is hardly ever full to the last.
        let then =
            "it is full; pods of which not all ports have a place take no plaintext on any, see the log";
        return line(&subject, Verdict::Fail, found, then);
    }
    if usage.entries >= max {
        match usage.name.as_str() {
            "DESTINATIONS" => line(
                &subject,
                Verdict::Fail,
                found,
                "it is full; start the agent with a larger --destinations-max",
            ),
            "DIRECT" => line(&subject, Verdict::Warn, found, "it is full; the rest goes through the agent"),
            "PASSES" => line(&subject, Verdict::Fail, found, "it is full; probes of strict pods are refused"),
            "AGENT_PASSES" => line(
                &subject,
                Verdict::Fail,
                found,
                "it is full; what more strict pods dial at whoever is not captured is dropped",
            ),
            "DIRECT_PASSES" => {
                line(&subject, Verdict::Fail, found, "it is full; more direct connections are cut off")
            }
            _ => line(&subject, Verdict::Fail, found, "it is full; connections are reset, see `lark bpf`"),
        }
    } else if is_nearly_full {
        line(&subject, Verdict::Warn, found, "it is nearly full")
    } else {
        line(&subject, Verdict::Ok, found, "")
    }
}

/// What becomes of a strict pod until it is captured.
const HELD: &str = "until then a strict pod takes no plaintext, and what it dials in the mesh is refused";

fn pod(pod: &PodFacts) -> CheckView {
    let (attached, active) = (pod.attached, pod.active);
    match &pod.state {
        PodState::Captured if attached && active => line(&pod.name, Verdict::Ok, "captured", ""),
        PodState::Captured => line(
            &pod.name,
            Verdict::Fail,
            format!(
                "the agent believes it captured, but the kernel has {} and the entry is {}",
                if attached { "all hooks" } else { "not all hooks" },
                if active { "active" } else { "not active" }
            ),
            "somebody removed pins or hooks; restart the agent",
        ),
        PodState::Releasing => line(&pod.name, Verdict::Ok, "released; older connections finish", ""),
        PodState::NotCaptured { why } if attached && active => {
            line(&pod.name, Verdict::Fail, format!("captured although {why}"), "restart the agent")
        }
        PodState::NotCaptured { why } if pod.mistaken => {
            line(&pod.name, Verdict::Fail, format!("not captured: {why}"), "correct it, or take it away")
        }
        PodState::NotCaptured { why } => line(&pod.name, Verdict::Ok, format!("not captured: {why}"), ""),
        PodState::Waiting { why } => {
            line(&pod.name, Verdict::Ok, format!("to be captured as soon as something of it runs: {why}"), "")
        }
        PodState::Pending { why } => line(
            &pod.name,
            Verdict::Fail,
            format!("to be captured, pending: {why}"),
            if pod.guard.is_some() { HELD } else { "until then its connections are left alone" },
        ),
        PodState::Failed { why } => line(
            &pod.name,
            Verdict::Fail,
            format!("to be captured, failed: {why}"),
            if pod.guard.is_some() {
                HELD
            } else {
                "it is tried again; until then its connections are left alone"
            },
        ),
    }
}

/// What there is to say of a strict pod; nothing if all is as it should be.
fn strict(guard: &GuardFacts, state: &PodState) -> Vec<(Verdict, String, &'static str)> {
    let mtls = &guard.mtls;
    if let PodState::NotCaptured { .. } = state {
        let found = format!("{mtls} by its labels, but not captured: plaintext is taken");
        return vec![(Verdict::Warn, found, "capture it too, or take the label away")];
    }
    let mut found = Vec::new();
    if guard.by == ModeBy::Unclear {
        let why = format!("{mtls}, for what is asked for cannot be read: {}", guard.by.why());
        found.push((Verdict::Fail, why, "correct the label or the annotation"));
    }
    if guard.host_network {
        let why = format!("{mtls}, on the host network: what it dials is, what reaches it is not");
        found.push((Verdict::Warn, why, "a host's listeners are the host's to protect, see docs/limits.md"));
    } else if let Some(why) = &guard.failed {
        let why = format!("{mtls}, but plaintext is not kept from it: {why}");
        found.push((Verdict::Fail, why, "it is tried again twice a second"));
    }
    if let Some(why) = &guard.second_line {
        let why = format!("{mtls}, but the second line is missing: {why}");
        found.push((
            Verdict::Warn,
            why,
            "sockets passed in and raw ones reach the cluster, see docs/limits.md",
        ));
    }
    if guard.foreign > 0 {
        let why = format!("{mtls}, but {} sk_lookup programs of others are in its namespace", guard.foreign);
        found.push((Verdict::Warn, why, "one that selects a socket lets plaintext in; see `bpftool net`"));
    }
    if guard.older > 0 {
        let why = format!("{} open connections are older than strict and could not be ended", guard.older);
        found.push((Verdict::Fail, why, "restart the pod; this needs CONFIG_INET_DIAG_DESTROY"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_believed_is_held_against_what_the_kernel_has() {
        let why = || "a reason".to_owned();
        for (state, attached, active, verdict) in [
            (PodState::Captured, true, true, Verdict::Ok),
            (PodState::Captured, false, true, Verdict::Fail),
            (PodState::Captured, true, false, Verdict::Fail),
            (PodState::Releasing, true, false, Verdict::Ok),
            (PodState::NotCaptured { why: why() }, false, false, Verdict::Ok),
            (PodState::NotCaptured { why: why() }, true, true, Verdict::Fail),
            (PodState::Pending { why: why() }, false, false, Verdict::Fail),
            (PodState::Waiting { why: why() }, false, false, Verdict::Ok),
            (PodState::Failed { why: why() }, true, true, Verdict::Fail),
        ] {
            let told = format!("{state:?} {attached} {active}");
            let name = "shop/web".to_owned();
            let facts = PodFacts { name, state, mistaken: false, attached, active, guard: None };
            assert_eq!(pod(&facts).verdict, verdict, "{told}");
        }
        // A label with a slip of the pen must not look like one that nobody has set.
        let (name, state) = ("shop/web".to_owned(), PodState::NotCaptured { why: why() });
        let facts = PodFacts { name, state, mistaken: true, attached: false, active: false, guard: None };
        assert_eq!(pod(&facts).verdict, Verdict::Fail);
    }

    #[test]
    fn what_is_missing_of_strict_is_said() {
        let good = GuardFacts {
            mtls: "strict".to_owned(),
            by: ModeBy::Workload,
            host_network: false,
            failed: None,
            second_line: None,
            foreign: 0,
            older: 0,
            is_strict: true,
        };
        let verdicts = |guard: &GuardFacts, state: &PodState| {
            strict(guard, state).into_iter().map(|(verdict, ..)| verdict).collect::<Vec<_>>()
        };
        let captured = PodState::Captured;
        assert_eq!(verdicts(&good, &captured), []);
        let alone = PodState::NotCaptured { why: String::new() };
        assert_eq!(verdicts(&good, &alone), [Verdict::Warn]);
        for (guard, verdict) in [
            (GuardFacts { by: ModeBy::Unclear, ..good.clone() }, Verdict::Fail),
            (GuardFacts { host_network: true, ..good.clone() }, Verdict::Warn),
            (GuardFacts { failed: Some("gone".to_owned()), ..good.clone() }, Verdict::Fail),
            (GuardFacts { second_line: Some("none".to_owned()), ..good.clone() }, Verdict::Warn),
            (GuardFacts { foreign: 1, ..good.clone() }, Verdict::Warn),
            (GuardFacts { older: 1, ..good }, Verdict::Fail),
        ] {
            assert_eq!(verdicts(&guard, &captured), [verdict], "{guard:?}");
        }
    }

    #[test]
    fn strict_without_the_clusters_ranges_is_a_failure() {
        let guard = |is_strict| GuardFacts {
            mtls: "strict".to_owned(),
            by: ModeBy::Workload,
            is_strict,
            host_network: false,
            failed: None,
            second_line: None,
            foreign: 0,
            older: 0,
        };
        let failed = |ranges: usize, is_strict: bool, state: PodState| {
            let name = "shop/web".to_owned();
            let guard = Some(guard(is_strict));
            let pod = PodFacts { name, state, mistaken: false, attached: true, active: true, guard };
            let checks = run(&Facts { ranges, pods: vec![pod], ..Facts::default() });
            checks.iter().any(|check| check.subject == "cluster ranges" && check.verdict == Verdict::Fail)
        };
        assert!(failed(0, true, PodState::Captured) && !failed(1, true, PodState::Captured));
        assert!(!failed(0, false, PodState::Captured));
        assert!(!failed(0, true, PodState::NotCaptured { why: String::new() }));
    }

    #[test]
    fn a_clock_that_differs_is_named_with_its_side() {
        assert_eq!(clock(59).verdict, Verdict::Ok);
        let (ahead, behind) = (clock(3600), clock(-3600));
        assert_eq!([ahead.verdict, behind.verdict], [Verdict::Fail; 2]);
        assert!(ahead.found.contains("3600 s ahead of the controller's"), "{}", ahead.found);
        assert!(behind.found.contains("3600 s behind the controller's"), "{}", behind.found);
    }

    #[test]
    fn maps_warn_before_they_are_full() {
        for (entries, verdict) in
            [(0, Verdict::Ok), (90, Verdict::Ok), (91, Verdict::Warn), (100, Verdict::Fail)]
        {
            let view = MapView { name: "FLOWS".to_owned(), entries, max: 100 };
            assert_eq!(map(&view).verdict, verdict, "{entries}");
        }
    }
}
