//! A connection as policies judge it: before it is made, and again whenever discovery changes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::{Attempt, Decision, Denial, End};
use crate::route::Route;
use crate::snapshot::{Snapshot, Workload};

/// Which of a connection's agents asks, and so which policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The source's: what may go out.
    Source,
    /// The destination's: who may connect, and what may come in.
    Destination,
    /// One agent is both.
    Both,
}

/// What of a connection policies look at. Workloads are named by uid, so that a later snapshot is asked
/// about these and not about who has got their addresses since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// Who connects.
    pub source: Arc<str>,
    /// Its address.
    pub source_address: IpAddr,
    /// The workload that is connected to, if it is one.
    pub destination: Option<Arc<str>>,
    /// Address and port that are connected to, of a Service those of the endpoint.
    pub address: SocketAddr,
    /// Who asks.
    pub at: At,
}

/// What the policies say of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Why it is denied, if it is.
    pub denied: Option<Denied>,
    /// What dry runs would deny it for, in sentences.
    pub dry_run: Vec<String>,
    /// The first of these dry runs.
    pub would_deny: Option<Denial>,
}

/// Why a connection is denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// In a sentence.
    pub why: String,
    /// The policy, if it is one's doing.
    pub by: Option<Denial>,
}

impl Passage {
    /// The passage between two ends of a snapshot.
    pub fn new(
        source: &Workload,
        from: IpAddr,
        destination: Option<&Workload>,
        to: SocketAddr,
        at: At,
    ) -> Self {
        Self {
            source: source.uid.clone(),
            source_address: from,
            destination: destination.map(|w| w.uid.clone()),
            address: to,
            at,
        }
    }

    /// The passage of a connection that takes a route, as the source's agent asks about it; nothing if it
    /// goes nowhere anyway.
    pub fn of(snapshot: &Snapshot, source: &Workload, from: IpAddr, route: &Route) -> Option<Self> {
        let (destination, address, at) = match route {
            Route::Tunnel { destination, address, .. } => (Some(destination), address, At::Source),
            Route::Local { destination, address } => (Some(destination), address, At::Both),
            Route::Passthrough { address, .. } => {
                (snapshot.workload_by_address(address.ip()), address, At::Source)
            }
            Route::Deny { .. } => return None,
        };
        Some(Self::new(source, from, destination.map(|w| &**w), *address, at))
    }

    /// Whether a snapshot still has both workloads. Of one that is gone it knows no policies; its pod's
    /// connections end with it.
    pub fn is_known(&self, snapshot: &Snapshot) -> bool {
        snapshot.workload(&self.source).is_some()
            && self.destination.as_deref().is_none_or(|uid| snapshot.workload(uid).is_some())
    }

    /// Asks the policies of a snapshot. Denied if it has one of the workloads no more.
    pub fn judge(&self, snapshot: &Snapshot) -> Verdict {
        if snapshot.policies().is_empty() {
            return Verdict::default();
        }
        if !self.is_known(snapshot) {
            let why = "discovery does not know both workloads any more".to_owned();
            return Verdict { denied: Some(Denied { why, by: None }), ..Verdict::default() };
        }
        self.decisions(snapshot).into_iter().fold(Verdict::default(), |mut verdict, decision| {
            verdict
                .dry_run
                .extend(decision.dry_run.iter().map(|would| format!("{}: {would}", decision.stage.label())));
            verdict.would_deny = verdict.would_deny.or_else(|| decision.would_deny());
            if !decision.allowed && verdict.denied.is_none() {
                verdict.denied = Some(Denied { why: decision.to_string(), by: decision.denial() });
            }
            verdict
        })
    }

    /// The answers of all policies that are asked, in the order of the data path.
    pub fn decisions<'a>(&self, snapshot: &'a Snapshot) -> Vec<Decision<'a>> {
        let source = snapshot.workload(&self.source);
        let destination = self.destination.as_deref().and_then(|uid| snapshot.workload(uid));
        let attempt = Attempt {
            source: End {
                workload: source.map(|w| &**w),
                address: self.source_address.to_canonical(),
                proved: true,
            },
            destination: End {
                workload: destination.map(|w| &**w),
                address: self.address.ip().to_canonical(),
                proved: true,
            },
            port: self.address.port(),
        };
        let policies = snapshot.policies();
        let mut decisions = Vec::with_capacity(3);
        if self.at != At::Destination {
            decisions.push(policies.egress(&attempt));
        }
        if self.at != At::Source {
            decisions.extend(policies.inbound(&attempt));
        }
        decisions
    }
}

#[cfg(test)]
mod tests {
    use super::super::{NetworkPolicy, Policies, Selector};
    use super::*;
    use crate::snapshot::fixture;

    fn passage(at: At) -> Passage {
        let snapshot = fixture::snapshot();
        let named = |name| snapshot.workload_named("shop", name).unwrap();
        let to = "10.0.2.1:80".parse().unwrap();
        Passage::new(named("web"), "10.0.1.1".parse().unwrap(), Some(named("db")), to, at)
    }

    fn closed() -> Policies {
        let closed = NetworkPolicy {
            namespace: "shop".into(),
            name: "closed".into(),
            pods: Selector::default(),
            ingress: Some(vec![]),
            egress: None,
        };
        Policies { network: vec![closed], ..Policies::default() }
    }

    #[test]
    fn each_agent_asks_what_is_its_own() {
        let snapshot = fixture::snapshot().with_policies(closed());
        let denied = |at| passage(at).judge(&snapshot).denied.map(|denied| denied.why);
        let why = "ingress denied: no rule matched of NetworkPolicy shop/closed".to_owned();
        assert_eq!(denied(At::Source), None);
        assert_eq!(denied(At::Destination), Some(why.clone()));
        assert_eq!(denied(At::Both), Some(why));
    }

    #[test]
    fn nothing_new_is_let_through_to_a_workload_that_is_gone() {
        let (nodes, mut workloads, services) = fixture::mesh();
        workloads.retain(|w| &*w.name != "db");
        let without = Snapshot::build(2, fixture::settings(), nodes, workloads, services).unwrap();
        let without = without.with_policies(closed());
        assert!(!passage(At::Destination).is_known(&without));
        assert!(passage(At::Destination).judge(&without).denied.is_some());
    }
}
