//! One connection, from its beginning to its end.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use lark_core::address::AddressText;
use lark_core::explain::Ending;
use lark_core::observe::{ByteCounters, Requests, Secured, Stage, Stages};
use lark_core::reason::Reason;
use lark_core::recognise::{Event, Outcome};
use lark_core::view::{ConnectionView, Party};

use super::Observer;

/// Which way a connection crosses this agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// From a pod of this node to elsewhere.
    Outbound,
    /// From a tunnel to a pod of this node.
    Inbound,
    /// Between two pods of this node.
    Local,
}

impl Direction {
    /// The label in metrics, logs and tables.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
            Self::Local => "local",
        }
    }
}

/// What is known when a connection begins.
#[derive(Debug, Clone)]
pub struct Opening {
    /// Its way.
    pub direction: Direction,
    /// Who dials.
    pub source: Party,
    /// Who is dialled.
    pub destination: Party,
    /// The Service that was addressed.
    pub service: Option<String>,
    /// The source's address.
    pub source_address: SocketAddr,
    /// The address that was dialled.
    pub destination_address: SocketAddr,
    /// The other agent, if there is one.
    pub peer: Option<SocketAddr>,
}

#[derive(Debug)]
pub(super) struct Live {
    pub(super) opening: Opening,
    pub(super) counters: Arc<ByteCounters>,
    pub(super) secured: OnceLock<Secured>,
    note: OnceLock<&'static str>,
    protocol: OnceLock<&'static str>,
    requests: AtomicU64,
    pub(super) started: Instant,
    pub(super) stages: Arc<Stages>,
    waited_for_tunnel: AtomicBool,
    /// Its edge has it, whatever else lists it still.
    pub(super) is_folded: AtomicBool,
    /// It was counted as one that a dry run would deny.
    is_dry_denied: AtomicBool,
    pub(super) ended: OnceLock<Ended>,
}

/// How a connection ended, as the access log has it.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) how: &'static str,
    pub(super) reason: &'static str,
    pub(super) detail: String,
}

impl Live {
    pub(super) fn new(opening: Opening, started: Instant) -> Self {
        Self {
            opening,
            counters: Arc::default(),
            secured: OnceLock::new(),
            note: OnceLock::new(),
            protocol: OnceLock::new(),
            requests: AtomicU64::new(0),
            started,
            stages: Arc::default(),
            waited_for_tunnel: AtomicBool::new(false),
            is_folded: AtomicBool::new(false),
            is_dry_denied: AtomicBool::new(false),
            ended: OnceLock::new(),
        }
    }

    fn reached(&self, stage: Stage) {
        self.stages.reached(stage, self.started.elapsed());
    }

    /// Whether no tunnel was there for it.
    pub(super) fn waited_for_tunnel(&self) -> bool {
        self.waited_for_tunnel.load(Ordering::Relaxed)
    }

    /// What is spoken, if that is clear.
    fn protocol(&self) -> &'static str {
        self.protocol.get().copied().unwrap_or_default()
    }

    pub(super) fn view(&self) -> ConnectionView {
        let (round_trip, retransmits) = self.counters.measured().unzip();
        ConnectionView {
            direction: self.opening.direction.label().to_owned(),
            source: self.opening.source.clone(),
            destination: self.opening.destination.clone(),
            source_address: self.opening.source_address.to_string(),
            destination_address: self.opening.destination_address.to_string(),
            service: self.opening.service.clone(),
            secured: self.secured.get().copied(),
            sent_bytes: self.counters.sent(),
            received_bytes: self.counters.received(),
            age_seconds: Some(self.started.elapsed().as_secs()),
            note: self.note.get().copied().unwrap_or_default().to_owned(),
            protocol: self.protocol().to_owned(),
            requests: self.requests.load(Ordering::Relaxed),
            round_trip_seconds: round_trip.map(|time| time.as_secs_f64()),
            retransmits,
        }
    }
}

/// A connection under observation. Dropped without [`Connection::ended`], it counts as lost.
#[derive(Debug)]
pub struct Connection {
    observer: Observer,
    id: u64,
    live: Arc<Live>,
    told: bool,
}

impl Connection {
    pub(super) fn new(observer: Observer, id: u64, live: Arc<Live>) -> Self {
        Self { observer, id, live, told: false }
    }

    /// Where its bytes are to be counted.
    pub fn counters(&self) -> Arc<ByteCounters> {
        self.live.counters.clone()
    }

