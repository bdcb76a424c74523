use super::world::World;
use super::{manifest, read};

/// Specs in namespace x (or `NAMESPACE: SPEC`), and who may connect then.
const CASES: &[(&str, &[&str], &str)] = &[
    ("no policy is open", &[], "w/a>x/a:80+ 203.0.113.5>x/a:80+"),
    ("an empty spec closes", &["{}"], "w/a>x/a:80- x/b>x/a:80- x/a>x/a:80+ x/a>w/a:80+"),
    ("an empty rule opens to all", &["{rules: [{}]}"], "w/a>x/a:80+ 203.0.113.5>x/a:80+"),
    (
        "an identity, exactly",
        &["{rules: [{from: [{identities: ['spiffe://cluster.local/ns/w/sa/a']}]}]}"],
        "w/a>x/a:80+ w/b>x/a:80- x/a>x/b:80- z/a>x/a:80- 10.0.2.1>x/a:80-",
    ),
    (
        "identities below a namespace, and no namespace that begins alike",
        &["{rules: [{from: [{identities: ['spiffe://cluster.local/ns/w/*']}]}]}"],
        "w/a>x/a:80+ w/b>x/a:80+ z/a>x/a:80-",
    ),
    (
        "all identities of the mesh",
        &["{rules: [{from: [{identities: ['spiffe://cluster.local/*']}]}]}"],
        "w/a>x/a:80+ host/two>x/a:80+ 10.0.2.1>x/a:80-",
    ),
    ("authenticated", &["{rules: [{from: [{authenticated: true}]}]}"], "w/a>x/a:80+ 10.0.2.1>x/a:80-"),
    ("namespaces", &["{rules: [{from: [{namespaces: [w, q]}]}]}"], "w/c>x/a:80+ z/c>x/a:80-"),
    (
        "accounts, of the own namespace where none is said",
        &["{rules: [{from: [{accounts: [z/b, c]}]}]}"],
        "z/b>x/a:80+ x/c>x/a:80+ z/c>x/a:80- w/b>x/a:80-",
    ),
    (
        "addresses",
        &["{rules: [{from: [{ipBlocks: [{cidr: 10.0.2.0/24, except: [10.0.2.2/32]}]}]}]}"],
        "w/a>x/a:80+ w/b>x/a:80- w/a6>x/a:80- 10.0.2.9>x/a:80+",
    ),
    (
        "fields of a source hold together, sources each for itself",
        &["{rules: [{from: [{namespaces: [w], accounts: [w/a]}, {namespaces: [z]}]}]}"],
        "w/a>x/a:80+ w/b>x/a:80- z/b>x/a:80+",
    ),
    (
        "ports",
        &["{rules: [{from: [{namespaces: [w]}], to: [{ports: [80]}, {ports: [443, 444]}]}]}"],
        "w/a>x/a:80+ w/a>x/a:444+ w/a>x/a:81- z/a>x/a:80-",
    ),
    (
        "a selector",
        &["{selector: {matchLabels: {pod: a}}, rules: [{from: [{namespaces: [w]}]}]}"],
        "z/a>x/a:80- z/a>x/b:80+ w/a>x/a:80+ x/b>w/a:80+",
    ),
    (
        "DENY wins over ALLOW",
        &["{action: DENY, rules: [{from: [{accounts: [w/a]}]}]}", "{rules: [{from: [{namespaces: [w]}]}]}"],
        "w/a>x/a:80- w/b>x/a:80+ z/a>x/a:80-",
    ),
    (
        "DENY alone closes nothing else",
        &["{action: DENY, rules: [{to: [{ports: [80]}]}]}"],
        "w/a>x/a:80- w/a>x/a:81+ 203.0.113.5>x/a:81+",
    ),
    (
        "ALLOWs add up",
        &["{rules: [{from: [{namespaces: [w]}]}]}", "{rules: [{from: [{namespaces: [z]}]}]}"],
        "w/a>x/a:80+ z/a>x/a:80+ x/b>x/a:80-",
    ),
    (
        "the mesh's own namespace speaks for all",
        &["lark-system: {action: DENY, rules: [{from: [{namespaces: [z]}]}]}"],
        "z/a>x/a:80- z/a>w/a:80- w/a>x/a:80+",
    ),
    (
        "the mesh's own namespace with a selector",
        &["lark-system: {selector: {matchLabels: {pod: a}}, rules: [{from: [{authenticated: true}]}]}"],
        "10.0.9.9>x/a:80- 10.0.9.9>z/a:80- 10.0.9.9>x/b:80+ w/b>x/a:80+",
    ),
    (
        "a dry run closes nothing",
        &["{dryRun: true}", "{dryRun: true, action: DENY, rules: [{}]}"],
        "w/a>x/a:80+",
    ),
    (
        "what cannot be read closes what it selects",
        &["{selector: {matchLabels: {pod: a}}, rules: [{from: [{port: 80}]}]}", "{rules: [{}]}"],
        "w/a>x/a:80- w/a>x/b:80+",
    ),
];

