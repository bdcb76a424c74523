//! Every connection of a captured pod ends up here: live table, edge table, metrics, access log.
//!
//! The data path touches this at the beginning and the end of a connection only; in between it adds
//! to the connection's own counters, which readers sum up when they ask.

mod connection;
mod edges;
mod courses;
mod history;
mod metrics;
mod open;
mod refused;
mod requests;
mod taps;

pub use connection::{Connection, Direction, Opening};
pub use metrics::{Described, Gauge, Gauges, exposed};
pub use taps::Tap;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lark_core::explain::{Cause, Unwatched};
use lark_core::observe::{History, Requests};
use lark_core::rate::Lines;
use lark_core::reason::Reason;
use lark_core::recognise::{Opaque, Protocol};
use lark_core::tap::Filter;
use lark_core::view::{ConnectionView, CourseView, EdgeView, HistoryView, RequestsView};

use connection::Live;
use courses::Courses;
use edges::Edges;
use metrics::Metrics;
use open::OpenConnections;
use requests::{RequestTable, STEP};
use taps::Taps;

/// What is known of connections. Cheap to clone, shared by all threads.
#[derive(Clone)]
pub struct Observer(Arc<Inner>);

struct Inner {
    open: OpenConnections,
    edges: Mutex<Edges>,
    courses: Mutex<Courses>,
    requests: Mutex<RequestTable>,
    history: Mutex<History<history::Whose>>,
    recognise: bool,
    taps: Arc<Taps>,
    next: AtomicU64,
    metrics: Metrics,
    began: Instant,
    lines: Mutex<Lines>,
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observer").field("open", &self.open_connections()).finish_non_exhaustive()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A panic elsewhere leaves counts behind, which are still worth reading.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Observer {
    /// An empty one.
    ///
    /// # Errors
    /// When metrics clash, which a test would have seen.
    pub fn new() -> Result<Self, prometheus::Error> {
        Self::recognising(true)
    }

    /// The same; says whether protocols and requests are looked at.
    ///
    /// # Errors
    /// When metrics clash, which a test would have seen.
    pub fn recognising(recognise: bool) -> Result<Self, prometheus::Error> {
        Ok(Self(Arc::new(Inner {
            open: OpenConnections::default(),
            edges: Mutex::default(),
            courses: Mutex::default(),
            requests: Mutex::default(),
            history: Mutex::default(),
            recognise,
            taps: Arc::default(),
            next: AtomicU64::new(0),
            metrics: Metrics::new()?,
            began: Instant::now(),
            lines: Mutex::new(Lines::new(Duration::ZERO)),
        })))
    }

    /// A connection begins.
    pub fn open(&self, opening: Opening) -> Connection {
        self.open_since(Instant::now(), opening)
    }

    /// A connection began then.
    pub fn open_since(&self, began: Instant, opening: Opening) -> Connection {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let live = Arc::new(Live::new(opening, began));
        self.0.open.insert(id, live.clone());
        Connection::new(self.clone(), id, live)
    }

    fn close(&self, id: u64, live: &Arc<Live>, how: &str, refusal: Option<(Reason, &str)>) {
        // All workers come by here: what is put together for the tables is so before they are locked.
        let pair = courses::Pair::of(live);
        locked(&self.0.courses).keep(pair, id, live.clone());
        if let Some(edge) = edges::Key::of(live) {
            locked(&self.0.edges).fold(edge, live, refusal);
        }
        // Behind its edge, so that whoever adds them up never misses it.
        self.0.open.remove(id);
        if let Some((reason, _)) = refusal {
            self.0.metrics.refused(live.opening.direction.label(), reason);
        }
        self.0.metrics.closed(live.opening.direction.label(), how);
        self.0.taps.ended(live, how, refusal.map_or("", |(reason, _)| reason.label()));
    }

    fn recognises(&self) -> bool {
        self.0.recognise
    }

    fn recognised(&self, direction: Direction, protocol: Protocol) {
        self.0.metrics.recognised(direction.label(), protocol);
    }

    fn opaque(&self, direction: Direction, reason: Opaque) {
        self.0.metrics.opaque(direction.label(), reason);
    }

    /// Where the requests of a connection's edge are counted.
    fn requests_of(&self, live: &Live) -> Arc<Requests> {
        locked(&self.0.requests).of(&live.opening)
    }

    fn leave(&self, id: u64) {
        self.0.open.remove(id);
    }

    /// A dry run of a policy would deny a connection.
    fn dry_run_denial(&self, direction: Direction) {
        self.0.metrics.dry_run_denial(direction.label());
    }

    /// More or fewer connections go on that policies do not allow any more.
    pub fn denied_open(&self, by: i64) {
        self.0.metrics.denied_open(by);
    }

    /// A connection was refused before anything was known of it.
    pub fn refused_early(&self, direction: Direction, reason: Reason) {
        self.0.metrics.refused(direction.label(), reason);
    }

