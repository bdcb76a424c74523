//! One tunnel: the task that moves its bytes. It owns the node's socket and the sockets of all its
//! streams. A turn takes everything that arrived with one large read, hands it to the pods, reads the
//! pods that have something, encrypts all of it and sends it with one write.
//!
//! Invariants:
//! - A pod is read only while its stream has window and the records have room: back-pressure goes from
//!   end to end.
//! - Window is given back only for bytes that a pod has taken, so a stream's backlog is bounded by its
//!   window; all backlogs of an agent are bounded by `held`, and what waits for other agents by `leaving`.
//! - A stream that does not end in order resets its pod's socket; an error is never taken for an end.
//! - A stream of which both ends have said everything outlives the tunnel until its pod has taken it.
//! - A stream that the peer never saw goes to another tunnel, with what was read of it.

mod events;
mod serve;
mod silence;
mod splice;
mod turn;
mod waiting;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use hashbrown::HashMap;
use lark_core::explain::{Cause, Tunnel};
use lark_core::framing::{Connection, ConnectionError, ErrorCode, FRAME_HEADER, Role, StreamId};
use lark_core::identity::SpiffeId;
use lark_core::quota::Origin;
use lark_core::reason::Reason;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Sleep};

use crate::acceptor::{Deliver, Delivery, Load};
use crate::ended::{End, Ended, Refusal};
use crate::fate::{Outcome, Teller};
use crate::held::Held;
use crate::proof::Proof;
use crate::ready::ReadyList;
use crate::record::{FRAGMENT, ROOM, RecordError, Records};
use crate::settings::{Observer, Side, TunnelSettings};
use crate::stream::{Carried, Stream, Told};

/// How long a tunnel that has ended in order waits for its peer to have the last of it.
const LINGER: Duration = Duration::from_secs(1);

/// Most bytes read from one pod in a turn, so that a bulk stream does not hold up the small ones. With the header of
/// their frame they fill whole records.
const QUANTUM: usize = 16 * FRAGMENT - FRAME_HEADER;
/// The same while several streams are ready.
pub(crate) const SHARED_QUANTUM: usize = 4 * FRAGMENT - FRAME_HEADER;
/// Most pieces of one stream that are written to its pod at once.
pub(crate) const RUN: usize = 32;

thread_local! {
    /// A frame on its way from a pod to the records: header and payload. Shared by all tunnels of the
    /// worker, since each uses it only within one call.
    static FRAME: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// Records on their way to the pods, decrypted where they are. Shared in the same way.
    static RECEIVED: RefCell<Vec<u8>> = RefCell::new(vec![0; ROOM]);
}

/// A stream that the dialling end wants.
pub(crate) struct Open {
    pub(crate) carried: Box<Carried>,
    pub(crate) teller: Teller,
}

/// What the pool may know of a running tunnel.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Streams on it and on their way to it.
    pub(crate) streams: Cell<usize>,
    /// Streams that the peer takes at once.
    pub(crate) streams_max: Cell<usize>,
    /// It takes no more.
    pub(crate) going_away: Cell<bool>,
    /// The observer was told that it opened.
    pub(crate) opened: Cell<bool>,
    /// Its task has ended; what the observer is told of it.
    pub(crate) over: Cell<Option<Option<Cause>>>,
}

/// What only the dialling end has.
struct Dialling {
    commands: Option<mpsc::UnboundedReceiver<Open>>,
    settled: Option<oneshot::Sender<()>>,
    shared: Rc<Shared>,
}

/// What only the accepting end has.
pub(crate) struct Accepting {
    pub(crate) deliver: Rc<dyn Deliver>,
    pub(crate) client: SpiffeId,
    pub(crate) server: SpiffeId,
    pub(crate) peer: SocketAddr,
    pub(crate) origin: Origin,
    pub(crate) load: Rc<Load>,
    pub(crate) observer: Rc<dyn Observer>,
}

