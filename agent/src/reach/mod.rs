//! From where people are to the controller that leads, through the cluster's API. Two ways, tried in this order:
//!
//! 1. By port-forward to the pod that holds the Lease. Whoever may do that is told everything.
//! 2. Whoever may not has the API server ask the controller's Service, and shows his token: he is told what concerns
//!    namespaces in which he may get pods. The API server asks any replica; one that does not lead says so, and it is
//!    asked again.
//!
//! Who leads may change at any time: whatever fails for that is tried again, for longer than a Lease lasts.

use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HOST, HeaderValue};
use hyper::http::uri::InvalidUri;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use lark_core::constants::{
    CONTROLLER, CONTROLLER_FORWARD_PORT, CONTROLLER_STATUS_NAME, TOKEN_HEADER, VERSION_HEADER,
};
pub use lark_discovery::kubernetes::Where;
use lark_discovery::kubernetes::{Reach, ReachError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// For how long somebody who leads is looked for: a replica that was killed holds its Lease for ten seconds.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long one attempt may take; the controller gives nodes eight seconds.
const ATTEMPT: Duration = Duration::from_secs(10);
/// Pause before the second attempt. Each is twice as long as the one before ...
const PAUSE: Duration = Duration::from_millis(50);
/// ... up to this.
const PAUSE_MAX: Duration = Duration::from_millis(800);

/// Why the controller is not reached.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// It can be asked nowhere.
    #[error("{target:?} is nothing that can be asked: {source}")]
    Target {
        /// What was to be asked.
        target: String,
        /// What is wrong with it.
        source: InvalidUri,
    },
    /// The API does not lead there.
    #[error(transparent)]
    Reach(#[from] ReachError),
    /// Lark is not there.
    #[error(
        "Lark's controller is not in namespace {namespace} of this cluster: {said}. Is it another namespace (--lark-namespace) or context (--context)?"
    )]
    NotThere {
        /// Where it was looked for.
        namespace: String,
        /// What the API server said.
        said: String,
    },
    /// The user may do neither.
    #[error(
        "you may ask Lark in namespace {namespace} in neither way: {forward}; and {service}. Ask the cluster's administrator for one of both: docs/kubernetes.md, \"From a laptop\""
    )]
    NotAllowed {
        /// Where Lark is.
        namespace: String,
        /// Why not by port-forward.
        forward: String,
        /// Why not by the Service.
        service: String,
    },
    /// Nobody leads, or whoever does gives no answer.
    #[error(
        "no replica of the controller in namespace {namespace} that leads has answered within {PATIENCE:?}: {last}. See `kubectl -n {namespace} get pods,lease`"
    )]
    Nobody {
        /// Where it was looked for.
        namespace: String,
        /// What the last attempt came to.
        last: String,
    },
}

/// What an attempt came to, if not to an answer.
enum Missed {
    /// Another way is to be tried.
    NotAllowed(String),
    /// It is to be tried again.
    Again(String),
    /// It does not help to try again.
    For(GetError),
}

impl From<ReachError> for Missed {
    fn from(error: ReachError) -> Self {
        match error {
            ReachError::Forbidden { .. } | ReachError::NoToken => Self::NotAllowed(error.to_string()),
            ReachError::Failed { .. } => Self::Again(error.to_string()),
            error => Self::For(error.into()),
        }
    }
}

/// What was found out so far.
#[derive(Default)]
struct Known {
    /// The pod that leads.
    leader: Option<String>,
    /// Why the user may not forward ports, if he may not.
    no_forward: Option<String>,
}

/// The controller of a cluster.
pub struct Controller {
    reach: Reach,
    /// Longest answer, in bytes.
    most: usize,
    known: Mutex<Known>,
}

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller").field("reach", &self.reach).finish_non_exhaustive()
    }
}

impl Controller {
    /// That of a cluster. Answers have `most` bytes.
    ///
    /// # Errors
    /// When there is no kubeconfig, or it cannot be used.
    pub async fn new(at: Where, most: usize) -> Result<Self, ReachError> {
        Ok(Self { reach: Reach::new(at).await?, most, known: Mutex::default() })
    }

