//! What discovery makes of a cluster's API, and of its faults.

use lark_apiserver::objects;
use lark_core::mode::Mtls;
use lark_core::route::{Route, decide};
use lark_core::snapshot::Snapshot;

use crate::world::{LIMIT, World, uid, uid_at, until};

/// The uid of the pod that a connection to the Service `db` is taken to, or the reason why to none.
fn way_to_db(snapshot: &Snapshot) -> String {
    let asked = "10.96.0.10:5432".parse().unwrap();
    match decide(snapshot, "one", asked, |_, _| None, |_| 0, 0).route {
        Route::Tunnel { destination, .. } => destination.uid.to_string(),
        Route::Deny { reason } => reason.label().to_owned(),
        other => format!("{other:?}"),
    }
}

#[tokio::test]
async fn a_cluster_becomes_a_snapshot() {
    let world = World::anywhere().await;
    let discovery = world.discover().await;
    let snapshot = discovery.snapshot.borrow().clone();
    let db = snapshot.workload_named("shop", "db-1").unwrap();
    assert_eq!(db.identity.as_str(), "spiffe://cluster.local/ns/shop/sa/db");
    assert_eq!(db.owner.as_deref(), Some("Deployment/db"));
    assert!(db.capture.is_wanted());
    assert_eq!(uid_at(&snapshot, "fd02::1"), Some(db.uid.to_string()));
    assert_eq!(way_to_db(&snapshot), &*db.uid);
    assert_eq!(snapshot.node("one").unwrap().zone.as_deref(), Some("a"));
    assert_eq!(discovery.health.borrow().error, None);
}

#[tokio::test]
async fn a_label_on_the_namespace_captures_its_pods() {
    let world = World::anywhere().await;
    world.put(objects::namespace("shop", None));
    let discovery = world.discover().await;
    let captured = |s: &Snapshot| s.workloads().any(|w| w.capture.is_wanted());
    assert!(!captured(&discovery.snapshot.borrow()));
    world.put(objects::namespace("shop", Some("enabled")));
    until(&discovery, "captured by its namespace", |s| captured(s)).await;
    world.put(objects::namespace("shop", Some("disabled")));
    until(&discovery, "not captured any more", |s| !captured(s)).await;
}

#[tokio::test]
async fn lists_longer_than_a_page_are_whole() {
    let world = World::shop().await;
    for i in 0..1200 {
        world.pod(&format!("p-{i}"), "many", &format!("10.1.{}.{}", i / 250, i % 250 + 1));
    }
    let discovery = world.discover().await;
    assert_eq!(discovery.snapshot.borrow().workloads().count(), 1201);
}

#[tokio::test]
async fn a_restarted_server_is_watched_on_from_where_it_was() {
    let mut world = World::shop().await;
    let discovery = world.discover().await;
    world.server.stop().await;
    // Nothing that was known is forgotten meanwhile.
    let snapshot = discovery.snapshot.borrow().clone();
    let second = world.pod("db-2", "db", "10.0.2.2");
    world.server.start_again().await.unwrap();
    let after =
        until(&discovery, "the pod that came meanwhile", |s| uid_at(s, "10.0.2.2") == uid(&second)).await;
    assert_eq!(way_to_db(&after), way_to_db(&snapshot));
    // Resumed, not listed again.
    let lists: usize =
        world.server.requests().iter().filter(|(r, _)| r.verb == "list").map(|(_, count)| count).sum();
    assert_eq!(lists, 7, "{:?}", world.server.requests());
}

#[tokio::test]
async fn an_expired_watch_lists_anew_and_forgets_who_went_meanwhile() {
    let mut world = World::shop().await;
    let old = world.pod("old", "web", "10.0.2.9");
    let discovery = world.discover().await;
    assert_eq!(uid_at(&discovery.snapshot.borrow(), "10.0.2.9"), uid(&old));
    world.server.stop().await;
    world.server.delete(&old);
    let new = world.pod("new", "cache", "10.0.2.9");
    world.server.compact();
    world.server.start_again().await.unwrap();
    let after =
        until(&discovery, "the address is the new pod's", |s| uid_at(s, "10.0.2.9") == uid(&new)).await;
    assert_eq!(after.workload_named("shop", "old"), None);
}

#[tokio::test]
async fn endpoints_ahead_of_pods_lead_to_nobody_and_never_to_the_old_one() {
    let world = World::shop().await;
    let discovery = world.discover().await;
    let old = way_to_db(&discovery.snapshot.borrow());
    // The address changes hands; of the pods nothing is heard for a while.
    world.server.hold("pods");
    let pod = objects::pod("shop", "db-1", "db", "two", &["10.0.2.1"]);
    world.server.delete(&pod);
    let new = world.server.put(pod);
    let service = objects::service("shop", "db", "10.96.0.10", 5432);
    world.server.put(objects::slice(&service, &[&new]));
    let between = until(&discovery, "the old pod is left", |s| way_to_db(s) != old).await;
    assert_eq!(way_to_db(&between), "destination_unknown");
    world.server.release("pods");
    until(&discovery, "the new pod is known", |s| Some(way_to_db(s)) == uid(&new)).await;
}

