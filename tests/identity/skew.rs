//! Clocks an hour apart, either way, between a node and its CA: told by name. (Between a node and its peer:
//! tests/tunnel.)

use lark_testbed::Record;

use crate::agent::Agent;
use crate::logs::Logs;
use crate::world::{World, until};

const HOUR: i64 = 3600;

#[tokio::test]
async fn a_node_whose_clock_is_an_hour_behind_the_cas_gets_nothing_and_is_told_why() {
    let logs = Logs::gather();
    let world = World::new();
    let running = world.serve().await;
    let node = Agent::of(world.agent("one", running.address), -HOUR, &["web"]);
    until("it is said why", async || {
        node.error("web").is_some_and(|e| e.contains("valid only in") && e.contains("clocks"))
    })
    .await;
    until("the skew is known", async || node.store.clock_skew().is_some()).await;
    assert!((-HOUR - 5..=-HOUR + 5).contains(&node.store.clock_skew().unwrap()));
    until("it is warned of", async || {
        logs.has("WARN", "this node's clock is 60 minutes behind the controller's")
    })
    .await;
    assert!(logs.has("WARN", "cause=\"clock_skew\""));
    node.set_clock(0);
    node.supplied().await;
    until("it is said that it is over", async || logs.has("INFO", "agree again")).await;
    let seen = "said as 60 minutes behind, cause clock_skew; supplied once the clocks agreed";
    Record::told("a node's clock an hour behind the CA's", 1, seen).unwrap();
    running.stop().await;
}

#[tokio::test]
async fn a_node_whose_clock_is_an_hour_ahead_of_the_cas_is_served_and_told() {
    let logs = Logs::gather();
    let world = World::new();
    let running = world.serve().await;
    let node = Agent::of(world.agent("one", running.address), HOUR, &["web"]);
    node.supplied().await;
    until("the skew is known", async || node.store.clock_skew().is_some()).await;
    assert!((HOUR - 5..=HOUR + 5).contains(&node.store.clock_skew().unwrap()));
    assert!(logs.has("WARN", "this node's clock is 60 minutes ahead of the controller's"));
    let seen = "served; said as 60 minutes ahead";
    Record::told("a node's clock an hour ahead of the CA's", 1, seen).unwrap();
    running.stop().await;
}
