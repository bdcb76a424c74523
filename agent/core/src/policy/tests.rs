//! Properties that hold whatever the policies are.

use proptest::prelude::*;

use super::*;
use crate::capture::Wanted;
use crate::snapshot::fixture::{node, workload};

/// Four pods in two namespaces, with labels that policies select.
fn pods() -> Vec<Arc<Workload>> {
    let pod = |namespace: &str, name: &str, address: &str, tier: &str| {
        let mut pod = workload(name, address, "one", Wanted::ByNamespace);
        pod.namespace = namespace.into();
        pod.identity = format!("spiffe://cluster.local/ns/{namespace}/sa/{name}").parse().unwrap();
        pod.labels =
            BTreeMap::from([("app".to_owned(), name.to_owned()), ("tier".to_owned(), tier.to_owned())])
                .into();
        Arc::new(pod)
    };
    vec![
        pod("shop", "web", "10.0.1.1", "front"),
        pod("shop", "db", "10.0.1.2", "back"),
        pod("shop", "cache", "10.0.1.3", "back"),
        pod("other", "job", "10.0.2.1", "front"),
    ]
}

fn index(policies: Policies) -> PolicyIndex {
    PolicyIndex::build(policies, pods().iter(), [node("one", "192.168.0.1")].iter())
}

fn end(workload: &Workload) -> End<'_> {
    End { workload: Some(workload), address: workload.addresses[0], proved: true }
}

/// Both ends asked, as between two agents.
fn allowed(index: &PolicyIndex, from: &Workload, to: &Workload, port: u16) -> bool {
    let attempt = Attempt { source: end(from), destination: end(to), port };
    index.egress(&attempt).allowed && index.inbound(&attempt).iter().all(|d| d.allowed)
}

/// All that is asked of an index: every pair of pods on two ports.
fn all_answers(index: &PolicyIndex) -> Vec<bool> {
    let pods = pods();
    let pairs = pods.iter().flat_map(|a| pods.iter().map(move |b| (a, b)));
    pairs.flat_map(|(a, b)| [80, 443].map(|port| allowed(index, a, b, port))).collect()
}

fn selector() -> impl Strategy<Value = Selector> {
    let one = |key: &str, value: &str| Selector {
        labels: [(key.to_owned(), value.to_owned())].into(),
        expressions: vec![],
    };
    let not = Requirement { key: "app".to_owned(), operator: Operator::NotIn(vec!["db".to_owned()]) };
    prop_oneof![
        Just(Selector::default()),
        prop::sample::select(vec!["web", "db", "cache", "job"]).prop_map(move |app| one("app", app)),
        prop::sample::select(vec!["front", "back"]).prop_map(move |tier| one("tier", tier)),
        Just(Selector { labels: Labels::new(), expressions: vec![not] }),
    ]
}

fn ports() -> impl Strategy<Value = Vec<std::ops::RangeInclusive<u16>>> {
    prop::sample::select(vec![vec![], vec![80..=80], vec![400..=500]])
}

fn source() -> impl Strategy<Value = Source> {
    let exact = |name: &str| {
        IdentityPattern::Exact(format!("spiffe://cluster.local/ns/shop/sa/{name}").parse().unwrap())
    };
    prop_oneof![
        Just(Source { authenticated: true, ..Source::default() }),
        Just(Source { namespaces: vec!["other".to_owned()], ..Source::default() }),
        Just(Source { accounts: vec![("shop".to_owned(), "web".to_owned())], ..Source::default() }),
        Just(Source { blocks: vec![Block::new("10.0.1.0/31", &[]).unwrap()], ..Source::default() }),
        Just(Source { identities: vec![exact("web"), exact("db")], ..Source::default() }),
        Just(Source {
            identities: vec![IdentityPattern::Below("spiffe://cluster.local/ns/shop/".to_owned())],
            ..Source::default()
        }),
    ]
}

prop_compose! {
    fn authorization()(
        name in "[a-z]{6}",
        mesh: bool,
        selector in selector(),
        deny: bool,
        dry_run: bool,
        rules in prop::collection::vec((prop::collection::vec(source(), 0..3), ports()), 0..3),
    ) -> AuthorizationPolicy {
        AuthorizationPolicy {
            namespace: "shop".into(),
            name: name.as_str().into(),
            scope: if mesh { Scope::Mesh } else { Scope::Namespace },
            selector,
            action: if deny { Action::Deny } else { Action::Allow },
            dry_run,
            rules: rules.into_iter().map(|(from, ports)| AuthorizationRule { from, ports }).collect(),
        }
    }
}

