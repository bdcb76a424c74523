//! Asking the agent or the controller on its socket.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Response, StatusCode};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::reach;

const TIMEOUT: Duration = Duration::from_secs(10);
pub(super) const ANSWER_MAX: usize = 256 * 1024 * 1024;

/// What the agent says of a question that makes no sense to it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refused(String);

/// Whoever answers on a socket.
#[derive(Clone, Copy)]
enum Who {
    Agent,
    Controller,
}

impl Who {
    const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Controller => "controller",
        }
    }

    const fn here(self) -> &'static str {
        match self {
            Self::Agent => "is `lark agent` running on this node, and are you root?",
            Self::Controller => "is `lark controller` running on this machine, and are you root?",
        }
    }
}

/// An answer.
pub(crate) struct Answer {
    pub(crate) body: Bytes,
    who: Who,
}

impl Answer {
    /// The value that it is.
    pub(super) fn json<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        serde_json::from_slice(&self.body).with_context(|| {
            format!("the {}'s answer is not understood; is it of another version?", self.who.name())
        })
    }
}

/// Gets a value of an agent's admin API.
pub(super) async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> anyhow::Result<T> {
    ask(Who::Agent, socket, Method::GET, path).await?.json()
}

/// What an agent's admin API says to a GET of `path`, as it stands.
pub(crate) async fn agent(socket: &Path, path: &str) -> anyhow::Result<Bytes> {
    Ok(ask(Who::Agent, socket, Method::GET, path).await?.body)
}

/// Has an agent change something, and gets what it is then.
pub(super) async fn post<T: DeserializeOwned>(socket: &Path, path: &str) -> anyhow::Result<T> {
    ask(Who::Agent, socket, Method::POST, path).await?.json()
}

/// An answer of an agent as it is, for reading: JSON in lines.
pub(super) async fn text(socket: &Path, path: &str) -> anyhow::Result<String> {
    let answer = ask(Who::Agent, socket, Method::GET, path).await?;
    Ok(match serde_json::from_slice::<serde_json::Value>(&answer.body) {
        Ok(value) => format!("{}\n", serde_json::to_string_pretty(&value)?),
        Err(_) => String::from_utf8_lossy(&answer.body).into_owned(),
    })
}

/// An answer that does not end, line by line.
pub(super) struct Lines {
    body: Incoming,
    /// What came after the last line.
    rest: Vec<u8>,
}

impl Lines {
    /// The next line, when it comes; nothing when the agent has ended.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line = self.rest.drain(..=end).collect();
                return Ok(Some(line));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let frame = frame.context("the agent ended in the middle of its answer")?;
            if let Ok(bytes) = frame.into_data() {
                self.rest.extend_from_slice(&bytes);
            }
        }
    }
}

/// Asks an agent for an answer that does not end.
pub(super) async fn stream(socket: &Path, path: &str) -> anyhow::Result<Lines> {
    let asking = async {
        let answer = begin(Who::Agent, socket, Method::GET, path).await?;
        if answer.status() == StatusCode::OK {
            return Ok(Lines { body: answer.into_body(), rest: Vec::new() });
        }
        taken(Who::Agent, path, answer).await?;
        bail!("the agent answered {path} with nothing; is it of another version?")
    };
    in_time(Who::Agent, socket, asking).await
}

/// Asks a controller's admin API on its socket.
pub(super) async fn controller(socket: &Path, method: Method, path: &str) -> anyhow::Result<Answer> {
    ask(Who::Controller, socket, method, path).await
}

async fn ask(who: Who, socket: &Path, method: Method, path: &str) -> anyhow::Result<Answer> {
    let asking = async {
        let answer = begin(who, socket, method, path).await?;
        Ok(Answer { body: taken(who, path, answer).await?, who })
    };
    in_time(who, socket, asking).await
}

async fn in_time<T>(
    who: Who,
    socket: &Path,
    asking: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::time::timeout(TIMEOUT, asking).await.with_context(|| {
        format!("the {} on {} did not answer within {TIMEOUT:?}", who.name(), socket.display())
    })?
}

/// Asks, and gets the beginning of the answer.
async fn begin(who: Who, socket: &Path, method: Method, path: &str) -> anyhow::Result<Response<Incoming>> {
    let stream = UnixStream::connect(socket)
        .await
        .with_context(|| format!("no {} answers on {}; {}", who.name(), socket.display(), who.here()))?;
    Ok(reach::exchange(stream, method, reach::parsed(path)?).await?)
}

/// What a controller answered that was asked from outside of its pod.
pub(super) fn told(path: &str, status: StatusCode, body: Bytes) -> anyhow::Result<Answer> {
    let who = Who::Controller;
    Ok(Answer { body: judged(who, path, status, body)?, who })
}

/// The rest of an answer, unless it is a refusal.
async fn taken(who: Who, path: &str, answer: Response<Incoming>) -> anyhow::Result<Bytes> {
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_MAX)
        .collect()
        .await
        .map_err(|e| anyhow::anyhow!("the {}'s answer broke off: {e}", who.name()))?
        .to_bytes();
    judged(who, path, status, body)
}

fn judged(who: Who, path: &str, status: StatusCode, body: Bytes) -> anyhow::Result<Bytes> {
    let is_sentence = [StatusCode::BAD_REQUEST, StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];
    if is_sentence.contains(&status) {
        return Err(Refused(String::from_utf8_lossy(&body).trim().to_owned()).into());
    }
    if status != StatusCode::OK {
        bail!("the {} answered {status} to {path}; is it of another version?", who.name());
    }
    Ok(body)
}
