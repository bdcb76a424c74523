//! What the API documents and Lark builds on, beside watches: tokens that are bound to pods, versions of objects, Events,
//! rights of others, the schema of a kind of ours. On etcd and kube-apiserver themselves where these are to be had.

use std::time::Duration;

use lark_discovery::kubernetes::{
    About, AccessReviews, Bearer, Events, Files, Held, ReviewError, Shared, SharedError, Texts, TokenReviews,
};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::world::{LIMIT, World, uid, until};

#[tokio::test]
async fn a_bound_token_tells_its_pod_and_node_and_no_other_is_taken() {
    let world = World::anywhere().await;
    let agent = world.system_pod("lark-agent-1", "lark-agent");
    let other = world.system_pod("lark-controller-1", "lark-controller");
    let access = world.controller();
    let reviews = TokenReviews::new(&access, "lark-ca", "lark-system", "lark-agent").await.unwrap();
    let token = world.token("lark-agent", Some(&agent), "lark-ca");
    let bearer = Bearer { node: "one".into(), pod: uid(&agent).unwrap().into() };
    assert_eq!(reviews.review(&token).await, Ok(bearer));
    let refused = |result: Result<Bearer, ReviewError>| matches!(result, Err(ReviewError::Refused { .. }));
    for audience in ["istio-ca", "https://kubernetes.default.svc"] {
        let token = world.token("lark-agent", Some(&agent), audience);
        assert!(refused(reviews.review(&token).await), "{audience}");
    }
    assert!(refused(reviews.review(&format!("{token}A")).await));
    let unbound = world.token("lark-agent", None, "lark-ca");
    assert_eq!(reviews.review(&unbound).await, Err(ReviewError::NotBound));
    let of_other = world.token("lark-controller", Some(&other), "lark-ca");
    let user = |account: &str| format!("system:serviceaccount:lark-system:{account}");
    let no_agent = ReviewError::NoAgent { user: user("lark-controller"), agent: user("lark-agent") };
    assert_eq!(reviews.review(&of_other).await, Err(no_agent));
    // The API server believes for some seconds what it found out of a token.
    world.delete_bound(&agent, &token);
    let gone = async {
        while !refused(reviews.review(&token).await) {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(LIMIT, gone).await.unwrap();
}

#[tokio::test]
async fn what_replicas_share_is_written_over_what_was_read_or_not_at_all() {
    let world = World::anywhere().await;
    let shared = Shared::new(&world.controller(), "lark-system", LIMIT).await.unwrap();
    let is_conflict = |error: SharedError| matches!(error, SharedError::Conflict { .. });
    let files = |text: &str| Files::from([("state".to_owned(), text.as_bytes().to_vec())]);
    assert!(shared.secret("lark-roots").await.unwrap().is_none());
    let first = shared.put_secret("lark-roots", None, files("first")).await.unwrap();
    // Two that found none, and two that found the first.
    assert!(is_conflict(shared.put_secret("lark-roots", None, files("other")).await.unwrap_err()));
    let second = shared.put_secret("lark-roots", Some(&first), files("second")).await.unwrap();
    assert!(is_conflict(shared.put_secret("lark-roots", Some(&first), files("other")).await.unwrap_err()));
    let kept = shared.secret("lark-roots").await.unwrap().unwrap();
    assert_eq!((&kept.value, kept.version()), (&files("second"), second.version()));
    // One that was deleted is not there to be written over, nor is another of its name that one.
    world.delete(&json!({ "apiVersion": "v1", "kind": "Secret",
        "metadata": { "name": "lark-roots", "namespace": "lark-system" } }));
    let gone = shared.put_secret("lark-roots", Some(&second), files("third")).await.unwrap_err();
    assert!(matches!(gone, SharedError::Failed { .. }), "{gone}");
    shared.put_secret("lark-roots", None, files("anew")).await.unwrap();
    assert!(is_conflict(shared.put_secret("lark-roots", Some(&second), files("third")).await.unwrap_err()));

    let texts = |text: &str| Texts::from([("root.pem".to_owned(), text.to_owned())]);
    let map = shared.put_config_map("lark-root", None, texts("one")).await.unwrap();
    shared.put_config_map("lark-root", Some(&map), texts("two")).await.unwrap();
    assert!(is_conflict(shared.put_config_map("lark-root", Some(&map), texts("three")).await.unwrap_err()));
    assert_eq!(shared.config_map("lark-root").await.unwrap().unwrap().value, texts("two"));
}

#[tokio::test]
async fn a_lease_is_renewed_changes_hands_and_is_given_up_by_its_version() {
    let world = World::anywhere().await;
    let shared = Shared::new(&world.controller(), "lark-system", LIMIT).await.unwrap();
    let held = |holder, transitions, acquires| Held {
        holder,
        address: holder.map(|_| "10.0.0.9"),
        duration: Duration::from_secs(10),
        transitions,
        acquires,
    };
    let name = "lark-controller";
    let taken = shared.put_lease(name, None, held(Some("r0"), 0, true)).await.unwrap();
    let late = shared.put_lease(name, None, held(Some("r1"), 0, true)).await.unwrap_err();
    assert!(matches!(late, SharedError::Conflict { .. }), "{late}");
    let renewed = shared.put_lease(name, Some(&taken), held(Some("r0"), 0, false)).await.unwrap();
    assert_ne!(renewed.version(), taken.version());
    assert_eq!(renewed.value.acquired, taken.value.acquired);
    let late = shared.put_lease(name, Some(&taken), held(Some("r1"), 1, true)).await.unwrap_err();
    assert!(matches!(late, SharedError::Conflict { .. }), "{late}");
    let other = shared.put_lease(name, Some(&renewed), held(Some("r1"), 1, true)).await.unwrap();
    let read = shared.lease(name).await.unwrap().unwrap();
    assert_eq!(read.version(), other.version());
    let lease = &read.value;
    assert_eq!((lease.holder.as_deref(), lease.address.as_deref()), (Some("r1"), Some("10.0.0.9")));
    assert_eq!((lease.duration, lease.transitions), (Duration::from_secs(10), 1));
    let free = shared.put_lease(name, Some(&other), held(None, 1, false)).await.unwrap();
    assert_eq!((free.value.holder, free.value.address), (None, None));
}

#[tokio::test]
async fn a_warning_is_an_event_that_the_api_takes_and_continues_however_long_the_pods_name_is() {
    let world = World::anywhere().await;
    let name = format!("{}.{}", "a".repeat(235), "b".repeat(17));
    let pod = world.pod(&name, "web", "10.0.2.5");
    let mut events = Events::new(&world.controller(), "lark-controller-1").await.unwrap();
    let uid = uid(&pod).unwrap();
    let about = About { namespace: "shop", name: &name, uid: &uid };
    let note = "x".repeat(2000);
    events.warn(about, "Capture", "LarkNotCaptured", &note, None).await.unwrap();
    events.warn(about, "Capture", "LarkNotCaptured", &note, Some(3)).await.unwrap();
    let all = world.all("events.k8s.io", "events");
    let [event] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!(event["series"]["count"], 3, "{event}");
    assert_eq!(event["regarding"]["uid"], json!(uid), "{event}");
    let kept = event["metadata"]["name"].as_str().unwrap();
    assert!(kept.len() <= 253 && kept.starts_with(&"a".repeat(200)), "{kept}");
    // Six digits, no more and no fewer: the API reads no other time of this kind.
    for time in [&event["eventTime"], &event["series"]["lastObservedTime"]] {
        let fraction = time.as_str().and_then(|t| t.strip_suffix('Z')?.rsplit_once('.')).unwrap().1;
        assert_eq!(fraction.len(), 6, "{event}");
    }
}

#[tokio::test]
async fn what_a_tenant_may_is_asked_of_the_api_with_his_token() {
    let world = World::anywhere().await;
    let token = world.tenant();
    let reviews = AccessReviews::new(&world.controller()).await.unwrap();
    let user = reviews.user(&token).await.unwrap();
    assert_eq!(user.name(), "tenant");
    for (namespace, may) in [(Some("shop"), true), (Some("lark-system"), false), (None, false)] {
        assert_eq!(reviews.may_get_pods(&user, namespace).await, Ok(may), "{namespace:?}");
    }
    assert!(reviews.user("token-of-nobody").await.is_err());
}

fn policy(spec: &Value) -> Value {
    json!({
        "apiVersion": "lark.mesh/v1alpha1", "kind": "AuthorizationPolicy",
        "metadata": { "name": "from-web", "namespace": "shop" }, "spec": spec
    })
}

#[tokio::test]
async fn a_policy_reaches_agents_as_it_was_written_with_what_they_do_not_know() {
    let world = World::anywhere().await;
    let discovery = world.discover().await;
    let rule = json!({ "from": [{ "accounts": ["shop/web"] }], "to": [{ "ports": [8080] }] });
    let put = world.put(policy(&json!({ "action": "ALLOW", "rules": [rule] })));
    let known = until(&discovery, "the policy is known", |s| !s.policies().is_empty()).await;
    assert!(known.policies().unreadable().is_empty());
    world.delete(&put);
    until(&discovery, "the policy is gone", |s| s.policies().is_empty()).await;
    // An API server that dropped the field would leave a rule for everybody.
    world.put(policy(&json!({ "rules": [{ "from": [{ "continents": ["Antarctica"] }] }] })));
    let odd = until(&discovery, "it is refused", |s| !s.policies().unreadable().is_empty()).await;
    let why = &odd.policies().unreadable()[0].why;
    assert!(why.contains("continents"), "{why}");
    for (spec, field) in [
        (json!({ "action": "MAYBE" }), "spec.action"),
        (json!({ "rules": [{ "to": [{ "ports": [70000] }] }] }), "spec.rules[0].to[0].ports[0]"),
        (json!({ "selector": { "matchLabels": { "app": 1 } } }), "spec.selector.matchLabels.app"),
    ] {
        if let Some(taken) = world.takes(&policy(&spec)) {
            assert!(taken.as_ref().is_err_and(|said| said.contains(field)), "{spec}: {taken:?}");
        }
    }
}