fn peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        Just(Peer::Block(Block::new("10.0.1.0/31", &[]).unwrap())),
        (prop::option::of(namespaces()), selector())
            .prop_map(|(namespaces, pods)| Peer::Pods { namespaces, pods }),
    ]
}

/// By no label, by one that a namespace is given, and by the one that each has.
fn namespaces() -> impl Strategy<Value = Selector> {
    let label = |key: &str, value: &str| Selector {
        labels: [(key.to_owned(), value.to_owned())].into(),
        expressions: vec![],
    };
    let name = "kubernetes.io/metadata.name";
    prop::sample::select(vec![
        Selector::default(),
        label("team", "red"),
        label(name, "shop"),
        label(name, "other"),
    ])
}

fn network_rules() -> impl Strategy<Value = Option<Vec<NetworkRule>>> {
    let rule = (prop::collection::vec(peer(), 0..3), ports()).prop_map(|(peers, ports)| NetworkRule {
        peers: if peers.is_empty() { Peers::All } else { Peers::These(peers) },
        ports: if ports.is_empty() {
            Ports::All
        } else {
            Ports::These(ports.into_iter().map(PortMatch::Range).collect())
        },
    });
    prop::option::of(prop::collection::vec(rule, 0..3))
}

prop_compose! {
    fn network()(name in "[a-z]{6}", pods in selector(), ingress in network_rules(), egress in network_rules()) -> NetworkPolicy {
        NetworkPolicy { namespace: "shop".into(), name: name.as_str().into(), pods, ingress, egress }
    }
}

prop_compose! {
    pub(crate) fn policies()(
        authorization in prop::collection::vec(authorization(), 0..6),
        network in prop::collection::vec(network(), 0..4),
        red in prop::option::of(prop::sample::select(vec!["shop", "other"])),
        unreadable in prop::option::weighted(0.2, selector()),
    ) -> Policies {
        let policy = PolicyName { kind: Kind::Network, namespace: "shop".into(), name: "odd".into() };
        let unreadable = unreadable.map(|selector| Unreadable {
            policy,
            why: "it is odd".to_owned(),
            within: Some("shop".into()),
            selector,
            dry_run: false,
        });
        let labels = || Labels::from([("team".to_owned(), "red".to_owned())]);
        Policies {
            namespaces: red.map(|name| (name.into(), labels())).into_iter().collect(),
            authorization,
            network,
            unreadable: unreadable.into_iter().collect(),
        }
    }
}