/// What both ends have to keep to.
pub(crate) struct Terms {
    pub(crate) settings: TunnelSettings,
    /// For how long the handshake counts.
    pub(crate) proof: Rc<Proof>,
    /// What may wait for applications.
    pub(crate) held: Held,
    /// What may wait for the peer.
    pub(crate) leaving: Held,
}

enum Part {
    Dialling(Dialling),
    Accepting(Accepting),
}

type Dial = Pin<Box<dyn Future<Output = (StreamId, Result<Delivery, Refusal>)>>>;

/// One tunnel.
pub(crate) struct Engine {
    part: Part,
    /// Which tunnel this is, for people.
    name: String,
    records: Records,
    h2: Connection,
    /// Each in a box: a table has room for twice as many as it holds.
    streams: HashMap<u32, Box<Stream>>,
    ready: Arc<ReadyList>,
    queue: VecDeque<u32>,
    /// Decrypted bytes of a frame that is not complete.
    rest: Vec<u8>,
    /// Where the received bytes are, for what need not be read.
    place: splice::Place,
    /// Bytes received and sent since others of the worker had their turn.
    moved: usize,
    dials: FuturesUnordered<Dial>,
    held: Held,
    leaving: Held,
    /// Plaintext that may wait as records for the node's socket.
    send_limit: usize,
    proof: Rc<Proof>,
    settings: TunnelSettings,
    began: Instant,
    silence: silence::Silence,
    idle_since: Instant,
    /// Since when the peer takes nothing of what waits for it.
    stuck: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    /// Streams that this end opened and whose pods have ended. The peer is told when whoever is ready now has had a
    /// turn of the worker: a client mostly closes one connection when it has opened another, whose CONNECT then goes
    /// first and takes the end along.
    owing: Vec<u32>,
    /// Ends of streams that were put off.
    late_ends: Vec<u8>,
    /// When what was put off is due.
    late_due: Option<Instant>,
}

/// Why a tunnel is over.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// Its records cannot go on.
    #[error("{0}")]
    Record(#[from] RecordError),
    /// The peer broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    Protocol(#[from] ConnectionError),
    /// The peer says nothing.
    #[error("the peer has said nothing for {0:?}, though asked")]
    Silent(Duration),
    /// The peer takes nothing.
    #[error("the peer has taken nothing of what waits for it for {0:?}")]
    Stalled(Duration),
    /// Nodes take too little of what waits for them in all of their tunnels.
    #[error(
        "more than twice the share of the peer's node, or than twice of all there is, waits for other agents"
    )]
    Crowded,
    /// The connection failed.
    #[error("the connection failed: {}", crate::told(.0))]
    Io(#[from] std::io::Error),
}

impl TunnelError {
    /// The reason of the streams that were lost with it.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Protocol(_) => Reason::ProtocolError,
            _ => Reason::TunnelLost,
        }
    }

    /// What it was, in one word that `lark explain` knows.
    pub fn cause(&self) -> Cause {
        let tunnel = match self {
            Self::Record(RecordError::Io(_)) | Self::Io(_) => Tunnel::ConnectionFailed,
            Self::Record(RecordError::Tls(_)) => Tunnel::NotOurTls,
            Self::Record(RecordError::Closed) => Tunnel::ClosedByPeer,
            Self::Record(RecordError::PeerKeys(_) | RecordError::OwnKeys) => Tunnel::KernelKeys,
            Self::Protocol(error) => return error.violation.into(),
            Self::Silent(_) => Tunnel::PeerSilent,
            Self::Stalled(_) | Self::Crowded => Tunnel::PeerStalled,
        };
        tunnel.into()
    }
}

