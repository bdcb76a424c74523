//! Questions about the whole cluster from people who are not in the controller's pod. They come by two ways:
//!
//! - to a port of the pod's loopback, by port-forward: whoever may forward ports of Lark's own pods sees everything;
//! - to a port of the Service, by TLS and with a token of the cluster's API: he sees what concerns the namespaces in
//!   which he may get pods (`tenants`).
//!
//! Only the replica that leads knows of all nodes; the others say so, and whoever asked asks again.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, ensure};
use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::http::uri::PathAndQuery;
use hyper::{Method, Request, StatusCode};
use lark_core::constants::{TOKEN_HEADER, VERSION_HEADER};
use lark_core::explain::CaRefusal;
use lark_core::sight::Sight;
use lark_core::snapshot::Snapshot;
use lark_discovery::kubernetes::{AccessError, AccessReviews};
use lark_identity::listener::{ServingCertificate, Speaks, accept};
use lark_identity::refusals::Refusals;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use super::ControllerArgs;
use super::cluster::Cluster;
use super::rotation::Rotation;
use super::tenants::{Seer, Tenants};
use crate::admin::{Accepted, Answer, serve_http, text};
use crate::app::Source;

/// Questions of tenants that are worked on or wait for it. More are told to come again, so that others get their turn.
const TENANTS_AT_ONCE: usize = 16;
/// What is asked begins with it.
const CLUSTER: &str = "/v1/cluster/";

/// Why somebody is not answered.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    /// Nothing is changed from outside.
    #[error("only GET of {CLUSTER}… is answered here")]
    Nothing,
    /// Another replica knows.
    #[error("{0}")]
    NotLeading(String),
    /// He shows nothing.
    #[error("show a token of the cluster's API in the header {TOKEN_HEADER}")]
    NoToken,
    /// The API does not know him, or cannot be asked.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// He may see nothing at all.
    #[error(
        "{0} may get pods in no namespace where Lark knows any; have somebody grant it (verb get, resource pods)"
    )]
    Blind(String),
    /// Too many ask.
    #[error("more than {TENANTS_AT_ONCE} questions are being answered; ask again")]
    Busy,
}

impl Refusal {
    const fn status(&self) -> StatusCode {
        match self {
            Self::Nothing => StatusCode::NOT_FOUND,
            Self::NotLeading(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::NoToken | Self::Access(AccessError::Refused(_)) => StatusCode::UNAUTHORIZED,
            Self::Access(AccessError::Unavailable { .. }) | Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Blind(_) => StatusCode::FORBIDDEN,
        }
    }

    /// What it is counted as, if it is somebody's failing.
    const fn reason(&self) -> Option<CaRefusal> {
        Some(match self {
            Self::Nothing | Self::NotLeading(_) => return None,
            Self::NoToken | Self::Access(AccessError::Refused(_)) => CaRefusal::AskerUnknown,
            Self::Access(AccessError::Unavailable { .. }) => CaRefusal::AskerNotReviewed,
            Self::Blind(_) => CaRefusal::AskerBlind,
            Self::Busy => CaRefusal::AskersTooMany,
        })
    }
}

/// Where people ask.
pub(super) struct Doors {
    /// On the pod's loopback.
    forward: Option<TcpListener>,
    /// Behind the Service.
    status: Option<(TcpListener, Tenants)>,
}

impl Doors {
    /// Listens as the flags say.
    pub(super) async fn open(
        args: &ControllerArgs,
        from: &Source,
        snapshot: watch::Receiver<Arc<Snapshot>>,
    ) -> anyhow::Result<Self> {
        let bind = async |address: SocketAddr| {
            let bound = TcpListener::bind(address).await;
            bound.with_context(|| {
                format!(
                    "cannot listen on {address} for questions; is the port in use, the address this host's?"
                )
            })
        };
        let forward = match args.forward_listen {
            Some(address) => {
                ensure!(
                    address.ip().is_loopback(),
                    "--forward-listen {address} is no loopback address: whoever reaches it sees everything"
                );
                Some(bind(address).await?)
            }
            None => None,
        };
        let status = match (args.status_listen, from) {
            (Some(address), Source::Kubernetes(access)) => {
                let tenants = Tenants::new(AccessReviews::new(access).await?, snapshot);
                Some((bind(address).await?, tenants))
            }
            (Some(_), Source::File(_)) => anyhow::bail!(
                "--status-listen needs the API of a cluster, which says who may see what: give --discovery kubernetes"
            ),
            (None, _) => None,
        };
        Ok(Self { forward, status })
    }

