//! The agent's end of the stream that it keeps to its controller. What the controller says is to be
//! trusted is kept on disk, then taken up, then reported as held: in this order, so that what the
//! controller counts on is true after a restart too.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lark_core::constants::CLOCK_SKEW;
use lark_core::explain::CaRequest;
use lark_core::identity::schedule::backoff;
use lark_core::rotation::RootId;
use rustls::pki_types::CertificateDer;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

use crate::client::{CaClient, RequestError, leader, roughly};
use crate::protocol::node::{
    Answered, Ask, FAILING_MAX, FOLLOW, Failing, FromNode, Held, PART_MAX, Said, ToNode, Told, Trust, WHY_MAX,
};
use crate::protocol::{MESSAGE_MAX, ROOTS_MAX};
use crate::roots::TakenUp;
use crate::store::{Holdings, SvidStore, chance};
use crate::svid::TrustBundle;

/// How often a report is sent though nothing changed: the controller takes who says nothing for silent.
const EVERY: Duration = Duration::from_secs(5);
/// A controller that does not answer reports for this long is gone.
const QUIET: Duration = Duration::from_secs(20);
/// What changes within this time is reported at once.
const GATHER: Duration = Duration::from_millis(50);
/// How long a stream may take to open.
const OPENING: Duration = Duration::from_secs(10);
/// Longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Pause where the CA has no such stream: it may be replaced by one that has.
const NO_STREAM_PAUSE: Duration = Duration::from_secs(300);

/// Questions of the controller that are answered at once; more are refused.
const ANSWERS_AT_ONCE: usize = 2;

/// What an agent answers to its controller, which asks for people who ask the whole cluster.
pub trait Answers: Send + Sync + 'static {
    /// Status and body of a GET of `path`, as on the agent's admin socket. Called where it may take a while.
    fn answer(&self, path: &str) -> (u16, Vec<u8>);

    /// UIDs of pods of this node that are to be captured and are not, each with the reason. Told with each report.
    fn failing(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}

/// Follows a controller.
pub struct Follower {
    client: CaClient,
    instance: u64,
    version: String,
    /// The last change of phase that was taken up.
    epoch: u64,
    answers: Arc<dyn Answers>,
    answering: Arc<Semaphore>,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower").field("client", &self.client).finish_non_exhaustive()
    }
}

type Opened = (mpsc::Sender<FromNode>, Streaming<ToNode>);

/// Why there is no stream.
enum Refused {
    /// For this reason.
    Here(RequestError),
    /// Another replica leads, there.
    Elsewhere(SocketAddr, RequestError),
}

impl Refused {
    fn error(self) -> RequestError {
        match self {
            Self::Here(error) | Self::Elsewhere(_, error) => error,
        }
    }
}

impl From<RequestError> for Refused {
    fn from(error: RequestError) -> Self {
        Self::Here(error)
    }
}

impl Follower {
    /// One for the controller that `client` asks for certificates.
    pub fn new(client: CaClient, version: &str, answers: Arc<dyn Answers>) -> Self {
        let instance = u64::from(chance()) << 32 | u64::from(chance());
        let answering = Arc::new(Semaphore::new(ANSWERS_AT_ONCE));
        Self { client, instance, version: version.to_owned(), epoch: 0, answers, answering }
    }

    /// Keeps `store`'s roots as the controller says, and says what it holds, for ever. To be dropped at
    /// will.
    pub async fn run(mut self, store: SvidStore) {
        let (mut failures, mut said) = (0, String::new());
        loop {
            let began = Instant::now();
            let error = self.session(&store).await;
            failures += 1;
            if began.elapsed() > QUIET {
                // It had gone well: what ends it is news.
                failures = 1;
                said.clear();
            }
            let sentence = error.to_string();
            let mut pause = backoff(failures, chance()).min(PAUSE_MAX);
            if let RequestError::NoStream { .. } = error {
                pause = NO_STREAM_PAUSE;
                if sentence != said {
                    tracing::info!(
                        url = self.client.url,
                        "this CA tells no roots: the file of roots is followed"
                    );
                }
            } else if sentence != said && error.cause() == CaRequest::StateNotKept {
                tracing::error!(cause = error.cause().label(), %error, "what the controller says is not taken up");
            } else if sentence != said {
                tracing::warn!(cause = error.cause().label(), %error, "the controller is not followed; what is held stays");
            }
            said = sentence;
            tokio::time::sleep(pause).await;
        }
    }

