//! What policy leaves of plaintext. It proves nobody, so a workload takes it only where policy lets in whoever it
//! is: the kernel refuses the rest as it does for strict pods, before a byte and without asking who sent it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::index::{PolicyIndex, Set};
use super::ports::PortsAsked;
use super::{AuthorizationRule, Source};
use crate::mode::{Mode, Mtls};
use crate::snapshot::Workload;

impl PolicyIndex {
    /// How a workload takes plaintext: as its mode says, but at no port where an AuthorizationPolicy could keep
    /// somebody out. An ALLOW must be for anybody there, and no DENY for anybody who proves nothing, address
    /// blocks among them. Dry runs close nothing. Where policies name more ports than can be told one by one, all
    /// are closed.
    pub fn plaintext<'a>(&self, workload: &'a Workload) -> Cow<'a, Mode> {
        let mode = &workload.mode;
        let Some(set) = self.set_of(workload).filter(|set| set.is_authorized()) else {
            return Cow::Borrowed(mode);
        };
        let asked = self.ports_of_destination(workload);
        let Some(ports) = PortsAsked::default().between(&asked, workload) else {
            return Cow::Owned(Mode { mtls: Mtls::Strict, by: mode.by, ports: BTreeMap::new() });
        };
        let is_named = |port: &u16| ports.contains(port) || mode.ports.contains_key(port);
        let others = (1..=u16::MAX).find(|port| !is_named(port)).unwrap_or(0);
        let on = |port: u16, own: Mtls| if self.lets_anybody(set, port) { own } else { Mtls::Strict };
        let mtls = on(others, mode.mtls);
        let named = ports.iter().chain(mode.ports.keys()).map(|port| (*port, on(*port, mode.on(*port))));
        Cow::Owned(Mode { mtls, by: mode.by, ports: named.filter(|(_, own)| *own != mtls).collect() })
    }

    fn lets_anybody(&self, set: &Set, port: u16) -> bool {
        let mut denied = self.rules_of(&set.deny.policies).filter(|rule| rule.is_to(port));
        let mut allowed = self.rules_of(&set.allow.policies).filter(|rule| rule.is_to(port));
        set.unreadable_authorization.is_none()
            && !denied.any(|rule| rule.from.is_empty() || rule.from.iter().any(Source::is_of_the_unproved))
            && (set.allow.policies.is_empty() || allowed.any(|rule| rule.from.is_empty()))
    }

    fn rules_of<'a>(&'a self, policies: &'a [u32]) -> impl Iterator<Item = &'a AuthorizationRule> {
        policies.iter().filter_map(|number| self.authorization(*number)).flat_map(|policy| &policy.rules)
    }
}

