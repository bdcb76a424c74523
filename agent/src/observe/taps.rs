//! Taps: who is told of connections and requests while they happen. Bounded in every way, so that none can slow
//! what it looks at: with no tap open it costs one load; a tap is told at most [`PER_SECOND`] things a second and
//! what it does not take in time is left out, counted and said; a worker never waits for one. What is too much costs
//! a look at the filter and two atomic operations: no lock is taken for it, and nothing is made.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use lark_core::rate::Allowance;
use lark_core::recognise::{Event, Method, Outcome};
use lark_core::tap::{Filter, Subject};
use lark_core::view::{TapConnection, TapEnding, TapRequest, TapView};
use tokio::sync::mpsc;

use super::connection::Live;

/// Most taps open at once.
const TAPS_MAX: usize = 4;
/// Most that a tap is told in a second, ...
const PER_SECOND: u32 = 1000;
/// In this time it earns one more.
const EARNS: Duration = Duration::from_millis(1000 / PER_SECOND as u64);
/// ... and that waits for its reader.
const WAITING: usize = 1024;
/// How often a reader hears what was left out, if nothing else comes.
const TELL: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Taps {
    open: AtomicUsize,
    /// Replaced as a whole when one opens or closes; workers only read.
    all: ArcSwap<Vec<Arc<Subscriber>>>,
    /// Held by whoever replaces it.
    replaced: Mutex<()>,
    began: Instant,
    next: AtomicU64,
}

#[derive(Debug)]
struct Subscriber {
    number: u64,
    filter: Filter,
    allowance: Mutex<Allowance>,
    /// Until when there is nothing left of it, in nanoseconds since taps began.
    spent_until: AtomicU64,
    sender: mpsc::Sender<TapView>,
    left_out: Arc<AtomicU64>,
}

impl Subscriber {
    /// Takes one of what it may be told. The lock is asked for twice as often as it has something to give, at most.
    fn may_be_told(&self, now: Duration) -> bool {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        if nanos(now) < self.spent_until.load(Ordering::Relaxed) {
            return false;
        }
        let mut allowance = self.allowance.lock().unwrap_or_else(PoisonError::into_inner);
        let is_left = allowance.take(PER_SECOND, PER_SECOND, now);
        if !is_left {
            self.spent_until.store(nanos(now + EARNS), Ordering::Relaxed);
        }
        is_left
    }
}

/// An open tap. Dropped, it is closed.
#[derive(Debug)]
pub struct Tap {
    taps: Arc<Taps>,
    number: u64,
    receiver: mpsc::Receiver<TapView>,
    left_out: Arc<AtomicU64>,
    /// When what was left out was last said.
    told: Instant,
}

impl Default for Taps {
    fn default() -> Self {
        Self {
            open: AtomicUsize::new(0),
            all: ArcSwap::default(),
            replaced: Mutex::default(),
            began: Instant::now(),
            next: AtomicU64::new(0),
        }
    }
}

impl Taps {
    /// Another tap, unless there are too many.
    pub(super) fn open(self: &Arc<Self>, filter: Filter) -> Option<Tap> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let left_out = Arc::<AtomicU64>::default();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let subscriber = Subscriber {
            number,
            filter,
            allowance: Mutex::new(Allowance::full(PER_SECOND, self.began.elapsed())),
            spent_until: AtomicU64::new(0),
            sender,
            left_out: left_out.clone(),
        };
        let mut is_full = false;
        self.replace(|all| {
            is_full = all.len() >= TAPS_MAX;
            if !is_full {
                all.push(Arc::new(subscriber));
            }
        });
        let tap = || Tap { taps: self.clone(), number, receiver, left_out, told: Instant::now() };
        (!is_full).then(tap)
    }

    fn replace(&self, change: impl FnOnce(&mut Vec<Arc<Subscriber>>)) {
        let _replacing = self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = self.all.load().as_ref().clone();
        change(&mut all);
        self.open.store(all.len(), Ordering::Relaxed);
        self.all.store(Arc::new(all));
    }

    /// What secures a connection is known.
    pub(super) fn opened(&self, live: &Live) {
        self.tell(live, None, |connection| TapView::Opened { connection });
    }

    /// A request on a connection has ended.
    pub(super) fn request(&self, live: &Live, event: &Event) {
        if self.open.load(Ordering::Relaxed) == 0 {
            return;
        }
        let Some((outcome, latency)) = Outcome::of(event) else { return };
        let (method, code) = match event {
            Event::Response(response) => (response.method, Some(response.status)),
            Event::Unanswered(unanswered) => (unanswered.method, unanswered.status),
            Event::Known(_) | Event::Opaque(_) => (Method::Other, None),
        };
        self.tell(live, Some((outcome, code)), |connection| TapView::Request {
            connection,
            request: TapRequest {
                protocol: outcome.protocol().label().to_owned(),
                method: method.label().to_owned(),
                code,
                status: outcome.status().to_owned(),
                result: outcome.judgement().label().to_owned(),
                first_byte_seconds: latency.map(|latency| latency.first_byte.as_secs_f64()),
                duration_seconds: latency.map(|latency| latency.last_byte.as_secs_f64()),
            },
        });
    }

    /// A connection is over.
    pub(super) fn ended(&self, live: &Live, how: &str, reason: &str) {
        self.tell(live, None, |connection| TapView::Ended {
            connection,
            ending: TapEnding {
                how: how.to_owned(),
                reason: reason.to_owned(),
                sent_bytes: live.counters.sent(),
                received_bytes: live.counters.received(),
            },
        });
    }

    fn tell(
        &self,
        live: &Live,
        answer: Option<(Outcome, Option<u16>)>,
        view: impl Fn(TapConnection) -> TapView,
    ) {
        if self.open.load(Ordering::Relaxed) == 0 {
            return;
        }
        let opening = &live.opening;
        let subject = Subject {
            direction: opening.direction.label(),
            source: &opening.source,
            destination: &opening.destination,
            secured: live.secured.get().copied(),
        };
        for tap in self.all.load().iter().filter(|tap| tap.filter.wants(&subject, answer)) {
            let room = tap.may_be_told(self.began.elapsed()).then(|| tap.sender.try_reserve());
            match room {
                Some(Ok(room)) => room.send(view(connection(live))),
                _ => _ = tap.left_out.fetch_add(1, Ordering::Relaxed),
            }
        }
    }
}

fn connection(live: &Live) -> TapConnection {
    let opening = &live.opening;
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    TapConnection {
        at_ms: u64::try_from(at).unwrap_or(u64::MAX),
        direction: opening.direction.label().to_owned(),
        source: opening.source.clone(),
        destination: opening.destination.clone(),
        source_address: opening.source_address.to_string(),
        destination_address: opening.destination_address.to_string(),
        secured: live.secured.get().copied(),
    }
}

impl Tap {
    /// The next thing, when it happens; once a second what was left out, if anything was. Cancel safe.
    pub async fn next(&mut self) -> TapView {
        loop {
            let due = self.told + TELL;
            if Instant::now() >= due {
                self.told = Instant::now();
                match self.left_out.swap(0, Ordering::Relaxed) {
                    0 => {}
                    events => return TapView::LeftOut { events },
                }
            }
            match tokio::time::timeout_at(due.into(), self.receiver.recv()).await {
                Ok(Some(view)) => return view,
                // The sender lives as long as this.
                Ok(None) => std::future::pending().await,
                Err(_) => {}
            }
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.taps.replace(|all| all.retain(|tap| tap.number != self.number));
    }
}
