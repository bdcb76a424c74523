//! Asking the agent on its socket.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

const TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_MAX: usize = 256 * 1024 * 1024;

/// What the agent says of a question that makes no sense to it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refused(String);

/// Gets a value of the admin API.
pub(super) async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> anyhow::Result<T> {
    let asking = async {
        let stream = UnixStream::connect(socket).await.with_context(|| {
            format!(
                "no agent answers on {}; is `lark agent` running on this node, and are you root?",
                socket.display()
            )
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::get(path).header("host", "lark").body(Empty::<Bytes>::new())?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_MAX)
            .collect()
            .await
            .map_err(|e| anyhow::anyhow!("the agent's answer broke off: {e}"))?
            .to_bytes();
        if status == StatusCode::BAD_REQUEST {
            return Err(Refused(String::from_utf8_lossy(&body).trim().to_owned()).into());
        }
        if status != StatusCode::OK {
            bail!("the agent answered {status} to {path}; is it of another version?");
        }
        serde_json::from_slice(&body)
            .context("the agent's answer is not understood; is it of another version?")
    };
    tokio::time::timeout(TIMEOUT, asking)
        .await
        .with_context(|| format!("the agent on {} did not answer within {TIMEOUT:?}", socket.display()))?
}