proptest! {
    #[test]
    fn order_never_matters(policies in policies(), seed: usize) {
        let mut turned = policies.clone();
        let turn = |n: usize| if n == 0 { 0 } else { seed % n };
        let n = turned.authorization.len();
        turned.authorization.rotate_left(turn(n));
        turned.network.reverse();
        for policy in &mut turned.authorization {
            policy.rules.reverse();
            policy.rules.iter_mut().for_each(|rule| rule.from.reverse());
        }
        for rules in turned.network.iter_mut().flat_map(|p| [&mut p.ingress, &mut p.egress]).flatten() {
            rules.reverse();
        }
        prop_assert_eq!(all_answers(&index(policies)), all_answers(&index(turned)));
    }

    /// With a DENY more, nothing is open that was closed; and what its rules match is closed.
    #[test]
    fn deny_wins(policies in policies(), deny in authorization()) {
        let deny = AuthorizationPolicy { action: Action::Deny, dry_run: false, name: "zz".into(), ..deny };
        let before = index(policies.clone());
        let mut more = policies;
        more.authorization.push(deny.clone());
        let after = index(more);
        for (was, is) in all_answers(&before).into_iter().zip(all_answers(&after)) {
            prop_assert!(was || !is);
        }
        let pods = pods();
        for (from, to) in pods.iter().flat_map(|a| pods.iter().map(move |b| (a, b))) {
            let selects = deny.selector.matches(&to.labels)
                && (deny.scope == Scope::Mesh || to.namespace == deny.namespace);
            let attempt = Attempt { source: end(from), destination: end(to), port: 80 };
            if selects && deny.rules.iter().any(|rule| rule.matches(&attempt)) && from.uid != to.uid {
                prop_assert!(!allowed(&after, from, to, 80));
            }
        }
    }

    #[test]
    fn a_dry_run_never_denies_and_says_what_it_would(policies in policies()) {
        let mut without = policies.clone();
        without.authorization.retain(|p| !p.dry_run);
        let (with, without) = (index(policies.clone()), index(without));
        prop_assert_eq!(all_answers(&with), all_answers(&without));
        // What it says is what would be so.
        let mut enforced = policies;
        enforced.authorization.iter_mut().for_each(|p| p.dry_run = false);
        let enforced = index(enforced);
        let pods = pods();
        for (from, to) in pods.iter().flat_map(|a| pods.iter().map(move |b| (a, b))) {
            let attempt = Attempt { source: end(from), destination: end(to), port: 80 };
            let now = with.authorize(&attempt);
            if now.allowed {
                prop_assert_eq!(now.dry_run.is_empty(), enforced.authorize(&attempt).allowed);
            }
        }
    }

    /// An ALLOW opens nothing for a source that it does not match.
    #[test]
    fn an_allow_for_someone_else_never_opens_to_a_third(policies in policies(), allow in authorization()) {
        let allow = AuthorizationPolicy { action: Action::Allow, dry_run: false, name: "zz".into(), ..allow };
        let before = index(policies.clone());
        let mut more = policies;
        more.authorization.push(allow.clone());
        let after = index(more);
        let pods = pods();
        for (from, to) in pods.iter().flat_map(|a| pods.iter().map(move |b| (a, b))) {
            let attempt = Attempt { source: end(from), destination: end(to), port: 80 };
            if !allow.rules.iter().any(|rule| rule.matches(&attempt)) && !before.authorize(&attempt).allowed {
                prop_assert!(!after.authorize(&attempt).allowed);
            }
        }
    }

    #[test]
    fn a_network_policy_more_never_closes_what_it_allows_and_never_opens_a_pod_it_does_not_select(
        policies in policies(), more in network(),
    ) {
        let before = index(policies.clone());
        let mut with = policies;
        with.network.push(NetworkPolicy { name: "zz".into(), ..more.clone() });
        let after = index(with);
        let pods = pods();
        for (from, to) in pods.iter().flat_map(|a| pods.iter().map(move |b| (a, b))) {
            let attempt = Attempt { source: end(from), destination: end(to), port: 80 };
            let [_, was] = before.inbound(&attempt);
            let [_, is] = after.inbound(&attempt);
            let selects = to.namespace == more.namespace && more.pods.matches(&to.labels);
            if !selects || more.ingress.is_none() {
                prop_assert_eq!(was.allowed, is.allowed);
            } else if is.allowed && !was.allowed {
                let by_it = matches!(&is.because, Because::Rule { policy, .. } if &*policy.name == "zz");
                prop_assert!(by_it, "{}", is);
            }
        }
    }

    /// What is looked up by what peers have is the same as what a walk over all rules finds.
    #[test]
    fn no_rule_is_missed_by_its_look_up(policies in policies()) {
        let index = index(policies.clone());
        let pods = pods();
        for (from, to) in pods.iter().flat_map(|a| pods.iter().map(move |b| (a, b))).filter(|(a, b)| a.uid != b.uid) {
            for proved in [true, false] {
                let source = End { proved, ..end(from) };
                let attempt = Attempt { source, destination: end(to), port: 80 };
                let selecting = |p: &&AuthorizationPolicy| {
                    !p.dry_run
                        && (p.scope == Scope::Mesh || p.namespace == to.namespace)
                        && p.selector.matches(&to.labels)
                };
                let matched = |action: Action| {
                    let of_action = policies.authorization.iter().filter(selecting).filter(|p| p.action == action);
                    let matched = of_action.clone().any(|p| p.rules.iter().any(|rule| rule.matches(&attempt)));
                    (of_action.count(), matched)
                };
                let ((allows, allowed), (_, denied)) = (matched(Action::Allow), matched(Action::Deny));
                let expected = !denied && (allows == 0 || allowed);
                prop_assert_eq!(index.authorize(&attempt).allowed, expected);
            }
        }
    }

    /// The index answers as a walk over all policies does.
    #[test]
    fn the_index_selects_what_selectors_select(policies in policies()) {
        let index = index(policies);
        for listed in index.policies() {
            let selects = |pod: &Arc<Workload>| match listed.policy {
                Policy::Authorization(p) => {
                    (p.scope == Scope::Mesh || p.namespace == pod.namespace) && p.selector.matches(&pod.labels)
                }
                Policy::Network(p) => p.namespace == pod.namespace && p.pods.matches(&pod.labels),
                Policy::Unreadable(p) => {
                    p.within.as_ref().is_none_or(|w| *w == pod.namespace) && p.selector.matches(&pod.labels)
                }
            };
            let count = pods().iter().filter(|pod| selects(pod)).count();
            prop_assert_eq!(usize::try_from(listed.selected).unwrap(), count);
        }
    }
}

