//! The controller's end of the stream that each agent keeps to it: what nodes hold, what they are told.

mod ask;
mod registry;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use lark_core::explain::CaRefusal;
use lark_core::rotation::{NodeFacts, Report, RootId, State};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::metadata::MetadataValue;
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::authority::Trust;
use crate::members::{Authenticator, Caller, TokenRefused};
use crate::protocol::node::{
    Answered, Ask, Credential, FAILING_MAX, FOLLOW, FromNode, Held, NODES, PART_MAX, Said, ToNode, Told,
    Trust as Message, WHY_MAX,
};
use crate::protocol::{LEADER, ROOTS_MAX};
use crate::refusals::Refusals;
use crate::service::{bearer, refused_token};
pub use ask::AskError;
use ask::{Asking, Desk};
pub use registry::NodeState;
use registry::Registry;

/// Largest message from an agent, in bytes: a part of an answer, and what is around it.
const MESSAGE_MAX: usize = PART_MAX + 1024;
/// A stream on which nothing is said for this long has no agent at its end any more.
const QUIET: Duration = Duration::from_secs(30);
/// Characters of an agent's version.
const VERSION_MAX: usize = 64;
/// Least time between two reports that are answered: what comes faster waits.
const PACE: Duration = Duration::from_millis(10);
/// The same for parts of answers, which were asked for.
const PART_PACE: Duration = Duration::from_millis(1);

/// Whether this controller keeps the streams of nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Serves {
    /// It does: it leads, or there is no other.
    Leads,
    /// Another one does, at this address as far as it is known.
    Elsewhere(Option<SocketAddr>),
    /// It stops.
    Stops,
}

/// What a node says makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the report is not usable: {0}")]
struct ReportError(&'static str);

struct Inner {
    authenticator: Arc<dyn Authenticator>,
    registry: Registry,
    desk: Desk,
    trust: watch::Sender<Arc<Trust>>,
    serves: watch::Sender<Serves>,
    refusals: Refusals,
}

/// The service, to be served by tonic. Cheap to clone.
#[derive(Clone)]
pub struct Nodes(Arc<Inner>);

impl std::fmt::Debug for Nodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Nodes").field(&self.0.registry).finish()
    }
}

impl Nodes {
    /// A service that tells `trust`.
    pub fn new(authenticator: Arc<dyn Authenticator>, trust: Trust, refusals: Refusals) -> Self {
        Self(Arc::new(Inner {
            authenticator,
            registry: Registry::new(Instant::now()),
            desk: Desk::default(),
            trust: watch::Sender::new(Arc::new(trust)),
            serves: watch::Sender::new(Serves::Leads),
            refusals,
        }))
    }

    /// Tells all nodes what to trust from now on.
    pub fn tell(&self, trust: Trust) {
        self.0.trust.send_if_modified(|now| {
            let changed = **now != trust;
            if changed {
                *now = Arc::new(trust);
            }
            changed
        });
    }

    /// Ends all streams, so that the server can stop. New ones end at once.
    pub fn close(&self) {
        self.0.serves.send_replace(Serves::Stops);
    }

    /// Whether it keeps streams from now on. Who begins to knows nothing yet of any node: what it heard when it led
    /// before is not true any more.
    pub fn serve(&self, serves: Serves) {
        let stopped = *self.0.serves.borrow() == Serves::Stops;
        if stopped || *self.0.serves.borrow() == serves {
            return;
        }
        if serves == Serves::Leads {
            self.0.registry.begin(Instant::now());
        }
        self.0.serves.send_replace(serves);
    }

    /// What is known of these nodes.
    pub fn facts<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Vec<NodeFacts> {
        self.0.registry.facts(names, Instant::now())
    }

    /// A node's agent that was heard last, for people.
    pub fn state(&self, name: &str) -> Option<NodeState> {
        self.0.registry.state(name, Instant::now())
    }

    /// Pods that are to be captured and are not, as their nodes' agents say: node, UID and reason. Whether such a pod is on
    /// that node is for whoever asks to know.
    pub fn failing(&self) -> Vec<(Arc<str>, String, String)> {
        self.0.registry.failing(Instant::now())
    }

    /// Asks the agent of a node that began to follow last: a GET of its admin API. Returns the body of its
    /// answer. May be cancelled.
    ///
    /// # Errors
    /// When it does not follow, does not answer in time, answers too much, or has no answer.
    pub async fn ask(&self, node: &str, path: &str) -> Result<Vec<u8>, AskError> {
        self.0.desk.ask(node, path).await
    }

    /// Whether a node may have certificates now.
    pub fn may_have(&self, state: &State, name: &str) -> bool {
        self.0.registry.may_have(state, name, Instant::now())
    }