    /// Whether a line about what a stranger did may be logged, and how many were left out before it. All of
    /// it is counted; only the log is kept short.
    pub fn line(&self) -> Option<u64> {
        locked(&self.0.lines).one_more(self.0.began.elapsed())
    }

    /// A tunnel's handshake ended.
    pub fn handshake(&self, side: &'static str, result: Result<(), Cause>, took: Duration) {
        self.0.metrics.handshake(side, result, took);
    }

    /// A tunnel opened.
    pub fn tunnel_opened(&self, side: &'static str) {
        self.0.metrics.tunnel_opened(side);
    }

    /// A tunnel closed; if not in order, why.
    pub fn tunnel_closed(&self, side: &'static str, cause: Option<Cause>) {
        self.0.metrics.tunnel_closed(side, cause);
    }

    /// A pod that began after the agent was captured when it had run for so long.
    pub fn captured(&self, delay: Duration) {
        self.0.metrics.captured(delay);
    }

    /// The kernel did not tell what happens to the cgroups of pods.
    pub fn unwatched(&self, reason: Unwatched) {
        self.0.metrics.unwatched(reason);
    }

    /// Tunnels open now, at both ends.
    pub fn open_tunnels(&self) -> i64 {
        self.0.metrics.open_tunnels()
    }

    /// Connections open now.
    pub fn open_connections(&self) -> usize {
        self.0.open.len()
    }

    /// Requests of the last seconds, busiest first; each row is an edge, or all that is asked of a workload.
    pub fn requests(&self, by_edge: bool, seconds: u64) -> Vec<RequestsView> {
        let (looked_at, edges) = locked(&self.0.requests).last(Duration::from_secs(seconds));
        requests::views(edges, by_edge, looked_at)
    }

    /// Remembers for a minute what requests add up to, for ever.
    pub async fn remember_requests(self) {
        loop {
            tokio::time::sleep(STEP).await;
            locked(&self.0.requests).remember();
        }
    }

    /// A tap, unless there are too many.
    pub fn tap(&self, filter: Filter) -> Option<Tap> {
        self.0.taps.open(filter)
    }

    /// The live table.
    pub fn connections(&self) -> Vec<ConnectionView> {
        let mut all = self.0.open.all();
        all.sort_by_key(|(id, _)| *id);
        all.into_iter().map(|(_, live)| live.view()).collect()
    }

    /// The two ends of all that are open.
    pub fn ends(&self) -> HashSet<(SocketAddr, SocketAddr)> {
        let open = self.0.open.all().into_iter();
        open.map(|(_, l)| (l.opening.source_address, l.opening.destination_address)).collect()
    }

    /// The last connection between two ends, which are named `NAMESPACE/NAME` or by their addresses, that began
    /// here; it may go on still.
    pub fn last(&self, from: &str, to: &str) -> Option<CourseView> {
        let mut all = self.0.open.all();
        all.extend(locked(&self.0.courses).all());
        let is_asked = |live: &Live| {
            let opening = &live.opening;
            courses::is(&opening.source, opening.source_address, from)
                && (courses::is(&opening.destination, opening.destination_address, to)
                    || opening.service.as_deref() == Some(to))
        };
        let (_, live) = all.into_iter().filter(|(_, live)| is_asked(live)).max_by_key(|(id, _)| *id)?;
        Some(courses::view(&live))
    }

    /// The edge table: what is closed, and what is open on top of it.
    pub fn edges(&self) -> Vec<EdgeView> {
        let open = self.0.open.all();
        locked(&self.0.edges).with_open(&open)
    }

    /// Takes samples of what it knows for ever, by a clock that tells seconds since the epoch.
    pub async fn remember(self, now: impl Fn() -> u64) {
        let mut step = tokio::time::interval(lark_core::observe::STEP);
        step.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            step.tick().await;
            let requests = locked(&self.0.requests).totals();
            let readings = history::readings(&self.edges(), requests);
            locked(&self.0.history).take(now(), readings);
        }
    }

    /// The last hour, as far as it was remembered.
    pub fn history(&self) -> HistoryView {
        history::view(&locked(&self.0.history))
    }

    /// All metrics that there can be, by name, those that others keep among them.
    ///
    /// # Errors
    /// When metrics clash, which a test would have seen.
    pub fn catalogue(&self, gauges: &Gauges) -> Result<Vec<Described>, prometheus::Error> {
        self.0.metrics.catalogue(gauges)
    }

    /// All metrics in Prometheus' text format, with values that others keep.
    ///
    /// # Errors
    /// When a value cannot be shown, which a test would have seen.
    pub fn metrics(&self, gauges: &Gauges) -> Result<String, prometheus::Error> {
        let requests = locked(&self.0.requests).totals();
        self.0.metrics.text(&self.edges(), &requests, gauges)
    }
}

#[cfg(test)]
mod tests;