    /// One stream, from its opening to its end.
    async fn session(&mut self, store: &SvidStore) -> RequestError {
        let opening = tokio::time::timeout(OPENING, self.open()).await;
        let (said, mut incoming) = match opening {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return error,
            Err(_) => return self.gone("it gave no answer"),
        };
        let mut changed = store.changed();
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reported: Option<(u64, Holdings)> = None;
        let mut heard = Instant::now();
        loop {
            let send = tokio::select! {
                message = incoming.message() => {
                    heard = Instant::now();
                    match message {
                        Ok(Some(ToNode { told: Some(Told::Ask(ask)) })) => {
                            self.answer(ask, said.clone());
                            false
                        }
                        Ok(Some(message)) => match self.told(store, message) {
                            Ok(()) => reported.as_ref() != Some(&(self.epoch, store.holdings())),
                            Err(error) => return error,
                        },
                        Ok(None) => return self.gone("it ended the stream"),
                        Err(status) => return self.client.explain(&status),
                    }
                }
                result = changed.changed() => {
                    if result.is_err() {
                        return self.gone("this agent stops");
                    }
                    tokio::time::sleep(GATHER).await;
                    changed.mark_unchanged();
                    reported.as_ref() != Some(&(self.epoch, store.holdings()))
                }
                _ = every.tick() => true,
                () = tokio::time::sleep_until(heard + QUIET) => return self.gone("it does not answer"),
            };
            if send {
                let holdings = store.holdings();
                if said.send(self.report(&holdings)).await.is_err() {
                    return self.gone("the stream is closed");
                }
                reported = Some((self.epoch, holdings));
            }
        }
    }

    fn gone(&self, what: &str) -> RequestError {
        RequestError::Unreachable { url: self.client.url.clone(), what: what.to_owned() }
    }

    /// Opens a stream to the replica that leads. Whichever is asked says which one that is.
    async fn open(&self) -> Result<Opened, RequestError> {
        match self.open_at(None).await {
            Err(Refused::Elsewhere(leader, _)) => self.open_at(Some(leader)).await.map_err(Refused::error),
            opened => opened.map_err(Refused::error),
        }
    }

    async fn open_at(&self, replica: Option<SocketAddr>) -> Result<Opened, Refused> {
        let client = &self.client;
        let mut grpc = Grpc::new(client.connect_to(replica).await?).max_decoding_message_size(MESSAGE_MAX);
        let mut refused = client.no_token();
        for shown in client.shown()? {
            client.ready(&mut grpc).await?;
            let (said, outgoing) = mpsc::channel(4);
            let request = client.authorised(ReceiverStream::new(outgoing), &shown)?;
            let codec = ProstCodec::<FromNode, ToNode>::default();
            match grpc.streaming(request, PathAndQuery::from_static(FOLLOW), codec).await {
                Ok(answer) => return Ok((said, answer.into_inner())),
                Err(status) => match (client.explain(&status), leader(&status)) {
                    (error, Some(leader)) => return Err(Refused::Elsewhere(leader, error)),
                    (error @ RequestError::Unauthenticated { .. }, _) => refused = error,
                    (error, None) => return Err(error.into()),
                },
            }
        }
        Err(refused.into())
    }

    /// Answers in a task of its own: what is to be trusted does not wait for a large answer. It has its place until
    /// the last part is taken, so a controller that asks and does not read is owed no more than that.
    fn answer(&self, ask: Ask, said: mpsc::Sender<FromNode>) {
        let Ask { number, path } = ask;
        let part = move |status: u16, part: Vec<u8>, last| {
            let answered = Answered { number, status: status.into(), part, last };
            FromNode { said: Some(Said::Answered(answered)) }
        };
        let Ok(place) = self.answering.clone().try_acquire_owned() else {
            let busy = b"other questions are being answered; ask again".to_vec();
            // Should there be no room for this either, the question's time runs out.
            let _ = said.try_send(part(503, busy, true));
            return;
        };
        let answers = self.answers.clone();
        tokio::spawn(async move {
            let _place = place;
            let (status, body) = tokio::task::spawn_blocking(move || answers.answer(&path))
                .await
                .unwrap_or_else(|error| (500, error.to_string().into_bytes()));
            let mut parts = body.chunks(PART_MAX).peekable();
            loop {
                let bytes = parts.next().unwrap_or_default().to_vec();
                let last = parts.peek().is_none();
                if said.send(part(status, bytes, last)).await.is_err() || last {
                    return;
                }
            }
        });
    }

