//! What an agent says when it cannot, or must not, talk to its CA.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lark_core::constants::SVID_LIFE;
use lark_core::identity::TrustDomain;
use lark_identity::ca::Ca;
use lark_identity::client::{CaClient, Issuer, RequestError};
use lark_identity::credential::Credentials;
use lark_identity::listener::{ServingCertificate, Speaks, accept};
use lark_identity::refusals::Refusals;
use lark_identity::roots::RootFiles;
use tokio::net::TcpListener;
use tokio_rustls::rustls;

use crate::world::{World, csr, id};

async fn asked(client: &CaClient) -> RequestError {
    client.issue(csr(vec![]), &id("web"), SVID_LIFE).await.unwrap_err()
}

#[tokio::test]
async fn a_ca_of_another_root_or_name_gets_no_token() {
    let world = World::new();
    let running = world.serve().await;
    let mut client = world.client("one", running.address);

    // The right root, but a name that the certificate is not for.
    client.url = format!("https://localhost:{}", running.address.port());
    let error = asked(&client).await;
    assert!(matches!(error, RequestError::NotTrusted { .. }), "{error}");

    let (other, _) = Ca::create(&TrustDomain::new("cluster.local").unwrap(), SystemTime::now()).unwrap();
    let mut client = world.client("one", running.address);
    let roots = world.path("other.pem");
    client.roots = RootFiles::file_only(roots.clone());
    std::fs::write(&roots, other.root_pem()).unwrap();
    let error = asked(&client).await;
    assert!(matches!(error, RequestError::NotTrusted { .. }), "{error}");
    assert!(error.to_string().contains("other.pem"), "{error}");

    // Root and token are read anew each time: put right, it works.
    std::fs::copy(world.path("data/root.pem"), &roots).unwrap();
    client.issue(csr(vec![]), &id("web"), SVID_LIFE).await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn a_ca_whose_clock_differs_is_said_to_be_so() {
    let domain = TrustDomain::new("cluster.local").unwrap();
    let world = World::new();
    let day = Duration::from_secs(24 * 3600);
    let now = SystemTime::now();
    for (clock, sentence) in [(now - 3 * day, "expired since "), (now + 3 * day, "valid only in ")] {
        // The root is valid throughout: only the serving certificate is made by a wrong clock.
        let (ca, _) = Ca::create(&domain, now - 30 * day).unwrap();
        std::fs::create_dir_all(world.path("data")).unwrap();
        std::fs::write(world.path("data/root.pem"), ca.root_pem()).unwrap();
        let ca = Arc::new(Arc::new(ca));
        let certificate = ServingCertificate::new(ca, vec!["127.0.0.1".to_owned()], clock).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let _incoming = accept(listener, certificate, Refusals::default(), Speaks::Http2).unwrap();
        let error = asked(&world.client("one", address)).await;
        assert!(matches!(&error, RequestError::ClockSkew { what, .. } if what.contains(sentence)), "{error}");
        assert!(error.to_string().contains("the clocks differ"), "{error}");
    }
}

#[tokio::test]
async fn a_ca_that_is_not_there_or_says_nothing_is_unreachable() {
    let world = World::new();
    world.serve().await.stop().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    for address in [gone, silent.local_addr().unwrap()] {
        let error = asked(&world.client("one", address)).await;
        assert!(matches!(error, RequestError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}

#[tokio::test]
async fn what_is_missing_or_misspelt_is_named() {
    let world = World::new();
    let running = world.serve().await;
    let good = world.client("one", running.address);
    let roots = |name: &str| RootFiles::file_only(world.path(name));
    let token = |name: &str| Credentials::token_only(world.path(name));
    let cases = [
        (CaClient { url: "http://127.0.0.1:1".to_owned(), ..good.clone() }, "it is not https"),
        (CaClient { roots: roots("gone.pem"), ..good.clone() }, "gone.pem cannot be read"),
        (CaClient { credentials: token("gone.token"), ..good.clone() }, "gone.token cannot be read"),
        (CaClient { credentials: token("mesh.yaml"), ..good.clone() }, "mesh.yaml is empty or has"),
    ];
    for (client, sentence) in cases {
        let error = asked(&client).await.to_string();
        assert!(error.contains(sentence), "{error}");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_client_that_never_finishes_its_handshake_holds_nobody_up() {
    let world = World::new();
    let running = world.serve().await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(tokio::net::TcpStream::connect(running.address).await.unwrap());
    }
    let client = world.client("one", running.address);
    client.issue(csr(vec![]), &id("web"), SVID_LIFE).await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn the_ca_speaks_tls_1_3_only() {
    let world = World::new();
    let running = world.serve().await;
    let mut roots = rustls::RootCertStore::empty();
    for root in world.bundle().certificates() {
        roots.add(root.clone()).unwrap();
    }
    let config = rustls::ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS12])
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(running.address).await.unwrap();
    let name = rustls::pki_types::ServerName::from(running.address.ip());
    let result = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    assert!(result.unwrap_err().to_string().contains("ProtocolVersion"));
    running.stop().await;
}