    async fn follow(&self, request: Request<Streaming<FromNode>>) -> Result<Response<Answers>, Status> {
        let peer = request.remote_addr().map(|a| a.to_string()).unwrap_or_default();
        if let Some(elsewhere) = elsewhere(&self.0.serves.borrow()) {
            return Err(elsewhere);
        }
        let caller = match bearer(request.metadata()) {
            Some(token) => self.0.authenticator.authenticate(token, SystemTime::now()).await,
            None => Err(TokenRefused::Unknown),
        };
        match caller {
            Ok(caller) => {
                let (answers, stream) = mpsc::channel(4);
                let session = Session { nodes: self.clone(), caller, answers, peer };
                tokio::spawn(session.run(request.into_inner()));
                Ok(Response::new(ReceiverStream::new(stream)))
            }
            Err(error) => Err(refused_token(&self.0.refusals, &error, &peer, "stream refused")),
        }
    }
}

type Answers = ReceiverStream<Result<ToNode, Status>>;

/// One agent's stream.
struct Session {
    nodes: Nodes,
    caller: Caller,
    answers: mpsc::Sender<Result<ToNode, Status>>,
    peer: String,
}

impl Session {
    async fn run(mut self, mut incoming: Streaming<FromNode>) {
        tracing::info!(node = %self.caller.node, peer = self.peer, "a node follows");
        let mut trust = self.nodes.0.trust.subscribe();
        let mut serves = self.nodes.0.serves.subscribe();
        serves.mark_changed();
        let mut instance = None;
        let (place, mut wanted) = self.nodes.0.desk.place(&self.caller.node);
        let mut asking = self.nodes.0.desk.asking();
        let mut heard = tokio::time::Instant::now();
        let over = loop {
            tokio::select! {
                message = tokio::time::timeout_at(heard + QUIET, incoming.message()) => match message {
                    Ok(Ok(Some(message))) => {
                        heard = tokio::time::Instant::now();
                        let pace = match &message.said {
                            Some(Said::Answered(_)) => PART_PACE,
                            _ => PACE,
                        };
                        if let Err(status) = self.heard(message, &mut instance, &mut asking).await {
                            break Some(status);
                        }
                        tokio::time::sleep(pace).await;
                    }
                    Ok(Ok(None)) => break None,
                    Ok(Err(status)) => {
                        tracing::debug!(node = %self.caller.node, %status, "the stream of a node broke off");
                        break None;
                    }
                    Err(_) => break Some(Status::deadline_exceeded("nothing was said")),
                },
                changed = trust.changed() => {
                    if changed.is_err() || self.answer(self.trust()).await.is_err() {
                        break None;
                    }
                }
                Some(wanted) = wanted.recv() => {
                    if let Some(ask) = asking.ask(wanted)
                        && self.answer(ToNode { told: Some(Told::Ask(ask)) }).await.is_err()
                    {
                        break None;
                    }
                }
                _ = serves.changed() => {
                    if let Some(elsewhere) = elsewhere(&serves.borrow_and_update()) {
                        break Some(elsewhere);
                    }
                }
            }
        };
        drop(place);
        if let Some(status) = over {
            let _ = self.answers.try_send(Err(status));
        }
        if let Some(number) = instance {
            self.nodes.0.registry.left(&self.caller.node, number);
        }
        tracing::info!(node = %self.caller.node, peer = self.peer, "a node does not follow any more");
    }

    /// Takes in what an agent says, and answers. The end of its membership ends the stream.
    async fn heard(
        &mut self,
        message: FromNode,
        seen: &mut Option<u64>,
        asking: &mut Asking,
    ) -> Result<(), Status> {
        let inner = self.nodes.0.clone();
        if !inner.authenticator.is_member(&self.caller) {
            let error = self.caller.left();
            return Err(refused_token(&inner.refusals, &error, &self.peer, "stream ended"));
        }
        // A kind that this controller does not know is of a newer agent.
        let held = match message.said {
            Some(Said::Answered(part)) => {
                asking.answered(part);
                return Ok(());
            }
            Some(Said::Held(held)) => Some(held),
            None => None,
        };
        if let Some(held) = held {
            let (instance, version) = (held.instance, held.version.chars().take(VERSION_MAX).collect());
            let failing = held.failing.iter().take(FAILING_MAX).map(|failing| {
                let part = |text: &str| text.chars().take(WHY_MAX).filter(|c| !c.is_control()).collect();
                (part(&failing.pod), part(&failing.why))
            });
            inner.registry.fails(&self.caller.node, failing.collect());
            let report = report(held).map_err(|error| {
                let reason = CaRefusal::ReportUnusable;
                if let Some(left_out) = inner.refusals.count(reason) {
                    tracing::warn!(reason = reason.label(), node = %self.caller.node, peer = self.peer, %error, left_out, "stream ended");
                }
                Status::invalid_argument(error.to_string())
            })?;
            *seen = Some(instance);
            inner.registry.heard(&self.caller.node, instance, report, version, Instant::now());
        }
        self.answer(self.trust()).await?;
        if self.caller.due {
            match inner.authenticator.credential(&self.caller.node, SystemTime::now()) {
                Ok(Some(made)) => {
                    self.caller.due = false;
                    tracing::info!(node = %self.caller.node, "a node gets a credential");
                    let expires = unix(made.expires);
                    let told = Told::Credential(Credential { token: made.token.to_string(), expires });
                    self.answer(ToNode { told: Some(told) }).await?;
                }
                Ok(None) => {}
                Err(error) => tracing::error!(node = %self.caller.node, %error, "a node gets no credential"),
            }
        }
        Ok(())
    }

