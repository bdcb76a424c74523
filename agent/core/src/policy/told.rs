//! Policies told to people: which there are, and what they say of a connection that nobody has made.

use std::net::SocketAddr;

use super::index::{Listed, Policy};
use super::{At, Because, Decision, Direction, Kind, Passage, Scope, Stage};
use crate::mode::Mtls;
use crate::snapshot::{Snapshot, Workload};
use crate::view::{PolicyDecisionView, PolicyExplainView, PolicyView};

/// All policies of a snapshot.
pub fn list(snapshot: &Snapshot) -> Vec<PolicyView> {
    snapshot.policies().policies().map(|listed| view(&listed)).collect()
}

/// The policies that select a workload, `NAMESPACE/NAME`.
///
/// # Errors
/// When there is no such workload; in a sentence.
pub fn selecting(snapshot: &Snapshot, workload: &str) -> Result<Vec<PolicyView>, String> {
    let workload = known(snapshot, "workload", workload)?;
    let selects = |listed: &Listed<'_>| {
        let (within, selector) = match listed.policy {
            Policy::Authorization(p) => ((p.scope == Scope::Namespace).then_some(&p.namespace), &p.selector),
            Policy::Network(p) => (Some(&p.namespace), &p.pods),
            Policy::Unreadable(p) => (p.within.as_ref(), &p.selector),
        };
        within.is_none_or(|namespace| *namespace == workload.namespace) && selector.matches(&workload.labels)
    };
    Ok(snapshot.policies().policies().filter(selects).map(|listed| view(&listed)).collect())
}

fn view(listed: &Listed<'_>) -> PolicyView {
    let (effect, dry_run, selector, within, error) = match listed.policy {
        Policy::Authorization(p) => {
            let within = if p.scope == Scope::Mesh { "" } else { &*p.namespace };
            (p.action.label().to_owned(), p.dry_run, &p.selector, within, None)
        }
        Policy::Network(p) => {
            let isolated =
                [Direction::Ingress, Direction::Egress].into_iter().filter(|d| p.rules(*d).is_some());
            let effect = isolated.map(Direction::label).collect::<Vec<_>>().join(", ");
            (effect, false, &p.pods, &*p.namespace, None)
        }
        Policy::Unreadable(p) => {
            let effect = if p.dry_run { "none" } else { "closed" };
            (
                effect.to_owned(),
                p.dry_run,
                &p.selector,
                p.within.as_deref().unwrap_or_default(),
                Some(p.why.clone()),
            )
        }
    };
    PolicyView {
        kind: listed.name.kind.label().to_owned(),
        namespace: listed.name.namespace.to_string(),
        name: listed.name.name.to_string(),
        effect,
        dry_run,
        selector: selector.to_string(),
        within: within.to_owned(),
        selected: listed.selected,
        error,
    }
}

/// Asks all policies about a connection from `from` (`NAMESPACE/NAME`) to `to` (`NAMESPACE/NAME:PORT`).
///
/// # Errors
/// When the question makes no sense; in a sentence.
pub fn explain(snapshot: &Snapshot, from: &str, to: &str) -> Result<PolicyExplainView, String> {
    let form = || format!("--to {to} must be NAMESPACE/NAME:PORT");
    let (name, port) = to.rsplit_once(':').ok_or_else(form)?;
    let port: u16 = port.parse().ok().filter(|port| *port != 0).ok_or_else(form)?;
    let source = known(snapshot, "--from", from)?;
    let destination = known(snapshot, "--to", name)?;
    let (source_address, address) = addresses(source, destination)
        .ok_or_else(|| format!("{from} and {name} have no addresses of one family"))?;
    let Asked { at, lets_in, note } = asked(snapshot, source, destination, port);
    let passage =
        |at| Passage::new(source, source_address, Some(destination), SocketAddr::new(address, port), at);
    let decisions: Vec<PolicyDecisionView> = at
        .map(|at| passage(at).decisions(snapshot))
        .unwrap_or_default()
        .iter()
        .map(|decision| told(decision, source, destination, port))
        .collect();
    Ok(PolicyExplainView {
        from: from.to_owned(),
        to: to.to_owned(),
        allowed: lets_in && decisions.iter().all(|d| d.allowed),
        decisions,
        note,
    })
}

fn known<'a>(snapshot: &'a Snapshot, flag: &str, name: &str) -> Result<&'a Workload, String> {
    let (namespace, own) =
        name.split_once('/').ok_or_else(|| format!("{flag} {name} must be NAMESPACE/NAME"))?;
    let found = snapshot.workload_named(namespace, own);
    found.map(|w| &**w).ok_or_else(|| format!("no workload {name} is known; see `lark workloads`"))
}

fn addresses(source: &Workload, destination: &Workload) -> Option<(std::net::IpAddr, std::net::IpAddr)> {
    let pairs =
        destination.addresses.iter().flat_map(|to| source.addresses.iter().map(move |from| (from, to)));
    pairs
        .map(|(from, to)| (from.to_canonical(), to.to_canonical()))
        .find(|(from, to)| from.is_ipv4() == to.is_ipv4())
}

