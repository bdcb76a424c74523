//! `lark check`: what is wanted against what the kernel has, as a pure function over facts.

use std::collections::HashMap;
use std::sync::Arc;

use lark_abi::PodEntry;
use lark_bpf::{MapUsage, PinnedPod, file_name};
use lark_core::capture::PodState;
use lark_core::constants::HEARTBEAT_STALE;
use lark_core::view::{CertView, CheckView, Verdict};
use lark_discovery::Health;

use crate::capture::PodReport;

/// Everything that is compared.
pub(super) struct Facts {
    pub(super) reports: Vec<PodReport>,
    pub(super) pinned: Vec<PinnedPod>,
    pub(super) usage: Vec<MapUsage>,
    pub(super) entries: HashMap<Arc<str>, PodEntry>,
    pub(super) certs: Vec<CertView>,
    pub(super) discovery: Health,
    pub(super) heartbeat_age_ns: Option<u64>,
}

/// One line for each pod of the node and for each part of the agent.
pub(super) fn run(facts: &Facts) -> Vec<CheckView> {
    let mut checks = vec![discovery(&facts.discovery), heartbeat(facts.heartbeat_age_ns)];
    checks.extend(facts.certs.iter().map(certificate));
    checks.extend(facts.usage.iter().map(map));
    checks.extend(facts.reports.iter().map(|report| pod(report, facts)));
    checks.extend(facts.pinned.iter().filter(|p| is_stray(p, facts)).map(|p| {
        line(
            &p.name,
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

fn discovery(health: &Health) -> CheckView {
    match &health.error {
        None => line("discovery", Verdict::Ok, "current", ""),
        Some(error) => {
            line("discovery", Verdict::Fail, error.clone(), "mend it; the last good state is in use")
        }
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

fn map(usage: &MapUsage) -> CheckView {
    let subject = format!("map {}", usage.map);
    let max = usize::try_from(usage.max).unwrap_or(usize::MAX);
    let found = format!("{} of {max}", usage.entries);
    if usage.entries >= max {
        line(&subject, Verdict::Fail, found, "it is full; start the agent with a larger --destinations-max")
    } else if usage.entries > max / 10 * 9 {
        line(&subject, Verdict::Warn, found, "it is nearly full")
    } else {
        line(&subject, Verdict::Ok, found, "")
    }
}

fn is_stray(pinned: &PinnedPod, facts: &Facts) -> bool {
    !facts.reports.iter().any(|r| file_name(&r.uid) == pinned.name)
}

fn pod(report: &PodReport, facts: &Facts) -> CheckView {
    let pinned = facts.pinned.iter().find(|p| p.name == file_name(&report.uid));
    let attached = matches!((pinned, report.cgroup_id), (Some(p), Some(id)) if p.is_attached_to(id));
    let active = facts.entries.get(&report.uid).is_some_and(|e| e.flags & PodEntry::ACTIVE != 0);
    match &report.state {
        PodState::Captured if attached && active => line(&report.name, Verdict::Ok, "captured", ""),
        PodState::Captured => line(
            &report.name,
            Verdict::Fail,
            format!(
                "the agent believes it captured, but the kernel has {} and the entry is {}",
                if attached { "all hooks" } else { "not all hooks" },
                if active { "active" } else { "not active" }
            ),
            "somebody removed pins or hooks; restart the agent",
        ),
        PodState::Releasing => line(&report.name, Verdict::Ok, "released; older connections finish", ""),
        PodState::NotCaptured { why } if attached && active => {
            line(&report.name, Verdict::Fail, format!("captured although {why}"), "restart the agent")
        }
        PodState::NotCaptured { why } => line(&report.name, Verdict::Ok, format!("not captured: {why}"), ""),
        PodState::Pending { why } => line(
            &report.name,
            Verdict::Fail,
            format!("to be captured, pending: {why}"),
            "until then its connections are left alone",
        ),
        PodState::Failed { why } => line(
            &report.name,
            Verdict::Fail,
            format!("to be captured, failed: {why}"),
            "it is tried again; until then its connections are left alone",
        ),
    }
}
