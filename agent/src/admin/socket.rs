//! The Unix socket: root of the node only, by the file's mode.

use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::FutureExt;
use http_body_util::BodyExt;
use hyper::{Method, StatusCode};
use lark_core::question::{NoQuestion, Question};
use tokio::net::{UnixListener, UnixStream};

use super::Source;
use super::http::{Answer, Endless, json, serve as serve_http, text};
use super::stream;

/// Why there is no admin socket.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Another agent or controller listens there.
    #[error(
        "another agent answers on {path}; stop it first, take over from it by --take-over, or give this one another --admin-socket"
    )]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// It cannot be made.
    #[error("admin socket {path} cannot be made: {source}")]
    Bind {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Whether an agent answers there.
pub async fn answers(path: &Path) -> bool {
    UnixStream::connect(path).await.is_ok()
}

/// Makes the socket, replacing what is there.
///
/// # Errors
/// When the file cannot be made.
pub fn bind(path: &Path) -> Result<UnixListener, AdminError> {
    let failed = |source| AdminError::Bind { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(failed)?;
    }
    if path.exists() {
        std::fs::remove_file(path).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Serves the API for ever.
pub async fn serve(listener: UnixListener, source: Arc<dyn Source>) {
    serve_http(listener, move |request| {
        let query = request.uri().query().unwrap_or_default();
        std::future::ready(answer(source.as_ref(), request.method(), request.uri().path(), query))
    })
    .await;
}

/// Status and body of what the API answers to a GET of `target`, a path with its query. What does not end is not
/// answered.
pub fn ask(source: &dyn Source, target: &str) -> (u16, Vec<u8>) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let answer = answer(source, &Method::GET, path, query);
    let status = answer.status().as_u16();
    if answer.extensions().get::<Endless>().is_some() {
        return (StatusCode::NOT_FOUND.as_u16(), b"not found\n".to_vec());
    }
    // A full body is there at once, and cannot fail.
    let body = answer.into_body().collect().now_or_never().and_then(Result::ok);
    (status, body.map(|body| body.to_bytes().into()).unwrap_or_default())
}

/// A value of a query string; what it has to be encoded for occurs in none of ours.
pub fn value<'a>(query: &'a str, name: &str) -> &'a str {
    let found = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_default()
}

fn answer(source: &dyn Source, method: &Method, path: &str, query: &str) -> Answer {
    let question = match Question::parse(method.as_str(), path, query) {
        Ok(question) => question,
        Err(why) => {
            let status = match why {
                NoQuestion::Method => StatusCode::METHOD_NOT_ALLOWED,
                NoQuestion::Path => StatusCode::NOT_FOUND,
            };
            return text(status, "text/plain", format!("{why}\n"));
        }
    };
    match question {
        Question::Status => json(&source.status()),
        Question::Workloads => json(&source.workloads()),
        Question::Services => json(&source.services()),
        Question::Connections => json(&source.connections()),
        Question::Edges => json(&source.edges()),
        Question::Certs => json(&source.certs()),
        Question::Check => json(&source.check()),
        Question::Bpf => json(&source.bpf()),
        Question::Trace { from, to } => told(source.trace(from, to)),
        Question::Last { from, to } => json(&source.last(from, to)),
        Question::Policies => json(&source.policies()),
        Question::Policy { from, to } => told(source.policy(from, to)),
        Question::PoliciesOf { workload } => told(source.policies_of(workload)),
        Question::History => json(&source.history()),
        Question::Requests { by_edge, seconds } => json(&source.requests(by_edge, seconds)),
        Question::Tap { namespace, workload, direction, verdict, status } => {
            stream::tap(source, [namespace, workload, direction, verdict, status])
        }
        Question::Log => json(&source.log()),
        Question::SetLog { filter, seconds } => told(source.set_log(filter, seconds)),
        Question::Recent => text(StatusCode::OK, "text/plain", source.recent()),
        Question::Metrics => text(StatusCode::OK, "text/plain; version=0.0.4", source.metrics()),
    }
}

/// A question that makes no sense is answered by a sentence.
fn told<T: serde::Serialize>(answer: Result<T, String>) -> Answer {
    match answer {
        Ok(answer) => json(&answer),
        Err(what) => text(StatusCode::BAD_REQUEST, "text/plain", what),
    }
}
