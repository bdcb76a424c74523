//! Starting, stopping and starting again; what is on disk; and what is said when it cannot start.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use lark::controller::{Controller, TokenArgs, run_token};
use lark_core::constants::SVID_LIFE;
use lark_core::identity::TrustDomain;
use lark_identity::SvidStore;
use lark_identity::ca::Ca;
use lark_identity::client::Issuer;
use lark_identity::verify::{Usage, verify_chain};

use crate::world::{World, csr, id, until};

fn files(directory: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path);
        }
    }
    found
}

#[tokio::test]
async fn a_controller_that_starts_again_has_the_same_ca() {
    let world = World::new();
    let running = world.serve().await;
    let root = std::fs::read(world.path("data/root.pem")).unwrap();
    let client = world.client("one", running.address);
    let before = client.issue(csr(vec![]), &id("web"), SVID_LIFE).await.unwrap();
    running.stop().await;

    let running = world.serve().await;
    assert_eq!(std::fs::read(world.path("data/root.pem")).unwrap(), root);
    let client = world.client("one", running.address);
    client.issue(csr(vec![]), &id("web"), SVID_LIFE).await.unwrap();
    let bundle = lark_identity::TrustBundle::from_pem(before[1].as_bytes()).unwrap();
    assert_eq!(bundle.certificates(), world.bundle().certificates());
    running.stop().await;
}

#[tokio::test]
async fn keys_of_workloads_and_tokens_are_in_no_file() {
    let world = World::new();
    let running = world.serve().await;
    let store = SvidStore::new(world.bundle(), Arc::new(SystemTime::now));
    let renewal = tokio::spawn(store.clone().renew(Arc::new(world.client("one", running.address))));
    store.want(BTreeSet::from([id("web"), id("api")]));
    until("both are there", async || [id("web"), id("api")].iter().all(|id| store.valid(id).is_some())).await;
    running.stop().await;
    renewal.abort();

    let root = &world.bundle().ids()[0].short();
    let key = world.path(&format!("data/roots/{root}.key"));
    let names = ["data/root.pem", "data/state.json", "mesh.yaml", "one.token", "tokens", "two.token"];
    let mut expected: BTreeSet<PathBuf> = names.iter().map(|name| world.path(name)).collect();
    expected.extend([key.clone(), key.with_extension("pem"), world.path("controller.sock")]);
    let all = files(world.home.path());
    assert_eq!(all, expected);
    let secret = std::fs::read_to_string(world.path("one.token")).unwrap();
    for path in all.into_iter().filter(|path| path.is_file()) {
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.contains("PRIVATE KEY"), path == key, "{}", path.display());
        assert_eq!(text.contains(secret.trim()), path.ends_with("one.token"), "{}", path.display());
    }
    let mode = std::fs::metadata(key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_ca_made_elsewhere_is_taken_from_its_files() {
    let world = World::new();
    let domain = TrustDomain::new("cluster.local").unwrap();
    let (given, secret) = Ca::create(&domain, SystemTime::now()).unwrap();
    let (certificate, key) = (world.path("given.pem"), world.path("given.key"));
    std::fs::write(&certificate, given.root_pem()).unwrap();
    std::fs::write(&key, secret.as_bytes()).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let flags =
        ["--ca-cert", certificate.to_str().unwrap(), "--ca-key", key.to_str().unwrap(), "--san", "127.0.0.1"];
    let running = world.serve_with(&world.args("127.0.0.1:0", &flags)).await;
    for path in files(&world.path("data")) {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("PRIVATE KEY"), "its key is copied to {}", path.display());
    }
    let chain = world.client("one", running.address).issue(csr(vec![]), &id("web"), SVID_LIFE).await.unwrap();
    assert_eq!(chain[1], given.root_pem());
    let leaf = rustls::pki_types::pem::PemObject::from_pem_slice(chain[0].as_bytes()).unwrap();
    let proved = verify_chain(&leaf, &[], &world.bundle(), SystemTime::now(), Usage::Server);
    assert_eq!(proved, Ok(id("web")));
    running.stop().await;
}

#[tokio::test]
async fn what_keeps_it_from_starting_is_one_sentence() {
    let world = World::new();
    let holder = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let held = holder.local_addr().unwrap().to_string();
    let broken = world.path("broken");
    std::fs::write(&broken, "one 12").unwrap();
    let mut cases = vec![
        (world.args(&held, &[]), format!("cannot listen on {held}")),
        (world.args("0.0.0.0:0", &[]), "give --san".to_owned()),
        (world.args("127.0.0.1:0", &["--san", "a b"]), "\"a b\" is no host name".to_owned()),
        (world.args("127.0.0.1:0", &["--ca-key", "x"]), "go together".to_owned()),
    ];
    let mut args = world.args("127.0.0.1:0", &[]);
    args.join_tokens = Some(broken);
    cases.push((args.clone(), "broken, line 1: the hash is not 64 hexadecimal digits".to_owned()));
    args.join_tokens = Some(world.path("gone"));
    cases.push((args.clone(), "gone: No such file".to_owned()));
    args.discovery = "mesh.yaml".to_owned();
    cases.push((args.clone(), "must be kubernetes, kubernetes:KUBECONFIG or file:PATH".to_owned()));
    args.discovery = format!("file:{}", world.path("gone.yaml").display());
    cases.push((args.clone(), "gone.yaml: No such file".to_owned()));
    for (args, sentence) in cases {
        let error = format!("{:#}", Controller::start(&args).await.unwrap_err());
        assert!(error.contains(&sentence), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn a_token_is_written_for_its_node_only_and_never_over_another() {
    let home = tempfile::tempdir().unwrap();
    let args = |node: &str| TokenArgs { node: node.to_owned(), ttl: 1, out: home.path().join("one.token") };
    for wrong in ["", "a b", "#one"] {
        assert!(run_token(&args(wrong)).unwrap_err().to_string().contains("is no name of a node"));
    }
    run_token(&args("one")).unwrap();
    let first = std::fs::read(home.path().join("one.token")).unwrap();
    let mode = std::fs::metadata(home.path().join("one.token")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let error = format!("{:#}", run_token(&args("one")).unwrap_err());
    assert!(error.contains("one.token cannot be made") && error.contains("exists"), "{error}");
    assert_eq!(std::fs::read(home.path().join("one.token")).unwrap(), first);
}
