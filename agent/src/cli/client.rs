//! Asking the agent or the controller on its socket.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

const TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_MAX: usize = 256 * 1024 * 1024;

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

/// Asks a controller's admin API.
pub(crate) async fn controller(socket: &Path, method: Method, path: &str) -> anyhow::Result<Answer> {
    ask(Who::Controller, socket, method, path).await
}

async fn ask(who: Who, socket: &Path, method: Method, path: &str) -> anyhow::Result<Answer> {
    let name = who.name();
    let asking = async {
        let stream = UnixStream::connect(socket)
            .await
            .with_context(|| format!("no {name} answers on {}; {}", socket.display(), who.here()))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request =
            Request::builder().method(method).uri(path).header("host", "lark").body(Empty::<Bytes>::new())?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_MAX)
            .collect()
            .await
            .map_err(|e| anyhow::anyhow!("the {name}'s answer broke off: {e}"))?
            .to_bytes();
        if status == StatusCode::BAD_REQUEST {
            return Err(Refused(String::from_utf8_lossy(&body).trim().to_owned()).into());
        }
        if status != StatusCode::OK {
            bail!("the {name} answered {status} to {path}; is it of another version?");
        }
        Ok(Answer { body, who })
    };
    tokio::time::timeout(TIMEOUT, asking)
        .await
        .with_context(|| format!("the {name} on {} did not answer within {TIMEOUT:?}", socket.display()))?
}