impl Workload {
    /// For tables: its mode, and what policy has closed beside it.
    pub fn told_mode(&self, policies: &PolicyIndex) -> String {
        let taken = policies.plaintext(self);
        match *taken == self.mode {
            true => self.mode.told(),
            false => format!("{}; by policy {}", self.mode.told(), taken.told()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Action, Attempt, AuthorizationPolicy, Block, End, Policies, Scope, Selector};
    use super::*;
    use crate::mode::ModeBy;
    use crate::snapshot::Snapshot;
    use crate::snapshot::fixture;

    fn policy(action: Action, dry_run: bool, rules: Vec<AuthorizationRule>) -> AuthorizationPolicy {
        let selector = Selector::default();
        let (namespace, name) = ("shop".into(), "some".into());
        AuthorizationPolicy { namespace, name, scope: Scope::Namespace, selector, action, dry_run, rules }
    }

    fn rule(from: Vec<Source>, ports: &[u16]) -> AuthorizationRule {
        AuthorizationRule { from, ports: ports.iter().map(|port| *port..=*port).collect() }
    }

    fn proved() -> Source {
        Source { authenticated: true, ..Source::default() }
    }

    fn of_a_block() -> Source {
        Source { blocks: vec![Block::new("10.0.0.0/8", &[]).unwrap()], ..Source::default() }
    }

    fn told(authorization: Vec<AuthorizationPolicy>) -> String {
        let policies = Policies { authorization, ..Policies::default() };
        let snapshot = fixture::snapshot().with_policies(policies);
        let db = snapshot.workload_named("shop", "db").unwrap();
        snapshot.policies().plaintext(db).told()
    }

    #[test]
    fn what_policy_does_not_open_to_anybody_takes_no_plaintext() {
        let allow = |rules| policy(Action::Allow, false, rules);
        let deny = |rules| policy(Action::Deny, false, rules);
        for (policies, expected) in [
            (vec![], "permissive"),
            (vec![allow(vec![])], "strict"),
            (vec![allow(vec![rule(vec![proved()], &[])])], "strict"),
            (vec![allow(vec![rule(vec![of_a_block()], &[])])], "strict"),
            (vec![allow(vec![rule(vec![], &[])])], "permissive"),
            (vec![allow(vec![rule(vec![], &[80])])], "strict, 80=permissive"),
            (
                vec![allow(vec![rule(vec![proved()], &[80])]), allow(vec![rule(vec![], &[81])])],
                "strict, 81=permissive",
            ),
            (vec![deny(vec![rule(vec![], &[80])])], "permissive, 80=strict"),
            (vec![deny(vec![rule(vec![proved()], &[80])])], "permissive"),
            (vec![deny(vec![rule(vec![of_a_block()], &[80])])], "permissive, 80=strict"),
            (
                vec![deny(vec![rule(vec![proved(), of_a_block()], &[])]), allow(vec![rule(vec![], &[])])],
                "strict",
            ),
            (
                vec![
                    policy(Action::Allow, true, vec![]),
                    policy(Action::Deny, true, vec![rule(vec![], &[])]),
                ],
                "permissive",
            ),
        ] {
            let said = format!("{policies:?}");
            assert_eq!(told(policies), expected, "{said}");
        }
        let many = AuthorizationRule { from: vec![], ports: vec![1000..=2000] };
        assert_eq!(told(vec![allow(vec![many])]), "strict");
    }

    #[test]
    fn policy_opens_nothing_that_the_mode_closes() {
        let authorization =
            vec![policy(Action::Allow, false, vec![rule(vec![], &[80]), rule(vec![], &[81])])];
        let snapshot = fixture::snapshot().with_policies(Policies { authorization, ..Policies::default() });
        let mut db = (**snapshot.workload_named("shop", "db").unwrap()).clone();
        db.mode = Mode {
            mtls: Mtls::Strict,
            by: ModeBy::Mesh,
            ports: [(80, Mtls::Permissive), (82, Mtls::Permissive)].into(),
        };
        assert_eq!(snapshot.policies().plaintext(&db).told(), "strict, 80=permissive");
        assert_eq!(
            db.told_mode(snapshot.policies()),
            "strict, 80=permissive 82=permissive; by policy strict, 80=permissive"
        );
    }

    fn sources() -> impl Strategy<Value = Vec<Source>> {
        prop::collection::vec(prop_oneof![Just(proved()), Just(of_a_block())], 0..3)
    }

    fn policies() -> impl Strategy<Value = Vec<AuthorizationPolicy>> {
        let ports = prop::collection::vec(79_u16..83, 0..2);
        let rules =
            prop::collection::vec((sources(), ports).prop_map(|(from, ports)| rule(from, &ports)), 0..3);
        let one = (any::<bool>(), any::<bool>(), rules).prop_map(|(deny, dry_run, rules)| {
            policy(if deny { Action::Deny } else { Action::Allow }, dry_run, rules)
        });
        prop::collection::vec(one, 0..4)
    }

    fn denied(snapshot: &Snapshot, source: &str, port: u16) -> bool {
        let db = snapshot.workload_named("shop", "db").unwrap();
        let attempt = Attempt {
            source: End { workload: None, address: source.parse().unwrap(), proved: false },
            destination: End { workload: Some(db), address: db.addresses[0], proved: true },
            port,
        };
        !snapshot.policies().inbound(&attempt)[0].allowed
    }

    proptest! {
        /// Whom policy denies by what plaintext shows of him, his plaintext is not taken.
        #[test]
        fn no_plaintext_is_taken_that_policy_would_deny(authorization in policies(), port in 78_u16..84, inside: bool) {
            let snapshot = fixture::snapshot().with_policies(Policies { authorization, ..Policies::default() });
            let db = snapshot.workload_named("shop", "db").unwrap();
            let source = if inside { "10.9.9.9" } else { "192.0.2.1" };
            if denied(&snapshot, source, port) {
                prop_assert_eq!(snapshot.policies().plaintext(db).on(port), Mtls::Strict);
            }
        }
    }
}
