//! One tunnel: the task that moves its bytes. It owns the node's socket and the sockets of all its
//! streams. A turn takes everything that arrived with one large read, hands it to the pods, reads the
//! pods that have something, encrypts all of it and sends it with one write.
//!
//! Invariants:
//! - A pod is read only while its stream has window and the records have room: back-pressure goes from
//!   end to end.
//! - Window is given back only for bytes that a pod has taken, so a stream's backlog is bounded by its
//!   window.
//! - A stream that does not end in order resets its pod's socket; an error is never taken for an end.

mod events;
mod turn;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::stream::FuturesUnordered;
use lark_core::framing::{ConnectRequest, Connection, ConnectionError, ErrorCode, Role, StreamId};
use lark_core::identity::SpiffeId;
use lark_core::observe::ByteCounters;
use lark_core::reason::Reason;
use lark_identity::SvidStore;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::acceptor::{Deliver, Delivery};
use crate::ended::{End, Ended, Refusal};
use crate::ready::ReadyList;
use crate::record::{RecordError, Records};
use crate::settings::{Side, TunnelSettings};
use crate::stream::{OnEnd, OnOpen, Stream};

/// Most bytes read from one pod in a turn, so that a bulk stream does not hold up the small ones.
const QUANTUM: usize = 256 * 1024;
/// The same while several streams are ready.
const SHARED_QUANTUM: usize = 64 * 1024;

thread_local! {
    /// A frame on its way from a pod to the records: header and payload.
    static FRAME: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A stream that the dialling end wants.
pub(crate) struct Open {
    pub(crate) request: ConnectRequest,
    pub(crate) pod: TcpStream,
    pub(crate) counters: Arc<ByteCounters>,
    pub(crate) on_open: OnOpen,
    pub(crate) outcome: oneshot::Sender<Outcome>,
}

/// What became of it.
pub(crate) enum Outcome {
    /// This tunnel takes no more; another may.
    NotOpened(Box<(ConnectRequest, TcpStream, Arc<ByteCounters>, OnOpen)>),
    /// It was opened, or refused by the peer, and is over.
    Ended(Ended),
}

/// What the pool may know of a running tunnel.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) streams: Cell<usize>,
    pub(crate) streams_max: Cell<usize>,
    pub(crate) going_away: Cell<bool>,
}

/// What only the accepting end has.
pub(crate) struct Accepting {
    pub(crate) deliver: Rc<dyn Deliver>,
    pub(crate) client: SpiffeId,
    pub(crate) server: SpiffeId,
    pub(crate) peer: SocketAddr,
    /// When the first of both certificates expires.
    pub(crate) expires: SystemTime,
    pub(crate) svids: SvidStore,
}

type Dial = Pin<Box<dyn Future<Output = (StreamId, Result<Delivery, Refusal>)>>>;

/// One tunnel.
pub(crate) struct Engine {
    side: Side,
    records: Records,
    h2: Connection,
    streams: HashMap<u32, Stream>,
    ids: HashMap<u32, StreamId>,
    ready: Arc<ReadyList>,
    queue: VecDeque<u32>,
    plain: Vec<u8>,
    commands: Option<mpsc::UnboundedReceiver<Open>>,
    accepting: Option<Accepting>,
    dials: FuturesUnordered<Dial>,
    shared: Rc<Shared>,
    settled: Option<oneshot::Sender<()>>,
    settings: TunnelSettings,
    began: Instant,
    heard: Instant,
    idle_since: Instant,
    timer: Interval,
}

/// Why a tunnel is over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunnelError {
    #[error("{0}")]
    Record(#[from] RecordError),
    #[error("the peer broke the protocol: {0}")]
    Protocol(#[from] ConnectionError),
    #[error("the peer has said nothing for {0:?}")]
    Silent(Duration),
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl TunnelError {
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Protocol(_) => Reason::ProtocolError,
            Self::Record(RecordError::Tls(_)) => Reason::TunnelHandshake,
            _ => Reason::TunnelLost,
        }
    }
}

impl Engine {
    pub(crate) fn client(
        records: Records,
        commands: mpsc::UnboundedReceiver<Open>,
        shared: Rc<Shared>,
        settled: oneshot::Sender<()>,
        settings: TunnelSettings,
    ) -> Self {
        let mut engine = Self::new(Side::Client, records, shared, settings);
        engine.commands = Some(commands);
        engine.settled = Some(settled);
        engine
    }

