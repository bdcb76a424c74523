//! The rights that deploy/ grants, against what is asked for.

use std::collections::BTreeSet;
use std::path::Path;

use lark_apiserver::ApiServer;
use serde_json::Value;

use crate::world::World;

pub(crate) type Right = (String, String, String);

/// What a ClusterRole grants, as verb, group and resource.
pub(crate) fn granted(role: &str) -> BTreeSet<Right> {
    rules("ClusterRole", role).into_iter().map(|(right, _)| right).collect()
}

/// What the Role of that name grants, each with the name of the one object that it is for.
pub(crate) fn granted_by_name(role: &str) -> BTreeSet<(Right, Option<String>)> {
    rules("Role", role)
}

fn rules(kind: &str, role: &str) -> BTreeSet<(Right, Option<String>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes/rbac.yaml");
    let objects: Vec<Value> = serde_saphyr::from_multiple(&std::fs::read_to_string(path).unwrap()).unwrap();
    let role = objects.iter().find(|o| o["kind"] == kind && o["metadata"]["name"] == role).unwrap();
    let texts = |rule: &Value, field: &str| -> Vec<String> {
        rule[field].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
    };
    let mut all = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        for group in texts(rule, "apiGroups") {
            for resource in texts(rule, "resources") {
                let names: Vec<Option<String>> = match rule.get("resourceNames") {
                    Some(_) => texts(rule, "resourceNames").into_iter().map(Some).collect(),
                    None => vec![None],
                };
                for (verb, name) in
                    texts(rule, "verbs").iter().flat_map(|verb| names.iter().map(move |name| (verb, name)))
                {
                    all.insert(((verb.clone(), group.clone(), resource.clone()), name.clone()));
                }
            }
        }
    }
    all
}

/// What a server was asked for of these resources, with names.
pub(crate) fn asked_by_name(server: &ApiServer, of: &[&str]) -> BTreeSet<(Right, Option<String>)> {
    let requests = server.requests().into_keys().filter(|r| of.contains(&r.resource.as_str()));
    requests.map(|r| ((r.verb.to_owned(), r.group, r.resource), r.name)).collect()
}

/// What a server was asked for.
pub(crate) fn asked(server: &ApiServer) -> BTreeSet<Right> {
    server.requests().into_keys().map(|r| (r.verb.to_owned(), r.group, r.resource)).collect()
}

#[tokio::test]
async fn discovery_asks_for_what_its_role_grants_and_the_role_grants_no_more() {
    let mut world = World::shop().await;
    let discovery = world.discover().await;
    // Also after everything had to be begun again.
    world.server.stop().await;
    world.server.compact();
    world.server.start_again().await.unwrap();
    let pod = world.pod("late", "web", "10.0.2.42");
    crate::world::until(&discovery, "the late pod", |s| {
        crate::world::uid_at(s, "10.0.2.42") == crate::world::uid(&pod)
    })
    .await;
    assert_eq!(asked(&world.server), granted("lark-discovery"));
}