    /// Where a forwarded port leads.
    pub(super) fn forward_address(&self) -> Option<SocketAddr> {
        self.forward.as_ref()?.local_addr().ok()
    }

    /// Where whoever has a token asks.
    pub(super) fn status_address(&self) -> Option<SocketAddr> {
        self.status.as_ref()?.0.local_addr().ok()
    }

    /// Answers for ever.
    pub(super) async fn serve(
        self,
        rotation: Arc<Rotation>,
        cluster: Arc<Cluster>,
        certificate: Arc<ServingCertificate>,
        refusals: Refusals,
    ) -> anyhow::Result<()> {
        let (at_port, at_service) = (rotation.clone(), rotation);
        let (everything, limited) = (cluster.clone(), cluster);
        let forwarded = async {
            let Some(listener) = self.forward else { return std::future::pending().await };
            serve_http(listener, move |request| {
                let question = question(request, &at_port);
                let cluster = everything.clone();
                async move {
                    marked(match question {
                        Ok(question) => cluster.ask(&question, &Sight::All).await,
                        Err(refusal) => refused(&refusal),
                    })
                }
                .boxed()
            })
            .await;
        };
        let by_token = async {
            let Some((listener, tenants)) = self.status else { return std::future::pending().await };
            let incoming = accept(listener, certificate, refusals.clone(), Speaks::Http1)?;
            let gate = Arc::new(Gate { tenants, cluster: limited, room: Semaphore::new(TENANTS_AT_ONCE) });
            serve_http(Accepted::new(incoming), move |request| {
                let question = question(request, &at_service).map_err(|refusal| match refusal {
                    // Who that is, is none of everybody's business.
                    Refusal::NotLeading(_) => {
                        Refusal::NotLeading("this replica does not lead; ask again".to_owned())
                    }
                    other => other,
                });
                let token = request.headers().get(TOKEN_HEADER).and_then(|token| token.to_str().ok());
                let (token, gate, refusals) = (token.map(str::to_owned), gate.clone(), refusals.clone());
                async move {
                    let answer = match question {
                        Ok(question) => gate.answer(&question, token.as_deref()).await,
                        Err(refusal) => Err(refusal),
                    };
                    marked(answer.unwrap_or_else(|refusal| {
                        count(&refusals, &refusal);
                        refused(&refusal)
                    }))
                }
                .boxed()
            })
            .await;
            anyhow::Ok(())
        };
        tokio::select! {
            () = forwarded => Ok(()),
            served = by_token => served,
        }
    }
}

/// Between tenants and the cluster.
struct Gate {
    tenants: Tenants,
    cluster: Arc<Cluster>,
    room: Semaphore,
}

impl Gate {
    async fn answer(&self, question: &str, token: Option<&str>) -> Result<Answer, Refusal> {
        let token = token.filter(|token| !token.is_empty()).ok_or(Refusal::NoToken)?;
        let seer: Arc<Seer> = self.tenants.seer(token).await?;
        if matches!(&seer.sight, Sight::Only(namespaces) if namespaces.is_empty()) {
            return Err(Refusal::Blind(seer.name.clone()));
        }
        let _place = self.room.try_acquire().map_err(|_| Refusal::Busy)?;
        Ok(self.cluster.ask(question, &seer.sight).await)
    }
}

/// What is asked of the agents, if this replica can ask them.
fn question(request: &Request<Incoming>, rotation: &Rotation) -> Result<String, Refusal> {
    let target = request.uri().path_and_query().map_or("", PathAndQuery::as_str);
    match target.strip_prefix(CLUSTER) {
        Some(question) if request.method() == Method::GET => match rotation.elsewhere() {
            Some(elsewhere) => Err(Refusal::NotLeading(elsewhere)),
            None => Ok(format!("/v1/{question}")),
        },
        _ => Err(Refusal::Nothing),
    }
}

fn refused(refusal: &Refusal) -> Answer {
    text(refusal.status(), "text/plain", format!("{refusal}\n"))
}

fn count(refusals: &Refusals, refusal: &Refusal) {
    let Some(reason) = refusal.reason() else { return };
    if let Some(left_out) = refusals.count(reason) {
        tracing::warn!(reason = reason.label(), error = %refusal, left_out, "a question about the cluster is refused");
    }
}

/// So that it is told from an answer of the API server in between.
fn marked(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(VERSION_HEADER, HeaderValue::from_static(env!("CARGO_PKG_VERSION")));
    // One request a connection: the server ends old ones, and that would be in the middle of another.
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}
