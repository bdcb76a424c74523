//! The CA API's accepting end: who asks, and may he have it?

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use lark_core::constants::{CA_BURST, CA_PER_SECOND, SVID_LIFE};
use lark_core::explain::CaRefusal;
use lark_core::identity::SpiffeId;
use lark_core::rate::Allowance;
use lark_core::rotation::{Report, State, may_have};
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::authority::Authority;
use crate::ca::SignError;
use crate::members::{Authenticator, TokenRefused};
use crate::nodes::Nodes;
use crate::protocol::{
    CREATE_CERTIFICATE, HELD, IstioCertificateRequest, IstioCertificateResponse, MESSAGE_MAX, SERVICE,
    read_held,
};
use crate::refusals::Refusals;
use crate::roots::TakenUp;

/// Characters of a refusal's sentence that are sent and logged.
const SENTENCE_MAX: usize = 600;
/// Characters of an identity that was asked for, in the log.
const IDENTITY_SHOWN: usize = 300;

/// Says where workloads run.
pub trait Placement: Send + Sync + 'static {
    /// Whether a workload of that identity runs on that node now.
    fn runs(&self, node: &str, identity: &SpiffeId) -> bool;
}

/// Why nothing is issued; also the label of a counter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The token is not accepted.
    #[error(transparent)]
    Token(#[from] TokenRefused),
    /// The node asks too often.
    #[error(
        "node {node} asks for more than {CA_BURST} certificates at once and {CA_PER_SECOND} a second; it is slowed down"
    )]
    RateLimited {
        /// The asking node.
        node: Arc<str>,
    },
    /// The node may not know the roots of a rotation.
    #[error(
        "a root rotation is under way ({phase}), and node {node} has not yet said that it holds its roots"
    )]
    BundleBehind {
        /// The asking node.
        node: Arc<str>,
        /// The phase.
        phase: &'static str,
    },
    /// This replica lags behind.
    #[error("this replica of the controller is behind ({what}); another one may answer")]
    Behind {
        /// Behind what.
        what: &'static str,
    },
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
            Self::Token(error) => token_reason(error),
            Self::RateLimited { .. } => CaRefusal::RateLimited,
            Self::BundleBehind { .. } => CaRefusal::BundleBehind,
            Self::Behind { .. } => CaRefusal::StateBehind,
            Self::NoIdentity => CaRefusal::NoImpersonatedIdentity,
            Self::BadIdentity(_) => CaRefusal::BadIdentity,
            Self::NotPlaced { .. } => CaRefusal::NotPlaced,
            Self::Csr(SignError::TooLarge(_)) => CaRefusal::CsrTooLarge,
            Self::Csr(SignError::Csr(_)) => CaRefusal::CsrUnusable,
            Self::Csr(SignError::KeyKind) => CaRefusal::CsrKeyKind,
            Self::Csr(SignError::Names(_)) => CaRefusal::CsrNames,
            Self::Csr(SignError::NoIssuer(_)) => CaRefusal::NoIssuer,
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
            Self::Token(error) => token_code(error),
            Self::RateLimited { .. } => Code::ResourceExhausted,
            Self::NotPlaced { .. } => Code::PermissionDenied,
            Self::Csr(SignError::Sign(_)) => Code::Internal,
            Self::Behind { .. }
            | Self::BundleBehind { .. }
            | Self::Csr(SignError::Expired { .. } | SignError::NoIssuer(_)) => Code::FailedPrecondition,
            Self::NoIdentity | Self::BadIdentity(_) | Self::Csr(_) => Code::InvalidArgument,
        }
    }
}

const fn token_reason(error: &TokenRefused) -> CaRefusal {
    match error {
        TokenRefused::Unknown => CaRefusal::Unauthenticated,
        TokenRefused::Expired => CaRefusal::TokenExpired,
        TokenRefused::Used => CaRefusal::TokenUsed,
        TokenRefused::Reviewed(_) => CaRefusal::TokenReviewed,
        TokenRefused::NoAgent(_) => CaRefusal::TokenOfOther,
        TokenRefused::NotBound => CaRefusal::TokenNotBound,
        TokenRefused::PodUnknown { .. } => CaRefusal::TokenPodUnknown,
        TokenRefused::NotReviewed(_) => CaRefusal::TokenNotReviewed,
    }
}

