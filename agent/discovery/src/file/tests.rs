use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const GOOD: &str = "\
mesh:
  trustDomain: cluster.local
namespaces:
  - name: shop
    labels: { lark.mesh/capture: enabled }
nodes:
  - name: one
    addresses: [192.168.0.1]
workloads:
  - namespace: shop
    name: web
    account: web
    node: one
    addresses: [10.0.1.1, 'fd01::1']
    cgroup: pods/web
    networkNamespace: /run/netns/web
services:
  - namespace: shop
    name: web
    addresses: [10.96.0.1]
    ports: [{ port: 80, targetPort: 8080 }]
    endpoints: [{ address: 10.0.1.1 }]
";

fn error(text: &str) -> String {
    parse(Path::new("mesh.yaml"), text, 1).unwrap_err().to_string()
}

#[test]
fn a_whole_mesh_is_read() {
    let snapshot = parse(Path::new("mesh.yaml"), GOOD, 7).unwrap();
    let web = snapshot.workload_named("shop", "web").unwrap();
    assert_eq!(web.identity.as_str(), "spiffe://cluster.local/ns/shop/sa/web");
    assert!(web.capture.is_wanted());
    assert_eq!(snapshot.service_by_address("10.96.0.1".parse().unwrap()).unwrap().ports[0].target_port, 8080);
    assert_eq!(snapshot.node("one").unwrap().tunnel_address().unwrap().to_string(), "192.168.0.1:15008");
    assert_eq!(snapshot.generation, 7);
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let with = |from: &str, to: &str| {
        assert!(GOOD.contains(from), "{from}");
        error(&GOOD.replacen(from, to, 1))
    };
    let cases = [
        (with("account: web", "acount: web"), "mesh.yaml:12:5: ", "acount"),
        (with("192.168.0.1]", "192.168.0.999]"), "mesh.yaml:8:17: ", "IP address"),
        (with("name: one\n    ", "name: [one\n    "), "mesh.yaml:", ""),
        (with("port: 80,", "port: 80000,"), "mesh.yaml:21:", ""),
        (
            with("node: one", "node: two"),
            "mesh.yaml: document: ",
            "workload shop/web runs on node two, which is not listed",
        ),
        (
            with("account: web", "account: Web"),
            "mesh.yaml: workloads[0] (shop/web): ",
            "account \"Web\" must be",
        ),
        (
            with("trustDomain: cluster.local", "trustDomain: Cluster"),
            "mesh.yaml: mesh.trustDomain: ",
            "trust domain",
        ),
        (with("    cgroup: pods/web\n", ""), "mesh.yaml: workloads[0] (shop/web): ", "cgroup must be too"),
        (
            with("10.0.1.1, 'fd01::1'", "127.0.0.1"),
            "mesh.yaml: workloads[0] (shop/web): ",
            "127.0.0.1 is no workload's address",
        ),
        (with("[10.96.0.1]", "[10.0.1.1]"), "mesh.yaml: document: ", "already used by shop/web"),
        (error(""), "mesh.yaml:", ""),
        (error("mesh: {}\nmesh: {}\n"), "mesh.yaml:2:", "duplicate"),
    ];
    for (said, place, what) in cases {
        assert!(
            said.starts_with(place) && said.contains(what),
            "{said:?} should begin with {place:?} and say {what:?}"
        );
        assert_eq!(said.lines().count(), 1, "{said:?}");
    }
}

#[test]
fn bombs_are_refused() {
    let mut bomb = String::from("mesh: {}\nnamespaces:\n - &a0 {name: x}\n");
    for i in 1..40 {
        bomb.push_str(&format!(" - &a{i} [*a{p}, *a{p}, *a{p}, *a{p}, *a{p}]\n", p = i - 1));
    }
    error(&bomb);
    error(&"[".repeat(100_000));
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,300}", at in 0..GOOD.len(), with in "[\\PC\n]{0,5}") {
        let _ = parse(Path::new("x"), &text, 1);
        let mut changed = GOOD.to_owned();
        changed.insert_str(at, &with);
        let _ = parse(Path::new("x"), &changed, 1);
    }
}

#[test]
fn the_committed_schema_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schema/mesh.schema.json");
    if std::env::var_os("LARK_WRITE_SCHEMA").is_some() {
        std::fs::write(&path, schema()).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(path).unwrap_or_default(),
        schema(),
        "run this test with LARK_WRITE_SCHEMA=1 to write it anew"
    );
}

#[tokio::test(flavor = "current_thread")]
async fn a_change_arrives_and_a_bad_one_keeps_the_last_good_state() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("mesh.yaml");
    std::fs::write(&path, GOOD).unwrap();
    let mut discovery = watch(&path).await.unwrap();
    let limit = Duration::from_secs(20);

    // Replaced as a whole, as editors and ConfigMaps do.
    let draft = home.path().join("draft");
    std::fs::write(&draft, GOOD.replace("enabled", "disabled")).unwrap();
    std::fs::rename(&draft, &path).unwrap();
    tokio::time::timeout(limit, discovery.snapshot.changed()).await.unwrap().unwrap();
    let captured = |d: &crate::Discovery| d.snapshot.borrow().workloads().any(|w| w.capture.is_wanted());
    assert!(!captured(&discovery));

    discovery.health.mark_unchanged();
    std::fs::write(&path, "mesh: [").unwrap();
    tokio::time::timeout(limit, discovery.health.changed()).await.unwrap().unwrap();
    let said = discovery.health.borrow_and_update().error.clone().unwrap();
    assert!(said.contains("mesh.yaml:"), "{said}");
    assert_eq!(discovery.snapshot.borrow().generation, 2);

    std::fs::write(&path, GOOD).unwrap();
    tokio::time::timeout(limit, discovery.health.wait_for(|h| h.error.is_none())).await.unwrap().unwrap();
    assert!(captured(&discovery));

    std::fs::remove_file(&path).unwrap();
    tokio::time::timeout(limit, discovery.health.wait_for(|h| h.error.is_some())).await.unwrap().unwrap();
    assert!(captured(&discovery));
}
