//! Replacing the root while two nodes hold certificates: nobody ever lacks the root of another's.

use std::time::Duration;

use clap::Parser;
use lark::cli::Cli;
use lark_core::constants::SVID_LIFE;
use lark_core::view::CaView;
use lark_identity::client::{Issuer, RequestError};
use lark_identity::roots::RootFiles;
use lark_testbed::Record;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::agent::Agent;
use crate::world::{World, csr, id, until};

/// What the controller's admin socket answers: status and body.
async fn ask(world: &World, method: &str, path: &str) -> (u16, String) {
    let mut stream = tokio::net::UnixStream::connect(world.path("controller.sock")).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: lark\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

async fn status(world: &World) -> CaView {
    serde_json::from_str(&ask(world, "GET", "/v1/ca").await.1).unwrap()
}

/// `lark ca` with these arguments.
async fn ca(world: &World, arguments: &[&str]) -> Result<(), String> {
    let socket = world.path("controller.sock");
    let mut line = vec!["lark", "ca"];
    line.extend(arguments);
    line.extend(["--controller-socket", socket.to_str().unwrap()]);
    let command = Cli::try_parse_from(line).unwrap().command;
    lark::cli::run(command).await.map(drop).map_err(|error| format!("{error:#}"))
}

async fn reaches(world: &World, phase: &str) {
    until(phase, async || status(world).await.phase == phase).await;
}

/// Looks all the time whether each would take the other's certificate.
async fn watch(agents: &[&Agent]) -> String {
    loop {
        for one in agents {
            if let Some(why) = agents.iter().find_map(|other| one.refuses(other)) {
                return why;
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Does something while nobody may refuse anybody.
async fn unharmed<T>(agents: &[&Agent], what: impl Future<Output = T>) -> T {
    tokio::select! {
        done = what => done,
        why = watch(agents) => panic!("refused: {why}"),
    }
}

#[tokio::test]
async fn a_root_is_replaced_though_agents_and_controller_start_anew_in_the_middle() {
    let world = World::new();
    let running = world.serve().await;
    let address = running.address;
    let one = Agent::start(&world, "one", address, &["web", "api"]);
    one.supplied().await;
    let before = world.bundle().ids()[0];
    let proved_before = one.store.valid(&id("web")).unwrap();

    // Node two has not spoken: it is waited for, by name.
    ca(&world, &["rotate", "--no-wait"]).await.unwrap();
    let error = ca(&world, &["rotate", "--no-wait"]).await.unwrap_err();
    assert!(error.contains("a rotation is under way (trust)"), "{error}");
    let both = async || one.store.bundle().ids().len() == 2;
    unharmed(&[&one], until("node one holds both roots", both)).await;
    until("it is said what is waited for", async || {
        status(&world).await.waits_for == ["two: it has not yet said what it holds in this phase"]
    })
    .await;
    running.kill().await;

    // Both start anew; the agent with the file of roots that it began with.
    drop(one);
    let one = Agent::start(&world, "one", address, &["web", "api"]);
    assert_eq!(one.store.bundle().ids().len(), 2, "it has forgotten what it held");
    let running = world.serve_at(address).await;
    assert_eq!(status(&world).await.phase, "trust");
    unharmed(&[&one], one.supplied()).await;
    let two = Agent::start(&world, "two", address, &["db"]);
    let agents = [&one, &two];
    unharmed(&agents, async {
        two.supplied().await;
        reaches(&world, "settle").await;
        running.kill().await;
        let running = world.serve_at(address).await;
        reaches(&world, "steady").await;
        // The last one to hear of it has heard of it.
        let after = world.bundle().ids().to_vec();
        assert!(after.len() == 1 && after[0] != before);
        until("nobody trusts the old root", async || {
            agents.iter().all(|agent| agent.store.bundle().ids() == after)
        })
        .await;
        let view = status(&world).await;
        let name = after[0].to_string();
        for node in &view.nodes {
            assert_eq!((&node.roots, &node.svids), (&vec![name.clone()], &vec![name.clone()]), "{node:?}");
        }
        assert_eq!(view.roots[0].roles, ["trusted", "issues", "serves"]);
        running.stop().await;
    })
    .await;

    // The old root is refused, what began with it goes on.
    let running = world.serve_at(address).await;
    let old = lark_identity::verify::verify_chain(
        &proved_before.certified.cert[0],
        &[],
        &two.store.bundle(),
        std::time::SystemTime::now(),
        lark_identity::verify::Usage::Client,
    );
    assert!(old.unwrap_err().to_string().contains("does not chain to an accepted root"));
    world.agent("one", address).issue(csr(vec![]), &id("web"), SVID_LIFE).await.unwrap();
    let mut stale = world.agent("one", address);
    stale.roots = RootFiles::file_only(world.path("one.pem"));
    let error = stale.issue(csr(vec![]), &id("web"), SVID_LIFE).await.unwrap_err();
    assert!(matches!(error, RequestError::NotTrusted { .. }), "{error}");
    let seen = "no refusal between any two at any time; the old root is refused afterwards";
    Record::told("a root replaced while agents and controller start anew", 3, seen).unwrap();
    running.stop().await;
}

#[tokio::test]
async fn a_rotation_that_is_taken_back_leaves_everybody_with_the_old_root() {
    let world = World::new();
    let running = world.serve().await;
    let address = running.address;
    let (one, two) =
        (Agent::start(&world, "one", address, &["web"]), Agent::start(&world, "two", address, &["db"]));
    let agents = [&one, &two];
    for agent in agents {
        agent.supplied().await;
    }
    assert!(ca(&world, &["rotate", "--abort"]).await.unwrap_err().contains("no rotation is under way"));
    let before = world.bundle().ids().to_vec();
    unharmed(&agents, async {
        ca(&world, &["rotate", "--no-wait"]).await.unwrap();
        reaches(&world, "settle").await;
        assert_ne!(one.store.valid(&id("web")).unwrap().root, before[0]);
        // It waits for the end, which is the old root alone.
        ca(&world, &["rotate", "--abort"]).await.unwrap();
        assert_eq!(world.bundle().ids(), before);
        until("everybody is back", async || {
            agents.iter().all(|agent| agent.store.holdings().roots == before)
                && agents.iter().all(|agent| agent.store.holdings().svids == before)
        })
        .await;
    })
    .await;
    let keys = std::fs::read_dir(world.path("data/roots")).unwrap().count();
    assert_eq!(keys, 2, "the new root's key is still there");
    let seen = "no refusal between any two at any time; the old root alone, the new key gone";
    Record::told("a rotation taken back half-way", 1, seen).unwrap();
    running.stop().await;
}

#[tokio::test]
async fn a_node_that_does_not_hold_the_roots_of_a_rotation_gets_no_certificate() {
    let world = World::new();
    let running = world.serve().await;
    let client = world.client("one", running.address);
    client.issue(csr(vec![]), &id("web"), SVID_LIFE).await.unwrap();
    ca(&world, &["rotate", "--no-wait"]).await.unwrap();
    let error = client.issue(csr(vec![]), &id("web"), SVID_LIFE).await.unwrap_err();
    assert!(matches!(error, RequestError::NotNow { .. }), "{error}");
    assert_eq!(running.service.refused().get("bundle_behind"), Some(&1));
    let fault = "a node that does not hold the roots of a rotation";
    Record::told(fault, 1, "refused as not now, counted as bundle_behind").unwrap();
    // Leaving out is for nodes that there are.
    let error = ca(&world, &["rotate", "--without", "three"]).await.unwrap_err();
    assert!(error.contains("discovery has no node \"three\""), "{error}");
    ca(&world, &["rotate", "--without", "two", "--no-wait"]).await.unwrap();
    let state = std::fs::read_to_string(world.path("data/state.json")).unwrap();
    assert!(state.contains("\"two\""), "{state}");
    ca(&world, &["status"]).await.unwrap();
    ca(&world, &["status", "-o", "json"]).await.unwrap();
    ca(&world, &["export"]).await.unwrap();
    let (code, roots) = ask(&world, "GET", "/v1/ca/roots").await;
    assert_eq!((code, roots.matches("BEGIN CERTIFICATE").count()), (200, 2));
    assert_eq!(ask(&world, "GET", "/v1/ca/rotate").await.0, 404, "a look must not change anything");
    running.stop().await;
    assert!(ca(&world, &["status"]).await.unwrap_err().contains("no controller answers on"));
}

#[tokio::test]
async fn a_ca_may_be_made_before_the_controller_first_runs_and_only_once() {
    let world = World::new();
    let args =
        lark::controller::InitArgs { data_dir: world.path("data"), trust_domain: "cluster.local".to_owned() };
    lark::controller::run_init(&args).unwrap();
    let made = world.bundle().ids().to_vec();
    let error = lark::controller::run_init(&args).unwrap_err().to_string();
    assert!(error.contains("has a CA already"), "{error}");
    let running = world.serve().await;
    assert_eq!(world.bundle().ids(), made);
    running.stop().await;
}
