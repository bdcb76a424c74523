//! Manifests in, decisions out.

mod authorization;
mod network;
mod world;

use lark_core::identity::TrustDomain;
use lark_core::policy::{Kind, Policies};
use proptest::prelude::*;
use serde_json::Value;

fn domain() -> TrustDomain {
    TrustDomain::new("cluster.local").unwrap()
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// A manifest of a kind around a spec.
fn manifest(kind: &str, namespace: &str, name: &str, spec: &str) -> Value {
    let version = if kind == "NetworkPolicy" { "networking.k8s.io/v1" } else { "lark.mesh/v1alpha1" };
    yaml(&format!(
        "{{apiVersion: {version}, kind: {kind}, metadata: {{namespace: {namespace}, name: {name}}}, spec: {spec}}}"
    ))
}

fn read(authorization: Vec<Value>, network: Vec<Value>) -> Policies {
    super::read(&domain(), world::namespaces(), authorization, network)
}

#[test]
fn one_that_cannot_be_read_harms_no_other_and_closes_what_it_selects() {
    let selector = "podSelector: {matchLabels: {pod: a}}";
    let policies = read(
        vec![
            manifest("AuthorizationPolicy", "x", "good", "{action: DENY, rules: [{}]}"),
            manifest("AuthorizationPolicy", "x", "field", "{selector: {matchLabels: {pod: a}}, rulez: []}"),
            manifest("AuthorizationPolicy", "x", "selector", "{selector: {matchLabel: {pod: a}}, rules: []}"),
            manifest("AuthorizationPolicy", "lark-system", "mesh", "{action: AUDIT}"),
            manifest("AuthorizationPolicy", "x", "dry", "{dryRun: true, action: AUDIT}"),
            manifest("AuthorizationPolicy", "x", "good", "{action: DENY, rules: [{}]}"),
            Value::from("what"),
        ],
        vec![
            manifest("NetworkPolicy", "x", "good", &format!("{{{selector}}}")),
            manifest("NetworkPolicy", "x", "peer", &format!("{{{selector}, ingress: [{{from: [{{}}]}}]}}")),
            manifest("NetworkPolicy", "x", "none", "[]"),
            manifest("NetworkPolicy", "x", "list", "{podSelector: {}, ingress: [[]]}"),
        ],
    );
    assert_eq!((policies.authorization.len(), policies.network.len()), (1, 1));
    let told: Vec<String> = policies
        .unreadable
        .iter()
        .map(|u| {
            let within = u.within.as_deref().unwrap_or("*");
            format!("{} | {within} [{}] dry={} | {}", u.policy, u.selector, u.dry_run, u.why)
        })
        .collect();
    let expected = [
        ("AuthorizationPolicy x/field | x [pod=a] dry=false | ", "unknown field `rulez`"),
        ("AuthorizationPolicy x/selector | x [] dry=false | ", "unknown field `matchLabel`"),
        ("AuthorizationPolicy lark-system/mesh | * [] dry=false | ", "unknown variant `AUDIT`"),
        ("AuthorizationPolicy x/dry | x [] dry=true | ", "unknown variant `AUDIT`"),
        ("AuthorizationPolicy x/good | x [] dry=false | ", "it appears twice"),
        ("AuthorizationPolicy / | * [] dry=false | ", "invalid type"),
        ("NetworkPolicy x/peer | x [pod=a] dry=false | ", "spec.ingress[0].from[0]: it names no peer"),
        ("NetworkPolicy x/none | x [] dry=false | ", "a list stands where fields by name belong"),
        ("NetworkPolicy x/list | x [] dry=false | ", "a list stands where fields by name belong"),
    ];
    for ((begin, why), told) in expected.iter().zip(&told) {
        assert!(
            told.starts_with(begin) && told.contains(why),
            "{told}\nshould begin with {begin:?} and say {why:?}"
        );
    }
    assert_eq!(told.len(), expected.len(), "{told:#?}");
}

/// Words that manifests have, so that arbitrary ones come near to real ones.
const WORDS: [&str; 24] = [
    "metadata",
    "namespace",
    "name",
    "spec",
    "selector",
    "podSelector",
    "matchLabels",
    "matchExpressions",
    "rules",
    "from",
    "to",
    "ports",
    "port",
    "endPort",
    "ingress",
    "egress",
    "policyTypes",
    "ipBlock",
    "cidr",
    "except",
    "identities",
    "lark.mesh/v1alpha1",
    "NetworkPolicy",
    "10.0.0.0/8",
];

fn value() -> impl Strategy<Value = Value> {
    let word = prop_oneof![prop::sample::select(&WORDS[..]).prop_map(str::to_owned), "\\PC{0,8}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(word.clone(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Whatever stands in the place of a policy or of a part of it: it is read, or it closes something.
    #[test]
    fn what_is_no_policy_is_never_passed_over(odd in value(), part in prop::sample::select(vec![
        "/spec", "/spec/podSelector", "/spec/ingress", "/spec/ingress/0", "/spec/ingress/0/from", "/spec/ingress/0/ports", "/metadata", "",
    ])) {
        let mut policy = manifest("NetworkPolicy", "x", "p", "{podSelector: {}, ingress: [{from: [], ports: []}]}");
        *policy.pointer_mut(part).unwrap() = odd.clone();
        let policies = read(vec![odd], vec![policy]);
        let of = |kind: Kind| policies.unreadable.iter().filter(|u| u.policy.kind == kind).count();
        prop_assert_eq!(policies.authorization.len() + of(Kind::Authorization), 1);
        prop_assert_eq!(policies.network.len() + of(Kind::Network), 1);
    }
}