fn deny_all(kind: Kind, within: Option<&str>) -> Unreadable {
    Unreadable {
        policy: PolicyName { kind, namespace: "shop".into(), name: "broken".into() },
        why: "unknown field `form`".to_owned(),
        within: within.map(Into::into),
        selector: Selector { labels: [("app".to_owned(), "db".to_owned())].into(), expressions: vec![] },
        dry_run: false,
    }
}

#[test]
fn what_could_not_be_read_closes_what_it_selects_and_nothing_else() {
    let pods = pods();
    let (web, db, cache, job) = (&pods[0], &pods[1], &pods[2], &pods[3]);
    for kind in [Kind::Authorization, Kind::Network] {
        let policies = Policies { unreadable: vec![deny_all(kind, Some("shop"))], ..Policies::default() };
        let index = index(policies);
        assert!(!allowed(&index, web, db, 80));
        assert!(
            allowed(&index, web, cache, 80) && allowed(&index, job, web, 80) && allowed(&index, db, db, 80)
        );
        // NetworkPolicy has two directions, and its types may be what could not be read.
        assert_eq!(allowed(&index, db, web, 80), kind == Kind::Authorization);
    }
    let dry = Unreadable { dry_run: true, ..deny_all(Kind::Authorization, None) };
    let index = index(Policies { unreadable: vec![dry], ..Policies::default() });
    assert!(allowed(&index, web, db, 80));
    let attempt = Attempt { source: end(web), destination: end(db), port: 80 };
    let [decision, _] = index.inbound(&attempt);
    assert_eq!(
        decision.dry_run.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["AuthorizationPolicy shop/broken could not be read (unknown field `form`)"]
    );
}

#[test]
fn a_denial_names_its_cause() {
    let pods = pods();
    let (web, db) = (&pods[0], &pods[1]);
    let policy = |name: &str, action, rules| AuthorizationPolicy {
        namespace: "shop".into(),
        name: name.into(),
        scope: Scope::Namespace,
        selector: Selector::default(),
        action,
        dry_run: false,
        rules,
    };
    let from = |namespace: &str| AuthorizationRule {
        from: vec![Source { namespaces: vec![namespace.to_owned()], ..Source::default() }],
        ports: vec![],
    };
    let said = |authorization: Vec<AuthorizationPolicy>, network: Vec<NetworkPolicy>| {
        let index = index(Policies { authorization, network, ..Policies::default() });
        let attempt = Attempt { source: end(web), destination: end(db), port: 80 };
        let [authorization, ingress] = index.inbound(&attempt);
        [authorization.to_string(), ingress.to_string(), index.egress(&attempt).to_string()]
    };
    let closed = NetworkPolicy {
        namespace: "shop".into(),
        name: "closed".into(),
        pods: Selector::default(),
        ingress: Some(vec![]),
        egress: None,
    };
    assert_eq!(
        said(vec![policy("others", Action::Allow, vec![from("x"), from("other")])], vec![closed]),
        [
            "authorization denied: no ALLOW matched of AuthorizationPolicy shop/others",
            "ingress denied: no rule matched of NetworkPolicy shop/closed",
            "egress allowed: no policy selects it",
        ]
    );
    let deny = policy("no-shop", Action::Deny, vec![from("x"), from("shop")]);
    assert_eq!(said(vec![deny], vec![])[0], "authorization denied: AuthorizationPolicy shop/no-shop, rule 2");
}

#[test]
fn only_what_is_proved_has_an_identity() {
    let pods = pods();
    let (web, db) = (&pods[0], &pods[1]);
    let rule = |source: Source| AuthorizationRule { from: vec![source], ports: vec![] };
    let answers = |source: Source| {
        let policy = AuthorizationPolicy {
            namespace: "shop".into(),
            name: "p".into(),
            scope: Scope::Namespace,
            selector: Selector::default(),
            action: Action::Allow,
            dry_run: false,
            rules: vec![rule(source)],
        };
        let index = index(Policies { authorization: vec![policy], ..Policies::default() });
        [true, false].map(|proved| {
            let attempt = Attempt { source: End { proved, ..end(web) }, destination: end(db), port: 80 };
            index.inbound(&attempt)[0].allowed
        })
    };
    assert_eq!(answers(Source { authenticated: true, ..Source::default() }), [true, false]);
    assert_eq!(answers(Source { namespaces: vec!["shop".to_owned()], ..Source::default() }), [true, false]);
    let web_account = vec![("shop".to_owned(), "web".to_owned())];
    assert_eq!(answers(Source { accounts: web_account, ..Source::default() }), [true, false]);
    let block = Block::new("10.0.1.1/32", &[]).unwrap();
    assert_eq!(answers(Source { blocks: vec![block], ..Source::default() }), [true, true]);
    assert_eq!(answers(Source::default()), [true, true]);
}