const fn token_code(error: &TokenRefused) -> Code {
    match error {
        TokenRefused::NotReviewed(_) => Code::Unavailable,
        _ => Code::Unauthenticated,
    }
}

/// The bearer token of a request.
pub(crate) fn bearer(metadata: &tonic::metadata::MetadataMap) -> Option<&str> {
    metadata.get("authorization")?.to_str().ok()?.strip_prefix("Bearer ")
}

/// Counts and says that a token was refused, and makes the answer.
pub(crate) fn refused_token(refusals: &Refusals, error: &TokenRefused, peer: &str, what: &str) -> Status {
    let reason = token_reason(error);
    let sentence = clip(&error.to_string(), SENTENCE_MAX);
    if let Some(left_out) = refusals.count(reason) {
        tracing::warn!(reason = reason.label(), peer, error = sentence, left_out, "{what}");
    }
    Status::new(token_code(error), sentence)
}

struct Inner {
    authority: Arc<Authority>,
    authenticator: Arc<dyn Authenticator>,
    nodes: Nodes,
    placement: Box<dyn Placement>,
    began: Instant,
    /// Only nodes that proved themselves get in.
    allowances: Mutex<HashMap<Arc<str>, Allowance>>,
    issued: AtomicU64,
    refusals: Refusals,
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
        f.debug_tuple("CaService").field(&self.0.authority).finish()
    }
}

impl CaService {
    /// A service that issues from `authority` what nodes may have.
    pub fn new(
        authority: Arc<Authority>,
        authenticator: Arc<dyn Authenticator>,
        nodes: Nodes,
        placement: impl Placement,
        refusals: Refusals,
    ) -> Self {
        Self(Arc::new(Inner {
            authority,
            authenticator,
            nodes,
            placement: Box::new(placement),
            began: Instant::now(),
            allowances: Mutex::default(),
            issued: AtomicU64::new(0),
            refusals,
        }))
    }

    /// Certificates issued so far.
    pub fn issued(&self) -> u64 {
        self.0.issued.load(Ordering::Relaxed)
    }