    /// What it answers to a GET. May be cancelled.
    ///
    /// # Errors
    /// When it cannot be reached by the user, or nobody leads.
    pub async fn get(&self, target: &str) -> Result<(StatusCode, Bytes), GetError> {
        let uri = parsed(target)?;
        let (deadline, mut pause) = (Instant::now() + PATIENCE, PAUSE);
        loop {
            let forbidden = self.known.lock().await.no_forward.clone();
            let attempt = async {
                match &forbidden {
                    None => self.forwarded(&uri).await,
                    Some(_) => self.by_service(target).await,
                }
            };
            let attempt = tokio::time::timeout(ATTEMPT, attempt).await;
            let late = || Err(Missed::Again(format!("no answer within {ATTEMPT:?}")));
            let last = match (attempt.unwrap_or_else(|_| late()), forbidden) {
                (Ok(answer), _) => return Ok(answer),
                (Err(Missed::For(error)), _) => return Err(error),
                (Err(Missed::NotAllowed(why)), None) => {
                    self.known.lock().await.no_forward = Some(why);
                    continue;
                }
                (Err(Missed::NotAllowed(service)), Some(forward)) => {
                    let namespace = self.reach.namespace().to_owned();
                    return Err(GetError::NotAllowed { namespace, forward, service });
                }
                (Err(Missed::Again(why)), _) => why,
            };
            // Whoever it was may lead no more.
            self.known.lock().await.leader = None;
            if Instant::now() + pause > deadline {
                return Err(GetError::Nobody { namespace: self.reach.namespace().to_owned(), last });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn leader(&self) -> Result<String, Missed> {
        if let Some(leader) = self.known.lock().await.leader.clone() {
            return Ok(leader);
        }
        match self.reach.holder(CONTROLLER).await {
            Ok(Some(leader)) => {
                self.known.lock().await.leader = Some(leader.clone());
                Ok(leader)
            }
            Ok(None) => Err(Missed::Again(format!("nobody holds the Lease {CONTROLLER}"))),
            Err(ReachError::Missing { said, .. }) => Err(Missed::For(self.not_there(said))),
            Err(error) => Err(error.into()),
        }
    }

    fn not_there(&self, said: String) -> GetError {
        GetError::NotThere { namespace: self.reach.namespace().to_owned(), said }
    }

    async fn forwarded(&self, target: &Uri) -> Result<(StatusCode, Bytes), Missed> {
        let leader = self.leader().await?;
        let stream = match self.reach.forward(&leader, CONTROLLER_FORWARD_PORT).await {
            // The pod has gone, and its Lease is not yet over; or its node is going.
            Err(error @ (ReachError::Missing { .. } | ReachError::Unreachable { .. })) => {
                return Err(Missed::Again(error.to_string()));
            }
            stream => stream?,
        };
        let again = |error: &dyn std::error::Error| {
            // The cause at the bottom says what happened, those above it where.
            let mut cause = error;
            while let Some(next) = cause.source() {
                cause = next;
            }
            Missed::Again(format!("pod {leader}: {cause}"))
        };
        let answer = exchange(stream, Method::GET, target.clone()).await.map_err(|error| again(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), self.most).collect().await;
        let body = body.map_err(|error| again(error.as_ref()))?.to_bytes();
        if status == StatusCode::MISDIRECTED_REQUEST {
            return Err(Missed::Again(sentence(&body)));
        }
        Ok((status, body))
    }

    async fn by_service(&self, target: &str) -> Result<(StatusCode, Bytes), Missed> {
        let token = self.reach.token().await?;
        let shown = (TOKEN_HEADER, token.as_str());
        let asked = self.reach.by_service(CONTROLLER, CONTROLLER_STATUS_NAME, target, shown, self.most).await;
        let answer = asked?;
        if !answer.headers().contains_key(VERSION_HEADER) {
            return Err(match self.reach.said(CONTROLLER, &answer) {
                ReachError::Missing { said, .. } => Missed::For(self.not_there(said)),
                error => error.into(),
            });
        }
        let (parts, body) = answer.into_parts();
        match parts.status {
            StatusCode::MISDIRECTED_REQUEST | StatusCode::SERVICE_UNAVAILABLE => {
                Err(Missed::Again(sentence(&body)))
            }
            status => Ok((status, body.into())),
        }
    }
}

fn sentence(body: &[u8]) -> String {
    String::from_utf8_lossy(body).trim().trim_end_matches('.').to_owned()
}

/// A target as it is asked for.
///
/// # Errors
/// When it is none.
pub(crate) fn parsed(target: &str) -> Result<Uri, GetError> {
    target.parse().map_err(|source| GetError::Target { target: target.to_owned(), source })
}

/// Asks on a connection, and gets the beginning of the answer.
pub(crate) async fn exchange<S>(stream: S, method: Method, target: Uri) -> hyper::Result<Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = method;
    *request.uri_mut() = target;
    request.headers_mut().insert(HOST, HeaderValue::from_static("lark"));
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    sender.send_request(request).await
}