/// Whom Lark asks between two workloads.
struct Asked {
    at: Option<At>,
    /// Whether the destination takes it at all.
    lets_in: bool,
    /// What Lark does not ask.
    note: String,
}

fn asked(snapshot: &Snapshot, source: &Workload, destination: &Workload, port: u16) -> Asked {
    let not = |workload: &Workload| {
        format!("{} is not captured ({})", workload.full_name(), workload.why_capture())
    };
    let is_plain = source.capture.is_wanted() && !destination.capture.is_wanted();
    if destination.host_network {
        let name = destination.full_name();
        let note = format!(
            "{name} is on the host network, where Lark takes no connection: nobody is asked, and no policy holds for it"
        );
        return Asked { at: None, lets_in: true, note };
    }
    if is_plain {
        let why = not(destination);
        let note = format!("{why}: only what may go out of the source is asked, the rest is the CNI's");
        return Asked { at: Some(At::Source), lets_in: true, note };
    }
    if source.capture.is_wanted() {
        return Asked { at: Some(At::Both), lets_in: true, note: String::new() };
    }
    let (why, name) = (not(source), destination.full_name());
    if !destination.capture.is_wanted() {
        let note = format!("{why}: Lark asks no policy about its connections");
        return Asked { at: None, lets_in: true, note };
    }
    let lets_in = snapshot.policies().plaintext(destination).on(port) == Mtls::Permissive;
    let note = if lets_in {
        format!("{why}: {name} takes plaintext on port {port}, and of policies the CNI's alone are asked")
    } else if destination.mode.on(port) == Mtls::Strict {
        format!("{why}: its plaintext is refused, for {name} is strict on port {port}")
    } else {
        format!(
            "{why}: its plaintext is refused, for an AuthorizationPolicy does not let everybody in to {name} on port {port}"
        )
    };
    Asked { at: None, lets_in, note }
}

fn told(decision: &Decision<'_>, source: &Workload, destination: &Workload, port: u16) -> PolicyDecisionView {
    let node = if decision.stage == Stage::Egress { &source.node } else { &destination.node };
    PolicyDecisionView {
        stage: decision.stage.label().to_owned(),
        node: node.to_string(),
        allowed: decision.allowed,
        because: decision.because.to_string(),
        dry_run: decision.dry_run.iter().map(ToString::to_string).collect(),
        would_change: would_change(decision, source, destination, port),
    }
}