#[tokio::test]
async fn five_thousand_pod_changes_end_in_the_true_state() {
    let world = World::shop().await;
    let discovery = world.discover().await;
    let mut at = std::collections::BTreeMap::new();
    // Addresses change hands all the time; what a minute brings in a large cluster, at once.
    for i in 0..2500_u32 {
        let address = format!("10.2.0.{}", i % 100 + 1);
        let name = format!("p-{i}");
        if let Some(before) = at.insert(address.clone(), world.pod(&name, "many", &address)) {
            world.server.delete(&before);
        }
        // Server and discovery run in between.
        tokio::task::yield_now().await;
        if i % 500 == 0 {
            world.server.cut();
        }
    }
    let is_true = |s: &Snapshot| at.iter().all(|(address, pod)| uid_at(s, address) == uid(pod));
    let last = until(&discovery, "the last pod at each address", |s| is_true(s)).await;
    assert_eq!(last.workloads().count(), 101);
}

#[tokio::test]
async fn a_watch_that_is_forbidden_is_said_with_what_to_do_and_goes_on_when_it_is_granted() {
    let world = World::shop().await;
    let mut discovery = world.discover().await;
    world.server.refuse("pods", 403, "Forbidden", 2);
    world.server.cut();
    let health = discovery.health.wait_for(|h| h.error.is_some());
    let said = tokio::time::timeout(LIMIT, health).await.unwrap().unwrap().error.clone().unwrap();
    assert!(
        said.starts_with("pods cannot be watched (api_forbidden): ") && said.contains("ClusterRole"),
        "{said}"
    );
    let late = world.pod("late", "web", "10.0.2.77");
    let mut snapshot = discovery.snapshot.clone();
    let heard = snapshot.wait_for(|s| uid_at(s, "10.0.2.77") == uid(&late));
    tokio::time::timeout(LIMIT, heard).await.unwrap().unwrap();
    tokio::time::timeout(LIMIT, discovery.health.wait_for(|h| h.error.is_none())).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_kubeconfig_that_cannot_be_used_is_said_with_its_path() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("none");
    let access = lark_discovery::kubernetes::Access::Kubeconfig(path.clone());
    let world = World::shop().await;
    let settings = world.discover().await.snapshot.borrow().mesh.clone();
    let mesh = lark_discovery::kubernetes::Mesh { settings, mtls: Mtls::Permissive, tunnel_port: 15008 };
    let error = lark_discovery::kubernetes::watch(&access, mesh).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("kubeconfig {} cannot be used: ", path.display())), "{error}");
}

fn allowed(snapshot: &Snapshot) -> bool {
    lark_core::policy::explain(snapshot, "shop/web-1", "shop/db-1:8080").unwrap().allowed
}

#[tokio::test]
async fn authorization_policies_are_watched_and_a_cluster_without_them_is_whole() {
    let world = World::shop().await;
    // Their kind is not installed: asked again, less and less often.
    world.server.refuse("authorizationpolicies", 404, "NotFound", 1);
    world.pod("web-1", "web", "10.0.2.5");
    let discovery = world.discover().await;
    assert_eq!(discovery.health.borrow().error, None);
    assert!(discovery.snapshot.borrow().policies().is_empty());
    // Another agent, after the kind was installed.
    let discovery = world.discover().await;
    let manifest = serde_json::json!({
        "apiVersion": "lark.mesh/v1alpha1", "kind": "AuthorizationPolicy",
        "metadata": { "name": "nobody", "namespace": "shop" }, "spec": { "action": "ALLOW" }
    });
    let policy = world.server.put(manifest);
    let closed = until(&discovery, "the policy is known", |s| !s.policies().is_empty()).await;
    assert!(closed.policies().unreadable().is_empty());
    assert!(!allowed(&closed));
    world.server.delete(&policy);
    let open = until(&discovery, "the policy is gone", |s| s.policies().is_empty()).await;
    assert!(allowed(&open));
}

