//! A CA that somebody else keeps in two files.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use lark_core::constants::SVID_LIFE;
use lark_identity::client::Issuer;
use lark_identity::verify::{Usage, verify_chain};
use lark_identity::{TrustBundle, svid::root_id};
use lark_testbed::Record;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer as Signer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::agent::Agent;
use crate::logs::Logs;
use crate::world::{World, csr, id, until};

/// A root of somebody else's.
struct Root {
    signer: Signer<'static, KeyPair>,
    pem: String,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.not_before = (SystemTime::now() - Duration::from_secs(3600)).into();
    params.not_after = (SystemTime::now() + Duration::from_secs(100 * 3600)).into();
    params
}

impl Root {
    fn new() -> Self {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let params = params("a root kept offline");
        let pem = params.self_signed(&key).unwrap().pem();
        Self { signer: Signer::new(params, key), pem }
    }

    /// An intermediate: its chain up to the root, and its key.
    fn intermediate(&self) -> (String, String) {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let pem = params("an intermediate").signed_by(&key, &self.signer).unwrap().pem();
        (pem + &self.pem, key.serialize_pem())
    }
}

fn put(path: &Path, text: &str) {
    let draft = path.with_extension("draft");
    std::fs::write(&draft, text).unwrap();
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(&draft, path).unwrap();
}

#[tokio::test]
async fn an_intermediate_from_elsewhere_issues_and_another_pair_takes_its_place_while_it_serves() {
    let logs = Logs::gather();
    let world = World::new();
    let (certificate, key) = (world.path("ca.crt"), world.path("ca.key"));
    let root = Root::new();
    let (chain, secret) = root.intermediate();
    put(&certificate, &chain);
    put(&key, &secret);
    let flags =
        ["--ca-cert", certificate.to_str().unwrap(), "--ca-key", key.to_str().unwrap(), "--san", "127.0.0.1"];
    let running = world.serve_with(&world.args("127.0.0.1:0", &flags)).await;
    let bundle = world.bundle();
    assert_eq!(bundle.to_pem(), TrustBundle::from_pem(root.pem.as_bytes()).unwrap().to_pem());

    // Leaf first, root last.
    let client = world.client("one", running.address);
    let issued = async || -> Vec<CertificateDer<'static>> {
        let chain = client.issue(csr(vec![]), &id("web"), SVID_LIFE).await.unwrap();
        chain.iter().map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).collect()
    };
    let first = issued().await;
    assert_eq!((first.len(), root_id(&first[2])), (3, bundle.ids()[0]));
    let now = SystemTime::now();
    assert_eq!(verify_chain(&first[0], &first[1..2], &bundle, now, Usage::Client), Ok(id("web")));
    let agents = [
        Agent::start(&world, "one", running.address, &["web"]),
        Agent::start(&world, "two", running.address, &["db"]),
    ];
    for agent in &agents {
        agent.supplied().await;
    }

    // Half of another pair of the same root is told and not used; the whole is.
    let (chain, secret) = root.intermediate();
    put(&certificate, &chain);
    until("it is said", async || logs.has("ERROR", "the key is not the certificate's")).await;
    assert_eq!(issued().await[1], first[1]);
    put(&key, &secret);
    until("the other one issues", async || issued().await[1] != first[1]).await;
    assert_eq!(world.bundle().ids(), bundle.ids());
    let seen = "said, the pair from before issued on; then the whole other pair did";
    Record::told("half of another pair in the CA's files", 1, seen).unwrap();

    // Another root: its rotation begins by itself, and nobody is left behind.
    let other = Root::new();
    let (chain, secret) = other.intermediate();
    put(&certificate, &chain);
    put(&key, &secret);
    let after = TrustBundle::from_pem(other.pem.as_bytes()).unwrap().ids().to_vec();
    until("certificates hang from the other root", async || {
        for one in &agents {
            for two in &agents {
                assert_eq!(one.refuses(two), None);
            }
        }
        agents.iter().all(|agent| agent.store.holdings().svids == after)
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn a_root_that_is_issued_again_for_its_key_replaces_the_one_before_and_nobody_asks_twice() {
    let world = World::new();
    let (certificate, key) = (world.path("ca.crt"), world.path("ca.key"));
    let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    put(&certificate, &params("a root with one key").self_signed(&pair).unwrap().pem());
    put(&key, &pair.serialize_pem());
    let flags =
        ["--ca-cert", certificate.to_str().unwrap(), "--ca-key", key.to_str().unwrap(), "--san", "127.0.0.1"];
    let running = world.serve_with(&world.args("127.0.0.1:0", &flags)).await;
    let before = world.bundle().ids().to_vec();
    let one = Agent::start(&world, "one", running.address, &["web"]);
    one.supplied().await;

    let mut again = params("a root with one key");
    again.not_after = (SystemTime::now() + Duration::from_secs(200 * 3600)).into();
    let again = again.self_signed(&pair).unwrap().pem();
    let after = TrustBundle::from_pem(again.as_bytes()).unwrap().ids().to_vec();
    put(&certificate, &again);
    until("node one holds both", async || one.store.bundle().ids() == [&after[..], &before].concat()).await;
    // Node two has said nothing, so that the old one still issues.
    one.store.want(["web", "api"].into_iter().map(id).collect());
    until("another identity has a certificate", async || one.store.valid(&id("api")).is_some()).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((running.service.issued(), one.store.holdings().svids), (2, before));
    // Each is asked for once more, for the root that comes.
    let two = Agent::start(&world, "two", running.address, &["db"]);
    until("all certificates hang from the root that comes", async || {
        assert_eq!((one.refuses(&two), two.refuses(&one)), (None, None));
        [&one, &two].iter().all(|agent| agent.store.holdings().svids == after)
    })
    .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    // Node two may have got its first one before.
    assert!((5..=6).contains(&running.service.issued()), "{}", running.service.issued());
    running.stop().await;
}