#[test]
fn each_policy_opens_and_closes_what_it_says() {
    for (title, specs, connections) in CASES {
        let named = specs.iter().enumerate().map(|(i, spec)| {
            let (namespace, spec) = match spec.split_once(": {") {
                Some((namespace, rest)) if !namespace.starts_with('{') => (namespace, format!("{{{rest}")),
                _ => ("x", (*spec).to_owned()),
            };
            manifest("AuthorizationPolicy", namespace, &format!("p{i}"), &spec)
        });
        World::new(read(named.collect(), vec![])).expect(title, connections);
    }
}

#[test]
fn what_can_never_be_is_refused_with_the_reason() {
    for (spec, why) in [
        ("{action: DENY}", "spec.rules: a DENY without rules denies nothing"),
        ("{rules: [{from: []}]}", "spec.rules[0].from: an empty list matches nothing"),
        ("{rules: [{}, {from: [{}]}]}", "spec.rules[1].from[0]: it says nothing"),
        ("{rules: [{to: []}]}", "spec.rules[0].to: an empty list"),
        ("{rules: [{to: [{ports: []}]}]}", "spec.rules[0].to[0].ports: an empty list"),
        ("{rules: [{to: [{ports: [0]}]}]}", "0 is no port"),
        ("{rules: [{to: [{ports: [70000]}]}]}", "70000"),
        ("{rules: [{from: [{authenticated: false}]}]}", "authenticated must be true"),
        ("{rules: [{from: [{identities: []}]}]}", "spec.rules[0].from[0].identities: an empty list"),
        (
            "{rules: [{from: [{identities: ['spiffe://other/ns/x/sa/a']}]}]}",
            "another trust domain than cluster.local",
        ),
        ("{rules: [{from: [{identities: ['spiffe://other/*']}]}]}", "another trust domain"),
        ("{rules: [{from: [{identities: ['spiffe://cluster.local/ns/x*']}]}]}", "matches no identity"),
        ("{rules: [{from: [{identities: ['spiffe://cluster.local/ns/x/sa/a/*']}]}]}", "matches no identity"),
        ("{rules: [{from: [{identities: ['spiffe://cluster.local/ns/x/sa/w*']}]}]}", "matches no identity"),
        ("{rules: [{from: [{identities: ['*']}]}]}", "must begin with spiffe://"),
        ("{rules: [{from: [{identities: ['spiffe://*']}]}]}", "must begin with spiffe://"),
        ("{rules: [{from: [{identities: ['x/a']}]}]}", "not of the form"),
        ("{rules: [{from: [{namespaces: [X]}]}]}", "namespace \"X\" must be"),
        ("{rules: [{from: [{accounts: [a/b/c]}]}]}", "account \"b/c\" must be"),
        ("{rules: [{from: [{namespaces: [w], accounts: [z/a]}]}]}", "exclude each other"),
        (
            "{rules: [{from: [{namespaces: [w], identities: ['spiffe://cluster.local/ns/z/*']}]}]}",
            "exclude each other",
        ),
        (
            "{rules: [{from: [{accounts: [w/a], identities: ['spiffe://cluster.local/ns/w/sa/b']}]}]}",
            "exclude each other",
        ),
        ("{rules: [{from: [{ipBlocks: [{cidr: 10.0.0.0/8, except: [11.0.0.0/9]}]}]}]}", "is not inside of"),
        ("{rules: [{from: [{ipBlocks: [{cidr: ten}]}]}]}", "is not of the form ADDRESS/LENGTH"),
        ("{selector: {matchLabels: {'a b': c}}}", "spec.selector.matchLabels: \"a b\" is no label's name"),
        ("{selector: {matchLabels: {a: 'b c'}}}", "is no label's value"),
        ("{selector: {matchExpressions: [{key: a, operator: In}]}}", "need values"),
        ("{rules: [[]]}", "a list stands where fields by name belong"),
        ("{selector: []}", "a list stands where fields by name belong"),
        ("{rules: [{when: []}]}", "unknown field `when`"),
    ] {
        let policies = read(vec![manifest("AuthorizationPolicy", "x", "p", spec)], vec![]);
        let said: Vec<&str> = policies.unreadable.iter().map(|u| u.why.as_str()).collect();
        assert!(said.len() == 1 && said[0].contains(why), "{spec}: {said:?} should say {why:?}");
    }
}