#[tokio::test]
async fn a_kind_that_the_server_denies_keeps_its_policies() {
    let world = World::shop().await;
    world.pod("web-1", "web", "10.0.2.5");
    let policy = world.server.put(serde_json::json!({
        "apiVersion": "lark.mesh/v1alpha1", "kind": "AuthorizationPolicy",
        "metadata": { "name": "nobody", "namespace": "shop" }, "spec": { "action": "ALLOW" }
    }));
    let mut discovery = world.discover().await;
    assert!(!allowed(&discovery.snapshot.borrow()));
    // As while a server starts, or behind a balancer that has lost it.
    world.server.refuse("authorizationpolicies", 404, "NotFound", 1);
    world.server.cut();
    let health = discovery.health.wait_for(|h| h.error.is_some());
    let said = tokio::time::timeout(LIMIT, health).await.unwrap().unwrap().error.clone().unwrap();
    assert!(said.starts_with("authorizationpolicies cannot be watched (api_failed): "), "{said}");
    // What else is heard makes a snapshot, with the policies that were known.
    let late = world.pod("late", "web", "10.0.2.77");
    let after = until(&discovery, "a later pod", |s| uid_at(s, "10.0.2.77") == uid(&late)).await;
    assert!(!allowed(&after));
    // It has the kind again: what happens is heard.
    world.server.delete(&policy);
    until(&discovery, "the policy is gone", |s| s.policies().is_empty()).await;
    tokio::time::timeout(LIMIT, discovery.health.wait_for(|h| h.error.is_none())).await.unwrap().unwrap();
}

/// A policy whose specification no parser takes, in namespace `shop`.
fn deep(name: &str) -> serde_json::Value {
    let rules = (0..500).fold(serde_json::json!([]), |inner, _| serde_json::json!([inner]));
    serde_json::json!({
        "apiVersion": "lark.mesh/v1alpha1", "kind": "AuthorizationPolicy",
        "metadata": { "name": name, "namespace": "shop" }, "spec": { "rules": rules }
    })
}

#[tokio::test]
async fn odd_objects_close_what_they_are_about_and_nothing_else() {
    let world = World::shop().await;
    world.pod("web-1", "web", "10.0.2.5");
    let policy = world.server.put(deep("listed"));
    // The API takes such a port in a slice that somebody wrote by hand.
    let service = objects::service("shop", "db", "10.96.0.10", 5432);
    let mut slice = objects::slice(&service, &[]);
    slice["metadata"]["name"] = "by-hand".into();
    slice["ports"] = serde_json::json!([{ "name": "odd", "port": 70_000, "protocol": "TCP" }]);
    world.server.put(slice);
    let discovery = world.discover().await;
    let names = |s: &Snapshot| -> Vec<String> {
        s.policies().unreadable().iter().map(|u| u.policy.name.to_string()).collect()
    };
    assert_eq!(names(&discovery.snapshot.borrow()), ["listed"]);
    assert!(!allowed(&discovery.snapshot.borrow()));
    // Also as an event of a watch.
    world.server.put(deep("watched"));
    world.server.delete(&policy);
    let after = until(&discovery, "the second one alone", |s| names(s) == ["watched"]).await;
    assert!(!allowed(&after));
    assert_eq!(discovery.health.borrow().error, None);
}

#[tokio::test]
async fn an_event_that_cannot_be_read_is_not_passed_over() {
    let world = World::shop().await;
    let odd = world.pod("odd", "web", "10.0.2.9");
    let mut discovery = world.discover().await;
    let mut broken = odd.clone();
    broken["metadata"]["labels"] = serde_json::json!({ "a": 1 });
    broken["metadata"]["resourceVersion"] = "".into();
    world.server.put(broken);
    let health = discovery.health.wait_for(|h| h.error.is_some());
    let said = tokio::time::timeout(LIMIT, health).await.unwrap().unwrap().error.clone().unwrap();
    assert!(said.starts_with("pods cannot be watched (api_unreadable): "), "{said}");
    assert_eq!(uid_at(&discovery.snapshot.borrow(), "10.0.2.9"), uid(&odd));
    world.server.delete(&odd);
    until(&discovery, "it is gone", |s| uid_at(s, "10.0.2.9").is_none()).await;
    tokio::time::timeout(LIMIT, discovery.health.wait_for(|h| h.error.is_none())).await.unwrap().unwrap();
    // What follows such an event is not heard before all that there is was listed anew.
    let is_list = |r: &lark_apiserver::Request| (r.verb, &*r.resource) == ("list", "pods");
    let lists: usize = world.server.requests().iter().filter(|(r, _)| is_list(r)).map(|(_, n)| n).sum();
    assert!(lists > 1, "{lists}");
}

#[tokio::test]
async fn network_policies_are_watched() {
    let world = World::anywhere().await;
    let discovery = world.discover().await;
    assert!(discovery.snapshot.borrow().policies().is_empty());
    let policy = world.put(serde_json::json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "closed", "namespace": "shop" },
        "spec": { "podSelector": {}, "policyTypes": ["Ingress"] }
    }));
    let closed = until(&discovery, "the policy is known", |s| !s.policies().is_empty()).await;
    assert!(closed.policies().unreadable().is_empty());
    world.delete(&policy);
    until(&discovery, "the policy is gone", |s| s.policies().is_empty()).await;
}