    pub(crate) fn server(records: Records, accepting: Accepting, settings: TunnelSettings) -> Self {
        let mut engine = Self::new(Side::Server, records, Rc::default(), settings);
        engine.accepting = Some(accepting);
        engine
    }

    fn new(side: Side, records: Records, shared: Rc<Shared>, settings: TunnelSettings) -> Self {
        let role = match side {
            Side::Client => Role::Client,
            Side::Server => Role::Server,
        };
        let every = (settings.keepalive / 4).max(Duration::from_millis(20));
        let mut timer = tokio::time::interval(every);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let now = Instant::now();
        Self {
            side,
            records,
            h2: Connection::new(role, settings.framing),
            streams: HashMap::new(),
            ids: HashMap::new(),
            ready: Arc::default(),
            queue: VecDeque::new(),
            plain: Vec::new(),
            commands: None,
            accepting: None,
            dials: FuturesUnordered::new(),
            shared,
            settled: None,
            settings,
            began: now,
            heard: now,
            idle_since: now,
            timer,
        }
    }

    /// Moves bytes until the tunnel is over; then every stream that is left is reset.
    pub(crate) async fn run(mut self) -> Result<(), TunnelError> {
        let mut result = self.records.buffered(&mut self.plain).map_err(TunnelError::from);
        if result.is_ok() {
            result = self.receive();
        }
        if result.is_ok() {
            result = poll_fn(|cx| self.poll(cx)).await;
        }
        self.shared.going_away.set(true);
        self.say_goodbye(&result).await;
        let refusal = match &result {
            Ok(()) => Refusal::new(Reason::TunnelLost, "the tunnel was closed"),
            Err(error) => Refusal::new(error.reason(), error.to_string()),
        };
        let numbers: Vec<u32> = self.streams.keys().copied().collect();
        for number in numbers {
            self.finish(number, End::Lost, Some(refusal.clone()));
        }
        result
    }

    /// The last frames, for as long as a peer that reads would need.
    async fn say_goodbye(&mut self, result: &Result<(), TunnelError>) {
        if matches!(result, Err(TunnelError::Record(_) | TunnelError::Silent(_))) {
            return;
        }
        self.h2.go_away(ErrorCode::NO_ERROR);
        if self.write_control().is_err() {
            return;
        }
        self.records.close_notify();
        let flush = poll_fn(|cx| self.records.poll_flush(cx));
        let _ = tokio::time::timeout(Duration::from_millis(200), flush).await;
    }

    /// Takes a stream out and tells whoever waits for its end. Unless it ended in order, the pod's
    /// socket is reset.
    fn finish(&mut self, number: u32, how: End, refusal: Option<Refusal>) {
        let Some(mut stream) = self.streams.remove(&number) else { return };
        self.ids.remove(&number);
        if how != End::Clean {
            stream.reset_pod();
        }
        drop(stream.pod.take());
        if let Some(on_end) = stream.on_end.take() {
            on_end(Ended { established: stream.answered, how, refusal });
        }
        self.shared.streams.set(self.streams.len());
        if self.streams.is_empty() {
            self.idle_since = Instant::now();
        }
    }

    /// The pod's socket failed: to the other end that is a reset.
    fn pod_failed(&mut self, number: u32, id: StreamId, error: &std::io::Error) {
        tracing::trace!(stream = number, %error, "the pod's socket failed");
        self.h2.reset(id, ErrorCode::CONNECT_ERROR);
        let how = match self.side {
            Side::Client => End::ResetBySource,
            Side::Server => End::ResetByDestination,
        };
        self.finish(number, how, None);
    }

    fn write_control(&mut self) -> std::io::Result<()> {
        let out = self.h2.output();
        if !out.is_empty() {
            self.records.write(out)?;
            out.clear();
            // A burst of control frames is no reason to keep its memory.
            out.shrink_to(4096);
        }
        Ok(())
    }
}

/// A callback that sends the end to a waiting future.
fn tell(outcome: oneshot::Sender<Outcome>) -> OnEnd {
    Box::new(move |ended| {
        // Nobody waiting is no error: the end was told to the observer by others then.
        let _ = outcome.send(Outcome::Ended(ended));
    })
}
