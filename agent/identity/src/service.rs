//! The CA API's accepting end: who asks, and may he have it?

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use lark_core::constants::SVID_LIFE;
use lark_core::identity::SpiffeId;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::ca::Ca;
use crate::protocol::{
    CREATE_CERTIFICATE, IstioCertificateRequest, IstioCertificateResponse, MESSAGE_MAX, SERVICE,
};

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
    Csr(#[from] crate::ca::SignError),
}

impl IssueError {
    fn code(&self) -> Code {
        match self {
            Self::Unauthenticated => Code::Unauthenticated,
            Self::NotPlaced { .. } => Code::PermissionDenied,
            Self::Csr(crate::ca::SignError::Sign(_)) => Code::Internal,
            Self::NoIdentity | Self::BadIdentity(_) | Self::Csr(_) => Code::InvalidArgument,
        }
    }
}

struct Inner {
    ca: Ca,
    authenticator: Box<dyn Authenticator>,
    placement: Box<dyn Placement>,
    issued: AtomicU64,
    refused: AtomicU64,
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
    pub fn new(ca: Ca, authenticator: impl Authenticator, placement: impl Placement) -> Self {
        Self(Arc::new(Inner {
            ca,
            authenticator: Box::new(authenticator),
            placement: Box::new(placement),
            issued: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }))
    }

    /// The CA.
    pub fn ca(&self) -> &Ca {
        &self.0.ca
    }

    /// Certificates issued and requests refused so far.
    pub fn counts(&self) -> (u64, u64) {
        (self.0.issued.load(Ordering::Relaxed), self.0.refused.load(Ordering::Relaxed))
    }

    fn issue(&self, request: &Request<IstioCertificateRequest>) -> Result<Vec<String>, IssueError> {
        let token = request
            .metadata()
            .get("authorization")
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.strip_prefix("Bearer "))
            .ok_or(IssueError::Unauthenticated)?;
        let node = self.0.authenticator.node(token).ok_or(IssueError::Unauthenticated)?;
        let message = request.get_ref();
        let identity: SpiffeId =
            message.identity().ok_or(IssueError::NoIdentity)?.parse().map_err(IssueError::BadIdentity)?;
        if !self.0.placement.runs(&node, &identity) {
            return Err(IssueError::NotPlaced { node, identity });
        }
        let asked = u64::try_from(message.validity_duration).unwrap_or(0);
        let life = if asked == 0 { SVID_LIFE } else { Duration::from_secs(asked) };
        let chain = self.0.ca.sign(&message.csr, &identity, life, SystemTime::now())?;
        tracing::info!(%node, %identity, "certificate issued");
        Ok(chain)
    }

    fn answer(
        &self,
        request: &Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        match self.issue(request) {
            Ok(cert_chain) => {
                self.0.issued.fetch_add(1, Ordering::Relaxed);
                Ok(Response::new(IstioCertificateResponse { cert_chain }))
            }
            Err(error) => {
                self.0.refused.fetch_add(1, Ordering::Relaxed);
                let peer = request.remote_addr().map(|a| a.to_string()).unwrap_or_default();
                tracing::warn!(%error, peer, "certificate refused");
                Err(Status::new(error.code(), error.to_string()))
            }
        }
    }
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