    /// A handle by which whoever proves it says what secures it.
    pub fn securer(&self) -> impl FnOnce(Secured) + 'static {
        let (live, observer) = (self.live.clone(), self.observer.clone());
        move |secured| {
            // The first to say so is the one who proved it.
            if live.secured.set(secured).is_ok() {
                live.reached(Stage::Open);
                observer.0.taps.opened(&live);
            }
        }
    }

    /// It has reached this stage now.
    pub fn reached(&self, stage: Stage) {
        self.live.reached(stage);
    }

    /// There is a tunnel for it, which was there before or not.
    pub fn has_tunnel(&self, was_there: bool) {
        self.live.waited_for_tunnel.store(!was_there, Ordering::Relaxed);
        self.live.reached(Stage::Tunnel);
    }

    /// Where its first bytes are to be noted, and the moment that counts as its beginning.
    pub fn stages(&self) -> (Arc<Stages>, Instant) {
        (self.live.stages.clone(), self.live.started)
    }

    /// Who is to be told of its protocol and requests; nothing if they are not looked at.
    pub fn requests(&self) -> Option<impl FnMut(Event) + 'static> {
        let (observer, live) = (self.observer.clone(), self.live.clone());
        // Of most connections nothing is ever heard.
        let mut requests: Option<Arc<Requests>> = None;
        let heard = move |event: Event| {
            match event {
                Event::Known(protocol) => {
                    observer.recognised(live.opening.direction, protocol);
                    let _ = live.protocol.set(protocol.label());
                }
                Event::Opaque(reason) => {
                    observer.opaque(live.opening.direction, reason);
                    let _ = live.protocol.set("opaque");
                }
                Event::Response(_) | Event::Unanswered(_) => {}
            }
            if let Some((outcome, latency)) = Outcome::of(&event) {
                live.requests.fetch_add(1, Ordering::Relaxed);
                requests.get_or_insert_with(|| observer.requests_of(&live)).add(outcome, latency);
                observer.0.taps.request(&live, &event);
            }
        };
        self.observer.recognises().then_some(heard)
    }

    /// Why it is as it is, by a word that `lark explain` knows.
    pub fn note(&self, reason: &'static str) {
        let _ = self.live.note.set(reason);
    }

    /// What policies under dry run would have denied it for, each in a sentence.
    pub fn would_deny(&self, dry_run: &[String]) {
        let opening = &self.live.opening;
        for why in dry_run {
            tracing::info!(
                target: "policy",
                direction = opening.direction.label(),
                src.workload = &*opening.source.name,
                src.namespace = &*opening.source.namespace,
                src.identity = &*opening.source.identity,
                dst.addr = %opening.destination_address,
                dst.workload = &*opening.destination.name,
                dst.namespace = &*opening.destination.namespace,
                why,
                "a dry run would deny this connection"
            );
        }
        // Both ends' policies may say so, the other's later.
        if !dry_run.is_empty() && !self.live.is_dry_denied.swap(true, Ordering::Relaxed) {
            self.observer.dry_run_denial(opening.direction);
        }
    }

    /// It goes on, and this agent follows it no more.
    pub fn leave(mut self) {
        self.told = true;
        self.observer.leave(self.id);
    }

    /// It is over, and why it was refused if it was.
    pub fn ended(mut self, how: Ending, refusal: Option<(Reason, &str)>) {
        self.tell(how, refusal);
    }

    fn tell(&mut self, how: Ending, refusal: Option<(Reason, &str)>) {
        self.told = true;
        let opening = &self.live.opening;
        let came_by_tunnel = opening.direction == Direction::Inbound && opening.peer.is_some();
        if refusal.is_some() {
            let _ = self.live.secured.set(Secured::Denied);
        } else if came_by_tunnel || self.live.stages.after(Stage::Tunnel).is_some() {
            // It was over before the other end had accepted it. What its source had said is in the tunnel, which a
            // handshake has proved, and not in plaintext.
            let _ = self.live.secured.set(Secured::Mtls);
        }
        let secured = self.live.secured.get().map_or("", |s| s.sign());
        let note = self.live.note.get().copied().unwrap_or_default();
        let (reason, detail) = refusal.map_or((note, ""), |(r, d)| (r.label(), d));
        let how = how.label();
        let duration = u64::try_from(self.live.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let error = refusal.map(|(reason, detail)| format!("{reason}: {detail}"));
        let _ = self.live.ended.set(Ended { how, reason, detail: detail.to_owned() });
        self.live.reached(Stage::Ended);
        let destination = AddressText::new(opening.destination_address);
        let peer = opening.peer.map(AddressText::new);
        tracing::info!(
            target: "access",
            direction = opening.direction.label(),
            src.addr = %AddressText::new(opening.source_address),
            src.workload = &*opening.source.name,
            src.namespace = &*opening.source.namespace,
            src.identity = &*opening.source.identity,
            dst.addr = %destination,
            // What a peer's log has under this name; there `dst.addr` is where the tunnel goes, which is `peer` here.
            dst.hbone_addr = peer.map(|_| destination.as_str()),
            dst.service = opening.service.as_deref().unwrap_or_default(),
            dst.workload = &*opening.destination.name,
            dst.namespace = &*opening.destination.namespace,
            dst.identity = &*opening.destination.identity,
            peer = peer.as_ref().map_or("", AddressText::as_str),
            secured,
            bytes_sent = self.live.counters.sent(),
            bytes_recv = self.live.counters.received(),
            duration = %format_args!("{duration}ms"),
            duration_ms = duration,
            protocol = self.live.protocol(),
            requests = self.live.requests.load(Ordering::Relaxed),
            how,
            reason,
            detail,
            error,
            "connection"
        );
        self.observer.close(self.id, &self.live, how, refusal);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.told {
            self.tell(Ending::Lost, None);
        }
    }
}