    /// Requests refused so far, by reason.
    pub fn refused(&self) -> BTreeMap<&'static str, u64> {
        self.0.refusals.counts().into_iter().map(|(reason, count)| (reason.label(), count)).collect()
    }

    fn within_rate(&self, node: &Arc<str>) -> bool {
        let now = self.0.began.elapsed();
        let mut all = self.0.allowances.lock().unwrap_or_else(PoisonError::into_inner);
        let allowance = all.entry(node.clone()).or_insert_with(|| Allowance::full(CA_BURST, now));
        allowance.take(CA_BURST, CA_PER_SECOND, now)
    }

    async fn issue(
        &self,
        request: &Request<IstioCertificateRequest>,
        asked: &mut Asked,
    ) -> Result<Vec<String>, IssueError> {
        let message = request.get_ref();
        asked.identity = message.identity().map(|identity| clip(identity, IDENTITY_SHOWN));
        let now = SystemTime::now();
        let token = bearer(request.metadata()).ok_or(TokenRefused::Unknown)?;
        let node = self.0.authenticator.authenticate(token, now).await?.node;
        asked.node = Some(node.clone());
        // Before anything that costs more than knowing who asks.
        if !self.within_rate(&node) {
            return Err(IssueError::RateLimited { node });
        }
        let identity: SpiffeId =
            message.identity().ok_or(IssueError::NoIdentity)?.parse().map_err(IssueError::BadIdentity)?;
        if !self.0.placement.runs(&node, &identity) {
            return Err(IssueError::NotPlaced { node, identity });
        }
        // The issuer and whether the node may have its certificates belong to one state, which counts until it signs.
        if !self.0.authority.is_current() {
            return Err(IssueError::Behind { what: "it could not read the CA's state from the cluster" });
        }
        let state = self.0.authority.state();
        self.may_have(request, &state, &node)?;
        let ca = self.0.authority.ca(state.plan().issuer);
        let ca = ca.ok_or(SignError::NoIssuer(state.plan().issuer))?;
        let wanted = u64::try_from(message.validity_duration).unwrap_or(0);
        let life = if wanted == 0 { SVID_LIFE } else { Duration::from_secs(wanted) };
        let chain = ca.sign(&message.csr, &identity, life, now)?;
        tracing::info!(%node, %identity, "certificate issued");
        Ok(chain)
    }

    /// Whether the node may have certificates in this state: by what its agent says with the request, or, if that says
    /// nothing, by what it said on its stream.
    fn may_have(
        &self,
        request: &Request<IstioCertificateRequest>,
        state: &State,
        node: &Arc<str>,
    ) -> Result<(), IssueError> {
        let held = request.metadata().get(HELD).and_then(|held| read_held(held.to_str().ok()?));
        let may = match held {
            Some(held) if held.epoch > state.epoch => {
                return Err(IssueError::Behind { what: "the agent was told of a later phase of a rotation" });
            }
            Some(TakenUp { epoch, roots }) => {
                may_have(state, Some(&Report { epoch, roots, svids: Vec::new(), asking: true }))
            }
            None => self.0.nodes.may_have(state, node),
        };
        if may {
            return Ok(());
        }
        Err(IssueError::BundleBehind { node: node.clone(), phase: state.phase.label() })
    }

    async fn answer(
        &self,
        request: &Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let mut asked = Asked::default();
        match self.issue(request, &mut asked).await {
            Ok(cert_chain) => {
                self.0.issued.fetch_add(1, Ordering::Relaxed);
                Ok(Response::new(IstioCertificateResponse { cert_chain }))
            }
            Err(error) => {
                let reason = error.label();
                let peer = request.remote_addr().map(|a| a.to_string()).unwrap_or_default();
                let sentence = clip(&error.to_string(), SENTENCE_MAX);
                if let Some(left_out) = self.0.refusals.count(error.reason()) {
                    tracing::warn!(
                        reason,
                        peer,
                        node = asked.node.as_deref().unwrap_or("unknown"),
                        identity = asked.identity.as_deref().unwrap_or("none"),
                        error = sentence,
                        left_out,
                        "certificate refused"
                    );
                }
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

/// One call, and whether its message could be read.
struct Create(CaService, Arc<AtomicBool>);

impl UnaryService<IstioCertificateRequest> for Create {
    type Response = IstioCertificateResponse;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Self::Response>, Status>> + Send>>;

    fn call(&mut self, request: Request<IstioCertificateRequest>) -> Self::Future {
        self.1.store(true, Ordering::Relaxed);
        let service = self.0.clone();
        Box::pin(async move { service.answer(&request).await })
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
        let read = Arc::new(AtomicBool::new(false));
        let create = Create(self.clone(), read.clone());
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != CREATE_CERTIFICATE {
                return Ok(Status::unimplemented("only CreateCertificate is served").into_http());
            }
            let codec = ProstCodec::<IstioCertificateResponse, IstioCertificateRequest>::default();
            let mut grpc = Grpc::new(codec)
                .max_decoding_message_size(MESSAGE_MAX)
                .max_encoding_message_size(MESSAGE_MAX);
            let answer = grpc.unary(create, request).await;
            if !read.load(Ordering::Relaxed) {
                let reason = CaRefusal::MessageUnusable;
                if let Some(left_out) = service.0.refusals.count(reason) {
                    let error = answer.headers().get("grpc-message").and_then(|m| m.to_str().ok());
                    tracing::warn!(reason = reason.label(), error, left_out, "a request cannot be read");
                }
            }
            Ok(answer)
        })
    }
}
