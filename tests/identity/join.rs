//! Joining by a token that is good once, and staying by a credential.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use lark_core::constants::SVID_LIFE;
use lark_identity::client::{Issuer, RequestError};
use lark_identity::credential::Credentials;
use lark_identity::token;
use lark_testbed::Record;

use crate::agent::Agent;
use crate::logs::Logs;
use crate::world::{World, csr, id, until};

fn credential(world: &World, node: &str) -> String {
    std::fs::read_to_string(world.path(&format!("state-{node}/credential"))).unwrap_or_default()
}

#[tokio::test]
async fn a_token_is_exchanged_once_and_the_node_stays_without_it() {
    let logs = Logs::gather();
    let world = World::new();
    let running = world.serve().await;
    let address = running.address;
    let agent = Agent::start(&world, "one", address, &["web"]);
    agent.supplied().await;
    until("it has a credential", async || !credential(&world, "one").is_empty()).await;
    let mode = std::fs::metadata(world.path("state-one/credential")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // From now on the credential is shown.
    world.agent("one", address).issue(csr(vec![]), &id("web"), SVID_LIFE).await.unwrap();

    // Replayed: by whoever found the token, and by the agent if it has lost what it kept.
    let thief = world.client("one", address);
    let error = thief.issue(csr(vec![]), &id("web"), SVID_LIFE).await.unwrap_err();
    assert!(
        matches!(&error, RequestError::Unauthenticated { what, .. } if what.contains("used already")),
        "{error}"
    );
    assert_eq!(running.service.refused().get("token_used"), Some(&1));

    // Agent and controller start anew, and the token is gone: nothing is missed.
    drop(agent);
    running.stop().await;
    let secret = std::fs::read_to_string(world.path("one.token")).unwrap();
    std::fs::remove_file(world.path("one.token")).unwrap();
    let running = world.serve_at(address).await;
    let agent = Agent::start(&world, "one", address, &["web"]);
    agent.supplied().await;
    until("the refusal was said", async || logs.has("WARN", "token_used")).await;
    Record::told("a join token shown again", 1, "refused, counted and said; the node stays without it")
        .unwrap();
    for secret in [secret.trim(), credential(&world, "one").trim()] {
        assert!(secret.len() > 40 && !logs.text().contains(secret), "a secret is in the log");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_token_whose_time_is_over_joins_nobody_and_a_line_taken_out_ends_a_membership() {
    let world = World::new();
    let running = world.serve().await;
    let address = running.address;
    let agent = Agent::start(&world, "two", address, &["db"]);
    agent.supplied().await;
    until("it has a credential", async || !credential(&world, "two").is_empty()).await;

    let late = token::generate(SystemTime::now() - Duration::from_secs(1)).unwrap();
    std::fs::write(world.path("late.token"), late.secret.as_str()).unwrap();
    std::fs::write(world.path("tokens"), format!("one {}\n", late.line)).unwrap();
    let mut client = world.client("one", address);
    client.credentials = Credentials::token_only(world.path("late.token"));
    until("the token is known, and over", async || {
        let result = client.issue(csr(vec![]), &id("web"), SVID_LIFE).await;
        matches!(result, Err(RequestError::Unauthenticated { what, .. }) if what.contains("has expired"))
    })
    .await;
    assert!(running.service.refused().contains_key("token_expired"));

    // Node two's line is gone: its credential is worth nothing, its stream is ended.
    let error = world.agent("two", address).issue(csr(vec![]), &id("db"), SVID_LIFE).await.unwrap_err();
    assert!(matches!(error, RequestError::Unauthenticated { .. }), "{error}");
    until("its stream is refused too", async || {
        running.service.refused().get("unauthenticated").is_some_and(|count| *count > 2)
    })
    .await;
    let fault = "a join token whose time is over, and a membership that was revoked";
    Record::told(fault, 2, "2 of 2 refused and counted, the open stream of the revoked one too").unwrap();
    running.stop().await;
}