/// What would turn the answer round, in a sentence.
fn would_change(decision: &Decision<'_>, source: &Workload, destination: &Workload, port: u16) -> String {
    let kind = decision.stage.kind().label();
    let (subject, peer) = match decision.stage {
        Stage::Egress => (source, destination),
        Stage::Authorization | Stage::Ingress => (destination, source),
    };
    let subject = subject.full_name();
    match &decision.because {
        Because::NoPolicy if decision.stage == Stage::Authorization => {
            format!(
                "a DENY that matches {}, or an ALLOW for others only, that selects {subject}",
                source.identity
            )
        }
        Because::NoPolicy => format!("any {kind} that selects {subject} for {}", decision.stage.label()),
        Because::Itself | Because::OwnNode => "nothing".to_owned(),
        Because::Rule { policy, rule } if decision.allowed => {
            format!("taking rule {rule} of {policy} away, unless another one allows it too")
        }
        Because::Rule { policy, rule } => {
            format!(
                "rule {rule} of {policy} not matching {} on port {port}: no ALLOW outweighs a DENY",
                source.identity
            )
        }
        Because::NoneAllows(selecting) => {
            let where_to =
                selecting.names().next().map(|n| format!(", for example in {n}")).unwrap_or_default();
            match selecting.kind {
                Kind::Authorization => {
                    format!("an ALLOW of {} to port {port} that selects {subject}{where_to}", source.identity)
                }
                Kind::Network => format!(
                    "a rule of {} with {} on TCP port {port} in a {kind} that selects {subject}{where_to}",
                    decision.stage.label(),
                    peer.full_name()
                ),
            }
        }
        Because::Unreadable { policy, .. } => format!("correcting {policy}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Action, AuthorizationPolicy, NetworkPolicy, Policies, Selector};
    use super::*;
    use crate::snapshot::fixture;

    fn snapshot() -> Snapshot {
        let network = NetworkPolicy {
            namespace: "shop".into(),
            name: "closed".into(),
            pods: Selector::default(),
            ingress: Some(vec![]),
            egress: None,
        };
        let allow = AuthorizationPolicy {
            namespace: "shop".into(),
            name: "nobody".into(),
            scope: Scope::Namespace,
            selector: Selector::default(),
            action: Action::Allow,
            dry_run: true,
            rules: vec![],
        };
        let policies = Policies { network: vec![network], authorization: vec![allow], ..Policies::default() };
        fixture::snapshot().with_policies(policies)
    }

    #[test]
    fn each_decision_says_where_why_and_what_would_change_it() {
        let told = explain(&snapshot(), "shop/web", "shop/db:80").unwrap();
        assert!(!told.allowed && told.note.is_empty());
        let lines: Vec<String> = told
            .decisions
            .iter()
            .map(|d| {
                format!(
                    "{} {} {} | {} | {:?} | {}",
                    d.stage, d.node, d.allowed, d.because, d.dry_run, d.would_change
                )
            })
            .collect();
        assert_eq!(
            lines,
            [
                "egress one true | no policy selects it | [] | any NetworkPolicy that selects shop/web for egress",
                "authorization two true | no policy selects it | [\"no ALLOW matched of AuthorizationPolicy shop/nobody\"] | a DENY that matches spiffe://cluster.local/ns/shop/sa/web, or an ALLOW for others only, that selects shop/db",
                "ingress two false | no rule matched of NetworkPolicy shop/closed | [] | a rule of ingress with shop/web on TCP port 80 in a NetworkPolicy that selects shop/db, for example in NetworkPolicy shop/closed",
            ]
        );
    }

    #[test]
    fn who_is_not_captured_is_not_judged_by_lark() {
        let told = explain(&snapshot(), "shop/web", "shop/db2:80").unwrap();
        assert_eq!((told.allowed, told.decisions.len()), (true, 1));
        assert!(told.note.starts_with("shop/db2 is not captured"), "{}", told.note);
        let told = explain(&snapshot(), "shop/db2", "shop/web:80").unwrap();
        assert_eq!((told.allowed, told.decisions.len()), (true, 0));
        assert!(told.note.contains("shop/web takes plaintext on port 80"), "{}", told.note);
    }

    #[test]
    fn plaintext_that_a_pod_does_not_take_is_not_called_allowed() {
        let explained = |snapshot: &Snapshot, to: &str| {
            let told = explain(snapshot, "shop/db2", to).unwrap();
            (told.allowed, told.note)
        };
        let mut policies = Policies::default();
        let closed = AuthorizationPolicy {
            namespace: "shop".into(),
            name: "proved".into(),
            scope: Scope::Namespace,
            selector: Selector::default(),
            action: Action::Allow,
            dry_run: false,
            rules: vec![],
        };
        policies.authorization.push(closed);
        let (allowed, note) = explained(&fixture::snapshot().with_policies(policies), "shop/web:80");
        assert!(!allowed && note.contains("an AuthorizationPolicy does not let everybody in"), "{note}");

        let (nodes, mut workloads, services) = fixture::mesh();
        for web in workloads.iter_mut().filter(|w| &*w.name == "web") {
            web.mode.mtls = Mtls::Strict;
            web.mode.ports = [(81, Mtls::Permissive)].into();
        }
        let strict = Snapshot::build(1, fixture::settings(), nodes, workloads, services).unwrap();
        let (allowed, note) = explained(&strict, "shop/web:80");
        assert!(!allowed && note.contains("shop/web is strict on port 80"), "{note}");
        assert!(explained(&strict, "shop/web:81").0);
    }

    #[test]
    fn no_policy_is_said_to_hold_for_the_hosts_network() {
        let (nodes, mut workloads, services) = fixture::mesh();
        workloads.iter_mut().filter(|w| &*w.name == "db").for_each(|db| db.host_network = true);
        let snapshot = Snapshot::build(1, fixture::settings(), nodes, workloads, services).unwrap();
        let told = explain(&snapshot, "shop/web", "shop/db:80").unwrap();
        assert_eq!((told.allowed, told.decisions.len()), (true, 0));
        assert!(told.note.contains("shop/db is on the host network"), "{}", told.note);
    }

    #[test]
    fn a_question_that_makes_no_sense_is_refused() {
        for (from, to, why) in [
            ("web", "shop/db:80", "--from web must be NAMESPACE/NAME"),
            ("shop/web", "shop/db", "--to shop/db must be NAMESPACE/NAME:PORT"),
            ("shop/web", "shop/db:0", "--to shop/db:0 must be NAMESPACE/NAME:PORT"),
            ("shop/web", "shop/nobody:80", "no workload shop/nobody is known"),
        ] {
            let error = explain(&snapshot(), from, to).unwrap_err();
            assert!(error.starts_with(why), "{error}");
        }
    }

    #[test]
    fn policies_are_listed_with_what_they_select() {
        let all = list(&snapshot());
        let told: Vec<String> = all
            .iter()
            .map(|p| {
                format!("{} {}/{} {} {} {}", p.kind, p.namespace, p.name, p.effect, p.dry_run, p.selected)
            })
            .collect();
        assert_eq!(
            told,
            ["AuthorizationPolicy shop/nobody ALLOW true 6", "NetworkPolicy shop/closed Ingress false 6"]
        );
    }
}