    fn report(&self, holdings: &Holdings) -> FromNode {
        let names = |ids: &[RootId]| ids.iter().map(|id| id.as_bytes().to_vec()).collect();
        let held = Held {
            instance: self.instance,
            epoch: self.epoch,
            roots: names(&holdings.roots),
            svids: names(&holdings.svids),
            asking: holdings.asking,
            version: self.version.clone(),
            failing: self
                .answers
                .failing()
                .into_iter()
                .take(FAILING_MAX)
                .map(|(pod, why)| Failing { pod, why: why.chars().take(WHY_MAX).collect() })
                .collect(),
        };
        FromNode { said: Some(Said::Held(held)) }
    }

    fn told(&mut self, store: &SvidStore, message: ToNode) -> Result<(), RequestError> {
        match message.told {
            Some(Told::Trust(trust)) => self.trust(store, trust),
            Some(Told::Credential(credential)) => {
                if let Err(error) = self.client.credentials.keep(&credential.token) {
                    let cause = CaRequest::StateNotKept.label();
                    tracing::error!(cause, %error, "this node's credential cannot be kept: after a restart it needs another join token");
                }
                Ok(())
            }
            // Answered where the stream is at hand. A kind that this agent does not know is of a newer controller.
            Some(Told::Ask(_)) | None => Ok(()),
        }
    }

    fn trust(&mut self, store: &SvidStore, trust: Trust) -> Result<(), RequestError> {
        let wrong = |what: &str| RequestError::Failed {
            url: self.client.url.clone(),
            code: tonic::Code::Internal,
            what: format!("what it says is to be trusted is not usable: {what}"),
        };
        compare_clocks(store, trust.now);
        let issuer = trust.issuer.try_into().map(RootId::new).map_err(|_| wrong("no root issues"))?;
        if trust.roots.len() > ROOTS_MAX {
            return Err(wrong("there are too many roots"));
        }
        let roots: Vec<CertificateDer<'static>> = trust.roots.into_iter().map(CertificateDer::from).collect();
        let bundle = TrustBundle::new(roots).map_err(|error| wrong(&error.to_string()))?;
        self.client.roots.learn(bundle.certificates())?;
        if store.bundle().certificates() != bundle.certificates() {
            let names: Vec<String> = bundle.ids().iter().map(RootId::short).collect();
            tracing::info!(epoch = trust.epoch, roots = names.join(","), "the controller says what to trust");
            store.set_bundle(bundle);
        }
        self.epoch = trust.epoch;
        let roots = store.bundle().ids().to_vec();
        self.client.roots.took_up(TakenUp { epoch: trust.epoch, roots });
        store.prefer(issuer);
        Ok(())
    }
}

/// Tells a clock that differs from the controller's, once when it begins and once when it is over.
fn compare_clocks(store: &SvidStore, theirs: i64) {
    let since = store.now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let ahead = i64::try_from(since).unwrap_or(i64::MAX).saturating_sub(theirs);
    let before = store.set_clock_skew(Some(ahead));
    let differs = |ahead: i64| ahead.unsigned_abs() >= CLOCK_SKEW.as_secs();
    match (before.is_some_and(differs), differs(ahead)) {
        (false, true) => tracing::warn!(
            cause = CaRequest::ClockSkew.label(),
            ahead_seconds = ahead,
            "this node's clock is {} {} the controller's: set one of them right",
            roughly(ahead.unsigned_abs()),
            if ahead > 0 { "ahead of" } else { "behind" }
        ),
        (true, false) => tracing::info!("this node's clock and the controller's agree again"),
        _ => {}
    }
}
