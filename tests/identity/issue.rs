//! Who gets what, and who does not.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use lark_core::constants::SVID_LIFE;
use lark_identity::client::{Issuer, RequestError};
use lark_identity::credential::Credentials;
use lark_identity::verify::{Usage, spiffe_id, validity, verify_chain};
use rcgen::{KeyPair, SanType};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tonic::Code;

use crate::world::{World, csr, csr_by, id, until};

fn der(chain: &[String]) -> Vec<CertificateDer<'static>> {
    chain.iter().map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).collect()
}

#[tokio::test]
async fn a_node_gets_a_chain_for_a_workload_of_its_own() {
    let world = World::new();
    let running = world.serve().await;
    let client = world.client("one", running.address);
    let now = SystemTime::now();
    let chain = der(&client.issue(csr(vec![]), &id("web"), SVID_LIFE).await.unwrap());
    let bundle = world.bundle();
    assert_eq!(chain[1..], *bundle.certificates(), "the root is last");
    for usage in [Usage::Client, Usage::Server] {
        assert_eq!(verify_chain(&chain[0], &[], &bundle, now, usage), Ok(id("web")));
    }
    assert_eq!((running.service.issued(), running.service.refused()), (1, BTreeMap::new()));
    running.stop().await;
}

#[tokio::test]
async fn a_life_is_as_asked_but_never_longer_than_a_day() {
    let world = World::new();
    let running = world.serve().await;
    let client = world.client("one", running.address);
    let hour = Duration::from_secs(3600);
    for (asked, given) in [(hour, hour), (SVID_LIFE * 3650, SVID_LIFE), (Duration::ZERO, SVID_LIFE)] {
        let before = SystemTime::now();
        let chain = der(&client.issue(csr(vec![]), &id("web"), asked).await.unwrap());
        let (not_before, not_after, _) = validity(&chain[0]).unwrap();
        let second = Duration::from_secs(1);
        assert!(not_before < before, "a clock a little behind must take it");
        assert!(not_after >= before + given - second, "asked {asked:?}");
        assert!(not_after <= SystemTime::now() + given + second, "asked {asked:?}");
    }
    running.stop().await;
}

#[tokio::test]
async fn each_refusal_has_its_status_sentence_and_count() {
    let world = World::new();
    let running = world.serve().await;
    let one = world.client("one", running.address);
    let refused = async |client: &lark_identity::client::CaClient, csr: String, who: &str| {
        client.issue(csr, &id(who), SVID_LIFE).await.unwrap_err()
    };

    // Another node's workload, and nobody's.
    for who in ["db", "nobody"] {
        let error = refused(&one, csr(vec![]), who).await;
        assert!(matches!(&error, RequestError::Denied { identity, .. } if *identity == id(who)), "{error}");
        let sentence = format!("no workload of {} runs on node one", id(who));
        assert!(error.to_string().contains(&sentence), "{error}");
    }
    // Another trust domain.
    let foreign = "spiffe://other.domain/ns/shop/sa/web".parse().unwrap();
    let error = one.issue(csr(vec![]), &foreign, SVID_LIFE).await.unwrap_err();
    assert!(matches!(error, RequestError::Denied { .. }), "{error}");

    // A token of nobody, the hash instead of the token, and none.
    let mut stranger = world.client("one", running.address);
    let shown = world.path("stranger.token");
    stranger.credentials = Credentials::token_only(shown.clone());
    let tokens = std::fs::read_to_string(world.path("tokens")).unwrap();
    let hash = tokens.lines().next().unwrap().split(' ').nth(1).unwrap().to_owned();
    for token in ["lark-guess", hash.as_str()] {
        std::fs::write(&shown, token).unwrap();
        let error = refused(&stranger, csr(vec![]), "web").await;
        assert!(matches!(error, RequestError::Unauthenticated { .. }), "{error}");
        assert!(!error.to_string().contains(token), "the token is in the message: {error}");
    }
    std::fs::write(&shown, "\n").unwrap();
    assert!(matches!(refused(&stranger, csr(vec![]), "web").await, RequestError::Token { .. }));

    // Requests that cannot be signed.
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    for (csr, label) in [
        ("nonsense".to_owned(), "not usable"),
        (forged(), "not usable"),
        ("x".repeat(20_000), "bytes, more than"),
        (csr_by(&ed25519, vec![]), "must be P-256 or P-384"),
    ] {
        let error = refused(&one, csr, "web").await;
        assert!(
            matches!(&error, RequestError::Failed { code: Code::InvalidArgument, what, .. } if what.contains(label)),
            "{error}"
        );
    }
    // Larger than a message may be: not even read.
    let error = refused(&one, "x".repeat(1 << 20), "web").await;
    assert!(matches!(error, RequestError::Failed { code: Code::OutOfRange, .. }), "{error}");

    let counts = [
        ("csr_key_kind", 1),
        ("csr_too_large", 1),
        ("csr_unusable", 2),
        ("message_unusable", 1),
        ("not_placed", 3),
        ("unauthenticated", 2),
    ];
    assert_eq!((running.service.issued(), running.service.refused()), (0, counts.into()));
    running.stop().await;
}

