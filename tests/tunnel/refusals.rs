//! Who is refused, with which reason, and what the application sees: a reset with no byte before it.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::SystemTime;

use lark_core::reason::Reason;
use lark_identity::SvidStore;
use lark_identity::store::issue_directly;
use tokio::io::AsyncReadExt;

use crate::ends::{Client, DAY, World, accept, echo, echoes, id, on_worker, quick};

/// Connects once and returns the reason and its detail.
async fn refused(client: &Client, destination: &str, port: u16) -> (Reason, String) {
    let (mut socket, _, ended) = client.connect_to(destination, port).await;
    let error = socket.read(&mut [0; 1]).await.expect_err("the application saw an end instead of a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let refusal = ended.await.unwrap().refusal.unwrap();
    (refusal.reason, refusal.detail)
}

#[test]
fn another_identity_than_discovery_names_is_refused() {
    on_worker(async {
        let fault = "wrong peer identity: another answers for the destination";
        let mut record = lark_testbed::Record::of(fault).unwrap();
        let world = World::new();
        // The accepting end shows db's certificate whatever it is asked for.
        let impostor = world.store(&["db"]);
        let node = crate::foreign::shows_always(impostor, "db").await;
        let client = Client::new(world.store(&["web"]), node, quick()).await;
        let (reason, detail) = refused(&client, "cache", 80).await;
        assert_eq!(reason, Reason::PeerIdentityMismatch, "{detail}");
        assert!(detail.contains("expected spiffe://cluster.local/ns/shop/sa/cache"), "{detail}");
        record.injected(1);
        record
            .write("reset with zero bytes for peer_identity_mismatch, which names both identities")
            .unwrap();
    });
}

#[test]
fn an_identity_that_is_not_there_is_refused() {
    on_worker(async {
        let world = World::new();
        let node = accept(world.store(&["db"]), echo().await, quick()).await;
        let client = Client::new(world.store(&["web"]), node, quick()).await;
        assert_eq!(refused(&client, "cache", 80).await.0, Reason::TunnelHandshake);
    });
}

#[test]
fn a_caller_without_a_certificate_is_refused_until_there_is_one() {
    on_worker(async {
        let world = World::new();
        let node = accept(world.store(&["db"]), echo().await, quick()).await;
        let svids = world.store(&[]);
        let client = Client::new(svids.clone(), node, quick()).await;
        for _ in 0..6 {
            assert_eq!(refused(&client, "db", 80).await.0, Reason::SourceSvidMissing);
        }
        let own = issue_directly(&world.ca, &id("web"), DAY, &world.bundle(), SystemTime::now()).unwrap();
        svids.put(own);
        // At once: a certificate that was missing is no reason for a pause.
        echoes(&mut client.connect().await.0).await;
    });
}

#[test]
fn a_foreign_root_is_refused_by_both_ends() {
    on_worker(async {
        let (ours, theirs) = (World::new(), World::new());
        let node = accept(theirs.store(&["db"]), echo().await, quick()).await;
        let client = Client::new(ours.store(&["web"]), node, quick()).await;
        let (reason, detail) = refused(&client, "db", 80).await;
        assert_eq!(reason, Reason::TunnelHandshake);
        assert!(detail.contains("does not chain to an accepted root"), "{detail}");
        // The client accepts the server, but not the other way round.
        let both = SvidStore::new(theirs.bundle(), Arc::new(SystemTime::now));
        let own = issue_directly(&ours.ca, &id("web"), DAY, &ours.bundle(), SystemTime::now()).unwrap();
        both.put(own);
        let client = Client::new(both, node, quick()).await;
        assert_eq!(refused(&client, "db", 80).await.0, Reason::TunnelHandshake);
    });
}

#[test]
fn a_refusal_carries_its_reason_over_the_tunnel() {
    on_worker(async {
        let world = World::new();
        let node = accept(world.store(&["db"]), echo().await, quick()).await;
        let client = Client::new(world.store(&["web"]), node, quick()).await;
        assert_eq!(refused(&client, "db", 1).await.0, Reason::PolicyDenied);
        let closed = accept(world.store(&["db"]), "127.0.0.1:1".parse().unwrap(), quick()).await;
        let client = Client::new(world.store(&["web"]), closed, quick()).await;
        assert_eq!(refused(&client, "db", 80).await.0, Reason::DialRefused);
    });
}

#[test]
fn a_node_that_is_not_there_is_said_so() {
    on_worker(async {
        let world = World::new();
        let client = Client::new(world.store(&["web"]), "127.0.0.1:1".parse().unwrap(), quick()).await;
        let (reason, detail) = refused(&client, "db", 80).await;
        assert_eq!(reason, Reason::TunnelUnreachable);
        assert!(detail.contains("127.0.0.1:1"), "{detail}");
    });
}