impl Engine {
    /// The dialling end. `settled` is told when the peer's SETTINGS are there.
    pub(crate) fn client(
        name: String,
        records: Records,
        commands: mpsc::UnboundedReceiver<Open>,
        shared: Rc<Shared>,
        settled: oneshot::Sender<()>,
        terms: Terms,
    ) -> Self {
        let part = Dialling { commands: Some(commands), settled: Some(settled), shared };
        Self::new(Part::Dialling(part), name, records, terms)
    }

    /// The accepting end.
    pub(crate) fn server(records: Records, accepting: Accepting, terms: Terms) -> Self {
        let name = format!("the tunnel from {} as {}", accepting.peer, accepting.client);
        Self::new(Part::Accepting(accepting), name, records, terms)
    }

    fn new(part: Part, name: String, records: Records, terms: Terms) -> Self {
        let Terms { settings, proof, held, leaving } = terms;
        let role = match part {
            Part::Dialling(_) => Role::Client,
            Part::Accepting(_) => Role::Server,
        };
        let now = Instant::now();
        Self {
            part,
            name,
            records,
            h2: Connection::new(role, settings.framing),
            streams: HashMap::new(),
            ready: Arc::default(),
            queue: VecDeque::new(),
            rest: Vec::new(),
            place: splice::Place::Unknown,
            moved: 0,
            dials: FuturesUnordered::new(),
            held,
            leaving,
            send_limit: waiting::USUAL,
            proof,
            settings,
            began: now,
            silence: silence::Silence::new(now),
            idle_since: now,
            stuck: None,
            // At once: the first tick knows when the next is due.
            timer: Box::pin(tokio::time::sleep_until(now)),
            owing: Vec::new(),
            late_ends: Vec::new(),
            late_due: None,
        }
    }

    const fn side(&self) -> Side {
        match self.part {
            Part::Dialling(_) => Side::Client,
            Part::Accepting(_) => Side::Server,
        }
    }

    /// The list by which the tunnel is woken.
    pub(crate) fn ready(&self) -> &Arc<ReadyList> {
        &self.ready
    }

    /// Moves bytes until the tunnel is over; then every stream that has more to say is reset.
    pub(crate) async fn run(mut self) -> Result<(), TunnelError> {
        let mut result = self.take_buffered();
        if result.is_ok() {
            result = poll_fn(|cx| self.poll(cx)).await;
        }
        self.going_away();
        self.turn_away();
        let lingers = self.say_goodbye(&result).await;
        let refusal = match &result {
            Ok(()) => Refusal::new(Reason::TunnelLost, format!("{} was closed", self.name)),
            Err(error) => Refusal::new(error.reason(), format!("{} was lost: {error}", self.name)),
        };
        let lost = self.streams.iter().filter(|(_, stream)| !stream.is_settled());
        let lost: Vec<u32> = lost.map(|(number, _)| *number).collect();
        for number in lost {
            self.finish(number, End::Lost, Some(refusal.clone()));
        }
        if !lingers {
            // Nobody will have it any more, and pods may take their time.
            self.records.discard();
            self.leaving.release_all();
        }
        poll_fn(|cx| self.poll_settled(cx)).await;
        if lingers {
            let _ = tokio::time::timeout(LINGER, self.records.closed_by_peer()).await;
        }
        result
    }

    /// The last frames and the alert that says why, for as long as a peer that reads would need. True if all that
    /// was said is on its way, and the peer is to have it before the socket is closed.
    async fn say_goodbye(&mut self, result: &Result<(), TunnelError>) -> bool {
        let orderly = match result {
            Err(TunnelError::Record(RecordError::Tls(_))) => false,
            Ok(())
            | Err(
                TunnelError::Protocol(_)
                | TunnelError::Record(RecordError::PeerKeys(_) | RecordError::OwnKeys),
            ) => true,
            Err(_) => return false,
        };
        if orderly {
            self.say_late();
            self.h2.go_away(ErrorCode::NO_ERROR);
            if self.write_control().is_err() {
                return false;
            }
            self.records.close_notify();
        }
        let flush = poll_fn(|cx| self.records.poll_flush(cx));
        let flushed = tokio::time::timeout(Duration::from_millis(200), flush).await;
        result.is_ok() && matches!(flushed, Ok(Ok(()))) && self.records.end()
    }

