//! The CA API's accepting end: who asks, and may he have it?

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use lark_core::constants::SVID_LIFE;
use lark_core::explain::CaRefusal;
use lark_core::identity::SpiffeId;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::ca::{Ca, SignError};
use crate::protocol::{
    CREATE_CERTIFICATE, IstioCertificateRequest, IstioCertificateResponse, MESSAGE_MAX, SERVICE,
};

/// Characters of a refusal's sentence that are sent and logged.
const SENTENCE_MAX: usize = 600;
/// Characters of an identity that was asked for, in the log.
const IDENTITY_SHOWN: usize = 300;

/// Says which node a bearer token belongs to.
pub trait Authenticator: Send + Sync + 'static {
    /// The node, or nothing if the token is nobody's.
    fn node(&self, token: &str) -> Option<Arc<str>>;
}

/// Says where workloads run.
pub trait Placement: Send + Sync + 'static {
    /// Whether a workload of that identity runs on that node now.
    fn runs(&self, node: &str, identity: &SpiffeId) -> bool;
}

impl Authenticator for crate::token::JoinTokens {
    fn node(&self, token: &str) -> Option<Arc<str>> {
        Self::node(self, token)
    }
}

impl Authenticator for Arc<crate::token::TokenFile> {
    fn node(&self, token: &str) -> Option<Arc<str>> {
        self.tokens().node(token)
    }
}

/// Why nothing is issued; also the label of a counter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// No token, or nobody's.
    #[error("the token is missing or no node's; see the controller's file of join tokens")]
    Unauthenticated,
    /// No identity was named.
    #[error("the request names no ImpersonatedIdentity")]
    NoIdentity,
    /// The name is no identity.
    #[error("{0}")]
    BadIdentity(lark_core::identity::IdentityError),
    /// No such workload on that node.
    #[error("no workload of {identity} runs on node {node}; an agent gets identities of its own node only")]
    NotPlaced {
        /// The asking node.
        node: Arc<str>,
        /// What it asked for.
        identity: SpiffeId,
    },
    /// The CSR is not acceptable.
    #[error(transparent)]
    Csr(#[from] SignError),
}

impl IssueError {
    /// The reason, from a closed set that `lark explain` knows.
    pub const fn reason(&self) -> CaRefusal {
        match self {
            Self::Unauthenticated => CaRefusal::Unauthenticated,
            Self::NoIdentity => CaRefusal::NoImpersonatedIdentity,
            Self::BadIdentity(_) => CaRefusal::BadIdentity,
            Self::NotPlaced { .. } => CaRefusal::NotPlaced,
            Self::Csr(SignError::TooLarge(_)) => CaRefusal::CsrTooLarge,
            Self::Csr(SignError::Csr(_)) => CaRefusal::CsrUnusable,
            Self::Csr(SignError::KeyKind) => CaRefusal::CsrKeyKind,
            Self::Csr(SignError::Expired { .. }) => CaRefusal::CaExpired,
            Self::Csr(SignError::Sign(_)) => CaRefusal::SigningFailed,
        }
    }

    /// The reason in one word, for counters and logs.
    pub const fn label(&self) -> &'static str {
        self.reason().label()
    }

    fn code(&self) -> Code {
        match self {
            Self::Unauthenticated => Code::Unauthenticated,
            Self::NotPlaced { .. } => Code::PermissionDenied,
            Self::Csr(SignError::Sign(_)) => Code::Internal,
            Self::Csr(SignError::Expired { .. }) => Code::FailedPrecondition,
            Self::NoIdentity | Self::BadIdentity(_) | Self::Csr(_) => Code::InvalidArgument,
        }
    }
}

struct Inner {
    ca: Arc<Ca>,
    authenticator: Box<dyn Authenticator>,
    placement: Box<dyn Placement>,
    issued: AtomicU64,
    refused: Mutex<BTreeMap<&'static str, u64>>,
}

/// What was asked, as far as it is known when it is refused.
#[derive(Default)]
struct Asked {
    node: Option<Arc<str>>,
    identity: Option<String>,
}

/// The service, to be served by tonic.
#[derive(Clone)]
pub struct CaService(Arc<Inner>);

