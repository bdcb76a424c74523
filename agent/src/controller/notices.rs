//! Events about pods that are to be captured and are not, as their nodes' agents say. Posted by the replica that leads,
//! which all agents follow: agents themselves may write nothing, since no rule could bind one to the pods of its node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lark_core::notices::{Notices, Post};
use lark_discovery::kubernetes::{About, Events};

use super::rotation::Rotation;

/// How often what agents say is looked at.
const EVERY: Duration = Duration::from_secs(2);
/// What was tried, and what came of it.
const ACTION: &str = "Capture";
const REASON: &str = "LarkNotCaptured";

/// Posts for ever. To be dropped at will.
pub(super) async fn post(rotation: Arc<Rotation>, events: Option<Events>) {
    let Some(mut events) = events else { return std::future::pending().await };
    let began = Instant::now();
    let mut notices = Notices::new(began.elapsed());
    let mut said = String::new();
    loop {
        tokio::time::sleep(EVERY).await;
        if !rotation.leads() {
            continue;
        }
        let snapshot = rotation.snapshot.borrow().clone();
        for (node, pod, why) in rotation.nodes.failing() {
            // An agent is heard about pods of its own node only.
            let Some(workload) = snapshot.workload(&pod).filter(|workload| workload.node == node) else {
                continue;
            };
            let Some(post) = notices.failing(&workload.uid, &why, began.elapsed()) else { continue };
            let seen = match post {
                Post::New => None,
                Post::Series(count) => Some(count),
            };
            let about = About { namespace: &workload.namespace, name: &workload.name, uid: &workload.uid };
            let note = format!("The agent of node {node} does not capture this pod: {why}");
            match events.warn(about, ACTION, REASON, &note, seen).await {
                Ok(()) => said.clear(),
                Err(error) if error == said => {}
                Err(error) => {
                    tracing::warn!(%error, "an Event about a pod that is not captured cannot be posted");
                    said = error;
                }
            }
        }
    }
}
