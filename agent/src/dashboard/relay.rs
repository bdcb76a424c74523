//! What the page asks, asked of the agent or of all agents through the controller. Only questions of the admin API
//! pass, and answers come in one form: those of nodes, each with its name.

use std::path::PathBuf;

use anyhow::Context;
use hyper::StatusCode;
use lark_core::question::Question;
use lark_core::view::{NodeAnswer, Status};
use serde::Serialize;
use serde_json::value::RawValue;

use super::nothing_there;
use crate::admin::{Answer, json, text};
use crate::cli::{ClusterQuery, Controller, ask_agent};

/// What paths of data begin with.
pub(super) const PREFIX: &str = "/api/";

/// Whom the page asks.
enum Whom {
    /// The agent of this node, by its name.
    Agent { socket: PathBuf, node: String },
    /// The controller, which asks all.
    Controller(Controller),
}

/// The way to whoever answers.
pub(super) struct Relay(Whom);

/// What the page must know before it asks.
#[derive(Debug, Serialize)]
struct About {
    /// Version of this binary.
    version: &'static str,
    /// The node that is shown, or nothing if all are.
    node: Option<String>,
}

impl Relay {
    /// To whom the flags say, who must answer now.
    ///
    /// # Errors
    /// When there is no answer.
    pub(super) async fn open(asked: &ClusterQuery) -> anyhow::Result<Self> {
        if asked.cluster {
            let controller = Controller::open(asked).await?;
            controller.ask("status").await?;
            return Ok(Self(Whom::Controller(controller)));
        }
        let socket = asked.query.admin_socket.clone();
        let status: Status = serde_json::from_slice(&ask_agent(&socket, "/v1/status").await?)
            .context("the agent's answer is not understood; is it of another version?")?;
        Ok(Self(Whom::Agent { socket, node: status.node }))
    }

    /// What is shown, at the beginning of a sentence.
    pub(super) fn whom(&self) -> String {
        match &self.0 {
            Whom::Agent { node, .. } => format!("Node {node}"),
            Whom::Controller(_) => "The cluster".to_owned(),
        }
    }

    /// The answer to a question of the page's.
    pub(super) async fn answer(&self, target: &str) -> Answer {
        let Some(target) = target.strip_prefix(PREFIX) else { return nothing_there() };
        if target == "about" {
            let node = match &self.0 {
                Whom::Agent { node, .. } => Some(node.clone()),
                Whom::Controller(_) => None,
            };
            return json(&About { version: env!("CARGO_PKG_VERSION"), node });
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        // Metrics are Prometheus's to gather, and no JSON.
        if !matches!(Question::parse("GET", &format!("/{path}"), query), Ok(q) if q != Question::Metrics) {
            return nothing_there();
        }
        match &self.0 {
            Whom::Agent { socket, node } => {
                let said = ask_agent(socket, &format!("/{target}")).await;
                let said = said.map_err(|error| format!("{error:#}")).and_then(|body| as_json(&body));
                json(&[NodeAnswer::new(node, said)])
            }
            Whom::Controller(controller) => {
                let said = controller.ask(target.strip_prefix("v1/").unwrap_or(target)).await;
                match said.map_err(|error| format!("{error:#}")).and_then(|answer| as_json(&answer.body)) {
                    Ok(all) => json(&all),
                    Err(error) => text(StatusCode::BAD_GATEWAY, "text/plain", error),
                }
            }
        }
    }
}

fn as_json(body: &[u8]) -> Result<Box<RawValue>, String> {
    serde_json::from_slice(body).map_err(|_| "the answer is no JSON; is it of another version?".to_owned())
}