impl std::fmt::Debug for CaService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("CaService").field(&self.0.ca).finish()
    }
}

impl CaService {
    /// A service that issues from `ca`.
    pub fn new(ca: Arc<Ca>, authenticator: impl Authenticator, placement: impl Placement) -> Self {
        Self(Arc::new(Inner {
            ca,
            authenticator: Box::new(authenticator),
            placement: Box::new(placement),
            issued: AtomicU64::new(0),
            refused: Mutex::default(),
        }))
    }

    /// The CA.
    pub fn ca(&self) -> &Ca {
        &self.0.ca
    }

    /// Certificates issued so far.
    pub fn issued(&self) -> u64 {
        self.0.issued.load(Ordering::Relaxed)
    }

    /// Requests refused so far, by [`IssueError::label`].
    pub fn refused(&self) -> BTreeMap<&'static str, u64> {
        self.0.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn issue(
        &self,
        request: &Request<IstioCertificateRequest>,
        asked: &mut Asked,
    ) -> Result<Vec<String>, IssueError> {
        let message = request.get_ref();
        asked.identity = message.identity().map(|identity| clip(identity, IDENTITY_SHOWN));
        let token = request
            .metadata()
            .get("authorization")
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.strip_prefix("Bearer "))
            .ok_or(IssueError::Unauthenticated)?;
        let node = self.0.authenticator.node(token).ok_or(IssueError::Unauthenticated)?;
        asked.node = Some(node.clone());
        let identity: SpiffeId =
            message.identity().ok_or(IssueError::NoIdentity)?.parse().map_err(IssueError::BadIdentity)?;
        if !self.0.placement.runs(&node, &identity) {
            return Err(IssueError::NotPlaced { node, identity });
        }
        let wanted = u64::try_from(message.validity_duration).unwrap_or(0);
        let life = if wanted == 0 { SVID_LIFE } else { Duration::from_secs(wanted) };
        let chain = self.0.ca.sign(&message.csr, &identity, life, SystemTime::now())?;
        tracing::info!(%node, %identity, "certificate issued");
        Ok(chain)
    }

    fn answer(
        &self,
        request: &Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let mut asked = Asked::default();
        match self.issue(request, &mut asked) {
            Ok(cert_chain) => {
                self.0.issued.fetch_add(1, Ordering::Relaxed);
                Ok(Response::new(IstioCertificateResponse { cert_chain }))
            }
            Err(error) => {
                let reason = error.label();
                *self.0.refused.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() +=
                    1;
                let peer = request.remote_addr().map(|a| a.to_string()).unwrap_or_default();
                let sentence = clip(&error.to_string(), SENTENCE_MAX);
                tracing::warn!(
                    reason,
                    peer,
                    node = asked.node.as_deref().unwrap_or("unknown"),
                    identity = asked.identity.as_deref().unwrap_or("none"),
                    error = sentence,
                    "certificate refused"
                );
                Err(Status::new(error.code(), sentence))
            }
        }
    }
}

/// The beginning of a text that somebody else chose: it goes into a log line and a header.
fn clip(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

impl NamedService for CaService {
    const NAME: &'static str = SERVICE;
}

struct Create(CaService);

impl UnaryService<IstioCertificateRequest> for Create {
    type Response = IstioCertificateResponse;
    type Future = std::future::Ready<Result<Response<Self::Response>, Status>>;

    fn call(&mut self, request: Request<IstioCertificateRequest>) -> Self::Future {
        std::future::ready(self.0.answer(&request))
    }
}

impl tower::Service<http::Request<Body>> for CaService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let create = Create(self.clone());
        Box::pin(async move {
            if request.uri().path() != CREATE_CERTIFICATE {
                return Ok(Status::unimplemented("only CreateCertificate is served").into_http());
            }
            let codec = ProstCodec::<IstioCertificateResponse, IstioCertificateRequest>::default();
            let mut grpc = Grpc::new(codec)
                .max_decoding_message_size(MESSAGE_MAX)
                .max_encoding_message_size(MESSAGE_MAX);
            Ok(grpc.unary(create, request).await)
        })
    }
}