    /// Whoever sent a stream here meanwhile gets it back: the peer never saw it.
    fn turn_away(&mut self) {
        let Part::Dialling(Dialling { commands: Some(commands), .. }) = &mut self.part else { return };
        commands.close();
        while let Ok(Open { carried, teller }) = commands.try_recv() {
            teller.over(Outcome::NotTaken(carried));
        }
    }

    /// No stream is put here any more.
    fn going_away(&self) {
        if let Part::Dialling(part) = &self.part {
            part.shared.going_away.set(true);
        }
    }

    /// Takes a stream out and tells whoever waits for its end. Unless it ended in order, the pod's
    /// socket is reset.
    fn finish(&mut self, number: u32, how: End, refusal: Option<Refusal>) {
        let Some(stream) = self.remove(number) else { return };
        let established = stream.is_answered();
        let (pod, mut traffic, _, _, told) = stream.into_parts();
        match pod {
            Some(pod) if how == End::Clean => pod.close(),
            // Resets it.
            pod => drop(pod),
        }
        // Requests are over before their connection is.
        traffic.ended(how);
        let ended = match refusal {
            Some(refusal) => Ended::lost(established, refusal),
            None => Ended::by_pod(established, how),
        };
        match told {
            Told::Carrier(teller, _) => teller.over(Outcome::Ended(ended)),
            Told::Deliverer(Some(on_end)) => on_end(ended),
            Told::Deliverer(None) => {}
        }
    }

    /// The peer never saw this stream: its carrier may take it elsewhere.
    fn give_back(&mut self, number: u32) {
        let Some(stream) = self.remove(number) else { return };
        let (pod, traffic, early, pod_ended, told) = stream.into_parts();
        if let (Some(pod), Told::Carrier(teller, Some(wanted))) = (pod, told) {
            let carried = Carried { wanted, pod, traffic, early, pod_ended };
            teller.over(Outcome::NotTaken(Box::new(carried)));
        }
    }

    fn remove(&mut self, number: u32) -> Option<Box<Stream>> {
        let stream = self.streams.remove(&number)?;
        self.held.release(stream.waiting());
        if let Part::Dialling(part) = &self.part {
            part.shared.streams.set(self.streams.len());
        }
        if self.streams.is_empty() {
            self.idle_since = Instant::now();
        }
        Some(stream)
    }

    /// The pod's socket failed: to the other end that is a reset. ECONNABORTED is what a socket gets that the
    /// agent itself destroyed by sock_diag (`tcp_abort`, net/ipv4/tcp.c), which it does for policies only.
    fn pod_failed(&mut self, number: u32, error: &std::io::Error) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        tracing::trace!(stream = number, %error, "the pod's socket failed");
        let aborted = error.kind() == std::io::ErrorKind::ConnectionAborted;
        if aborted {
            stream.aborted();
        }
        let id = stream.id;
        self.h2.reset(id, if aborted { ErrorCode::INADEQUATE_SECURITY } else { ErrorCode::CONNECT_ERROR });
        let how = match self.side() {
            Side::Client => End::ResetBySource,
            Side::Server => End::ResetByDestination,
        };
        self.finish(number, how, None);
    }

    /// Hands control frames to the records. While those are full they wait in the codec, which cuts a
    /// peer off that reads nothing of what it makes us say.
    fn write_control(&mut self) -> Result<(), RecordError> {
        let out = self.h2.output();
        if !out.is_empty() && self.records.unsent() < self.send_limit {
            out.append(&mut self.late_ends);
            self.records.write(out)?;
            out.clear();
            // A burst of control frames is no reason to keep its memory.
            out.shrink_to(4096);
        }
        Ok(())
    }
}