/// A request whose signature has one wrong bit.
pub(crate) fn forged() -> String {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let good = csr_by(&key, vec![]);
    let lines: Vec<&str> = good.lines().collect();
    let last = lines.len() - 2;
    // The line before the last holds only signature; another letter is another signature.
    let line = lines[last - 1];
    let other = if line.ends_with('A') { "B" } else { "A" };
    let changed = format!("{}{other}", &line[..line.len() - 1]);
    let mut lines: Vec<String> = lines.into_iter().map(str::to_owned).collect();
    lines[last - 1] = changed;
    lines.join("\n")
}

#[tokio::test]
async fn a_request_may_name_the_identity_itself_as_other_agents_do() {
    let world = World::new();
    let running = world.serve().await;
    let client = world.client("one", running.address);
    let name = SanType::URI(id("web").as_str().try_into().unwrap());
    let chain = der(&client.issue(csr(vec![name]), &id("web"), SVID_LIFE).await.unwrap());
    assert_eq!(spiffe_id(&chain[0]), Ok(id("web")));
    running.stop().await;
}

#[tokio::test]
async fn a_workload_that_moves_takes_the_right_to_its_identity_along() {
    let world = World::new();
    let running = world.serve().await;
    let (one, two) = (world.client("one", running.address), world.client("two", running.address));
    one.issue(csr(vec![]), &id("web"), SVID_LIFE).await.unwrap();
    two.issue(csr(vec![]), &id("web"), SVID_LIFE).await.unwrap_err();
    let moved = crate::world::MESH.replace("account: web, node: one", "account: web, node: two");
    std::fs::write(world.path("mesh.yaml"), moved).unwrap();
    until("the new node gets it", async || two.issue(csr(vec![]), &id("web"), SVID_LIFE).await.is_ok()).await;
    let error = one.issue(csr(vec![]), &id("web"), SVID_LIFE).await.unwrap_err();
    assert!(matches!(error, RequestError::Denied { .. }), "{error}");
    running.stop().await;
}

#[tokio::test]
async fn a_node_joins_and_leaves_while_the_controller_runs() {
    let world = World::new();
    let running = world.serve().await;
    let (one, two) = (world.client("one", running.address), world.client("two", running.address));
    two.issue(csr(vec![]), &id("db"), SVID_LIFE).await.unwrap();
    let tokens = std::fs::read_to_string(world.path("tokens")).unwrap();
    let first = tokens.lines().next().unwrap();
    std::fs::write(world.path("tokens"), first).unwrap();
    until("node two is unknown", async || {
        let result = two.issue(csr(vec![]), &id("db"), SVID_LIFE).await;
        matches!(result, Err(RequestError::Unauthenticated { .. }))
    })
    .await;
    one.issue(csr(vec![]), &id("web"), SVID_LIFE).await.unwrap();
    std::fs::write(world.path("tokens"), &tokens).unwrap();
    until("node two is back", async || two.issue(csr(vec![]), &id("db"), SVID_LIFE).await.is_ok()).await;
    running.stop().await;
}