    /// An agent that does not read does not hold us up.
    async fn answer(&self, answer: ToNode) -> Result<(), Status> {
        let sent = self.answers.send_timeout(Ok(answer), QUIET).await;
        sent.map_err(|_| Status::cancelled("answers are not read"))
    }

    fn trust(&self) -> ToNode {
        let trust = self.nodes.0.trust.borrow().clone();
        let told = Told::Trust(Message {
            epoch: trust.epoch,
            roots: trust.roots.iter().map(|root| root.to_vec()).collect(),
            issuer: trust.issuer.as_bytes().to_vec(),
            now: unix(SystemTime::now()),
        });
        ToNode { told: Some(told) }
    }
}

/// What whoever opens a stream is told, if it is not kept here.
fn elsewhere(serves: &Serves) -> Option<Status> {
    match serves {
        Serves::Leads => None,
        Serves::Stops => Some(Status::unavailable("the controller stops")),
        Serves::Elsewhere(at) => {
            let mut status = Status::failed_precondition("another replica of the controller leads");
            let at = at.and_then(|at| MetadataValue::try_from(at.to_string()).ok());
            if let Some(at) = at {
                status.metadata_mut().insert(LEADER, at);
            }
            Some(status)
        }
    }
}

pub(crate) fn unix(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    i64::try_from(since).unwrap_or(i64::MAX)
}

fn report(held: Held) -> Result<Report, ReportError> {
    let ids = |all: Vec<Vec<u8>>| {
        if all.len() > ROOTS_MAX {
            return Err(ReportError("it names more roots than there can be"));
        }
        let id = |bytes: Vec<u8>| bytes.try_into().map(RootId::new);
        let ids: Result<Vec<RootId>, _> = all.into_iter().map(id).collect();
        ids.map_err(|_| ReportError("a root's name has not 32 bytes"))
    };
    Ok(Report { epoch: held.epoch, roots: ids(held.roots)?, svids: ids(held.svids)?, asking: held.asking })
}

impl NamedService for Nodes {
    const NAME: &'static str = NODES;
}

struct Follow(Nodes);

impl tower::Service<Request<Streaming<FromNode>>> for Follow {
    type Response = Response<Answers>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answers>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Streaming<FromNode>>) -> Self::Future {
        let nodes = self.0.clone();
        Box::pin(async move { nodes.follow(request).await })
    }
}

impl tower::Service<http::Request<Body>> for Nodes {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let follow = Follow(self.clone());
        Box::pin(async move {
            if request.uri().path() != FOLLOW {
                return Ok(Status::unimplemented("only Follow is served").into_http());
            }
            let codec = ProstCodec::<ToNode, FromNode>::default();
            let mut grpc = Grpc::new(codec).max_decoding_message_size(MESSAGE_MAX);
            Ok(grpc.streaming(follow, request).await)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::{Authenticated, Membership};

    /// Nobody is a member any more.
    struct Nobody;

    impl Authenticator for Nobody {
        fn authenticate<'a>(&'a self, _: &'a str, _: SystemTime) -> Authenticated<'a> {
            Box::pin(std::future::ready(Err(TokenRefused::Unknown)))
        }

        fn is_member(&self, _: &Caller) -> bool {
            false
        }
    }

    #[tokio::test]
    async fn the_end_of_a_membership_is_said_by_what_it_was() {
        let refusals = Refusals::default();
        let trust = Trust { epoch: 0, roots: Vec::new(), issuer: RootId::new([1; 32]) };
        let nodes = Nodes::new(Arc::new(Nobody), trust, refusals.clone());
        let ended = async |membership| {
            let caller = Caller { node: "one".into(), due: false, membership };
            let (answers, _stream) = mpsc::channel(4);
            let mut session = Session { nodes: nodes.clone(), caller, answers, peer: String::new() };
            session.heard(FromNode { said: None }, &mut None, &mut nodes.0.desk.asking()).await.unwrap_err()
        };
        let pod = ended(Membership::Pod("uid".into())).await;
        assert_eq!(
            pod.message(),
            "the token's pod is not known on node one: it is gone, or discovery lags behind"
        );
        assert!(ended(Membership::Line([0; 32])).await.message().contains("join tokens"));
        let counted: Vec<_> = refusals.counts().into_iter().collect();
        assert_eq!(counted, [(CaRefusal::Unauthenticated, 1), (CaRefusal::TokenPodUnknown, 1)]);
    }
}
