//! What arrives from the peer.

use std::io::IoSlice;
use std::task::{Context, Poll};

use lark_core::framing::{BadRequest, ConnectRequest, ErrorCode, Event, StreamId};
use lark_core::policy::Denial;
use lark_core::quota::Full;
use lark_core::reason::Reason;
use tokio::time::Instant;

use super::splice::Place;
use super::{Engine, Part, RECEIVED, RUN, TunnelError};
use crate::acceptor::{Delivery, Inbound};
use crate::ended::{End, Ended, Refusal};
use crate::pod::Pod;
use crate::record::ROOM;
use crate::settings::Side;
use crate::stream::Stream;

/// Consecutive DATA of one stream, written to its pod at once.
struct Run<'a> {
    stream: Option<StreamId>,
    slices: [IoSlice<'a>; RUN],
    count: usize,
}

impl<'a> Run<'a> {
    fn new() -> Self {
        Self { stream: None, slices: [IoSlice::new(&[]); RUN], count: 0 }
    }

    /// False if it does not go with what is there.
    fn push(&mut self, stream: StreamId, bytes: &'a [u8]) -> bool {
        if self.stream.is_some_and(|s| s != stream) {
            return false;
        }
        let Some(slot) = self.slices.get_mut(self.count) else { return false };
        *slot = IoSlice::new(bytes);
        self.stream = Some(stream);
        self.count += 1;
        true
    }
}

impl Engine {
    /// What came with the handshake's last bytes.
    pub(super) fn take_buffered(&mut self) -> Result<(), TunnelError> {
        let mut records = self.records.buffered();
        self.take_records(&mut records, Instant::now())
    }

    /// Decrypts what has arrived, where it is, and takes it in. What was decrypted before an end or an error counts.
    fn take_records(&mut self, mut received: &mut [u8], now: Instant) -> Result<(), TunnelError> {
        let mut run = Run::new();
        let result = loop {
            match self.records.open(&mut received) {
                Ok(Some(plain)) => match self.receive(plain, now, &mut run) {
                    Ok(()) => {}
                    Err(error) => break Err(error),
                },
                Ok(None) => break Ok(()),
                Err(error) => break Err(error.into()),
            }
        };
        self.data(&mut run);
        self.records.keep(received);
        result
    }

    /// Takes in plaintext.
    fn receive<'a>(&mut self, plain: &'a [u8], now: Instant, run: &mut Run<'a>) -> Result<(), TunnelError> {
        if self.rest.is_empty() {
            let taken = self.frames(plain, now, run)?;
            self.rest = plain.get(taken..).unwrap_or_default().to_vec();
            return Ok(());
        }
        // A frame's header or a control frame that two records share: seldom, and worth a copy.
        self.data(run);
        let mut joined = std::mem::take(&mut self.rest);
        joined.extend_from_slice(plain);
        let mut own = Run::new();
        let taken = self.frames(&joined, now, &mut own);
        self.data(&mut own);
        joined.drain(..taken?);
        if !joined.is_empty() {
            self.rest = joined;
        }
        Ok(())
    }

    /// Takes in what is whole of those bytes, and says how many that were.
    fn frames<'a>(&mut self, plain: &'a [u8], now: Instant, run: &mut Run<'a>) -> Result<usize, TunnelError> {
        let mut at = 0;
        let now = now.duration_since(self.began);
        loop {
            let (taken, event) = self.h2.receive(now, plain.get(at..).unwrap_or_default())?;
            if taken == 0 && event.is_none() {
                return Ok(at);
            }
            at += taken;
            match event {
                Some(Event::Data { stream, bytes }) if run.push(stream, bytes) => {}
                Some(Event::Data { stream, bytes }) => {
                    self.data(run);
                    run.push(stream, bytes);
                }
                // In order: an end or a reset comes after the bytes before it.
                Some(event) => {
                    self.data(run);
                    self.event(event);
                }
                None => {}
            }
        }
    }

    /// Gives a run to its pod, or to the stream's backlog.
    fn data(&mut self, run: &mut Run<'_>) {
        let count = std::mem::take(&mut run.count);
        let Some(id) = run.stream.take() else { return };
        let Some(stream) = self.streams.get_mut(&id.value()) else { return };
        let slices = run.slices.get_mut(..count).unwrap_or_default();
        let arrived: usize = slices.iter().map(|slice| slice.len()).sum();
        match stream.arrived(slices) {
            Err(error) => self.pod_refused(id.value(), &error),
            Ok(taken) => {
                if taken > 0 {
                    self.h2.consumed(id, taken);
                }
                if taken < arrived {
                    match self.held.hold(arrived - taken) {
                        Ok(()) => stream.keep(slices, taken),
                        Err(full) => self.too_much(id, full),
                    }
                }
            }
        }
    }

    /// More waits for applications that do not read than is kept.
    pub(super) fn too_much(&mut self, id: StreamId, full: Full) {
        let detail = format!("{}: of bytes that wait for applications, {full}", self.name);
        self.h2.reset(id, ErrorCode::ENHANCE_YOUR_CALM);
        self.finish(id.value(), End::Lost, Some(Refusal::new(Reason::LimitReached, detail)));
    }

    pub(super) fn event(&mut self, event: Event<'_>) {
        match event {
            Event::SettingsReceived => {
                if let Part::Dialling(part) = &mut self.part {
                    part.shared.streams_max.set(self.h2.peer_streams_max());
                    if let Some(settled) = part.settled.take() {
                        // The dialler may have given up meanwhile.
                        let _ = settled.send(());
                    }
                }
            }
            Event::Connect { stream, request } => self.connect(stream, request),
            Event::Response { stream, status, reason, policy } => {
                self.response(stream, status, reason, policy);
            }
            // Goes into a run before it comes here.
            Event::Data { .. } | Event::Pong { .. } => {}
            Event::End { stream } => {
                if let Some(entry) = self.streams.get_mut(&stream.value()) {
                    entry.peer_ended();
                }
            }
            Event::Reset { stream, code } => self.reset(stream, code),
            Event::WindowOpened { stream: Some(stream) } => {
                if let Some(entry) = self.streams.get(&stream.value()) {
                    entry.waker.push();
                }
            }
            Event::WindowOpened { stream: None } => {
                for entry in self.streams.values() {
                    entry.waker.push();
                }
            }
            Event::GoAway { .. } => self.going_away(),
        }
    }

    fn connect(&mut self, id: StreamId, request: Result<ConnectRequest, BadRequest>) {
        let Part::Accepting(accepting) = &self.part else { return };
        let (peer, client) = (accepting.peer, &accepting.client);
        let request = match request {
            Ok(request) => request,
            Err(error) => {
                let reason = error.reason();
                accepting.observer.stream_refused(peer, client, reason, &error);
                self.h2.respond(id, status(reason), Some(reason), None);
                return;
            }
        };
        if !self.proof.holds() {
            // Not processed, so the other end takes it to a new tunnel, whose handshake settles it.
            tracing::debug!(%peer, %client, "what the tunnel proved counts no more; it takes no more streams");
            self.h2.reset(id, ErrorCode::REFUSED_STREAM);
            self.h2.go_away(ErrorCode::NO_ERROR);
            return;
        }
        let permit = match accepting.load.delivery(accepting.origin) {
            Ok(permit) => permit,
            Err(full) => {
                let reason = Reason::LimitReached;
                accepting.observer.stream_refused(peer, client, reason, &full);
                self.h2.respond(id, status(reason), Some(reason), None);
                return;
            }
        };
        let inbound = Inbound { client: client.clone(), server: accepting.server.clone(), peer, request };
        let dial = accepting.deliver.deliver(inbound);
        self.dials.push(Box::pin(async move {
            let result = dial.await;
            drop(permit);
            (id, result)
        }));
        let number = id.value();
        self.streams.insert(number, Box::new(Stream::accepted(id, self.ready.waker(number))));
    }

    /// A delivery's dial is done.
    pub(super) fn delivered(&mut self, id: StreamId, result: Result<Delivery, Refusal>) {
        let Some(stream) = self.streams.get_mut(&id.value()) else {
            // The peer did not wait for it.
            if let Ok(delivery) = result {
                // Resets it.
                drop(delivery.pod);
                (delivery.on_end)(Ended::by_pod(false, End::ResetBySource));
            }
            return;
        };
        match result {
            Ok(delivery) => {
                let may_wait = stream.peer_needs_no_answer();
                stream.deliver(Pod::new(delivery.pod), delivery.traffic, delivery.on_end);
                match &delivery.would_deny {
                    None if may_wait => self.answer_soon(id),
                    would_deny => self.h2.respond(id, 200, None, would_deny.as_ref()),
                }
            }
            Err(refusal) => {
                let policy = refusal.policy.as_ref();
                self.h2.respond(id, status(refusal.reason), Some(refusal.reason), policy);
                self.finish(id.value(), End::Lost, Some(refusal));
            }
        }
    }

    fn response(&mut self, id: StreamId, status: u16, reason: Option<Reason>, policy: Option<Denial>) {
        let Some(stream) = self.streams.get_mut(&id.value()) else { return };
        if (200..300).contains(&status) {
            stream.answered(policy);
            return;
        }
        let reason = reason.unwrap_or_else(|| reason_of(status));
        let more = match &policy {
            Some(policy) => format!("by what it says, {policy}"),
            None => "its log says more".to_owned(),
        };
        let detail =
            format!("{}: the other agent refused the stream with status {status}; {more}", self.name);
        self.h2.reset(id, ErrorCode::CANCEL);
        self.finish(id.value(), End::Lost, Some(Refusal { policy, ..Refusal::new(reason, detail) }));
    }

    fn reset(&mut self, id: StreamId, code: ErrorCode) {
        let Some(stream) = self.streams.get(&id.value()) else { return };
        let how = match (self.side(), code) {
            // RFC 9113, section 8.7: it was not processed, nothing of it reached anybody.
            // How an agent ends what its policies do not allow any more.
            (_, ErrorCode::INADEQUATE_SECURITY) => {
                let detail = format!(
                    "{}: the other agent ended the connection because of a change of policy; `lark policy explain` names it",
                    self.name
                );
                return self.finish(id.value(), End::Lost, Some(Refusal::by_policy(detail, None)));
            }
            (Side::Client, ErrorCode::REFUSED_STREAM) if !stream.is_answered() => {
                return self.give_back(id.value());
            }
            (
                _,
                ErrorCode::REFUSED_STREAM
                | ErrorCode::PROTOCOL_ERROR
                | ErrorCode::INTERNAL_ERROR
                | ErrorCode::ENHANCE_YOUR_CALM,
            ) => End::Lost,
            (Side::Client, _) => End::ResetByDestination,
            (Side::Server, _) => End::ResetBySource,
        };
        let refusal = (how == End::Lost).then(|| {
            let detail = format!("{}: the other agent reset the stream with {code}", self.name);
            let calm = code == ErrorCode::ENHANCE_YOUR_CALM;
            Refusal::new(if calm { Reason::LimitReached } else { Reason::TunnelLost }, detail)
        });
        self.finish(id.value(), how, refusal);
    }

    /// Reads once from the node's socket and takes in what came. False if there was nothing.
    pub(super) fn poll_receive(&mut self, cx: &mut Context<'_>) -> Result<bool, TunnelError> {
        if let Some(spliced) = self.poll_splice(cx) {
            return spliced;
        }
        let most = self.worth_reading();
        let mut received = RECEIVED.take();
        // It is there, unless somebody has panicked with it.
        received.resize(ROOM, 0);
        let result = match self.records.poll_read(cx, received.get_mut(..most).unwrap_or_default()) {
            Poll::Pending => Ok(false),
            Poll::Ready(Err(error)) => Err(error.into()),
            Poll::Ready(Ok(count)) => {
                let now = Instant::now();
                self.silence.heard(now);
                self.moved += count;
                self.place = Place::Unknown;
                self.take_records(received.get_mut(..count).unwrap_or_default(), now).map(|()| true)
            }
        };
        RECEIVED.set(received);
        result
    }
}

/// The status that says about the same as the reason, for peers that do not know ours.
fn status(reason: Reason) -> u16 {
    match reason {
        Reason::NotConnect
        | Reason::AuthorityUnusable
        | Reason::ForwardedUnusable
        | Reason::AuthorityPortZero => 400,
        Reason::PolicyDenied
        | Reason::SourceUnknown
        | Reason::DestinationIdentityMismatch
        | Reason::AuthorityLocal
        | Reason::AuthorityAgent => 403,
        Reason::NotMyWorkload | Reason::NotMyNode | Reason::AuthorityService | Reason::DestinationUnknown => {
            404
        }
        Reason::DialTimeout => 504,
        Reason::DialRefused | Reason::DialFailed | Reason::HooksNotLive | Reason::ShuttingDown => 503,
        Reason::LimitReached => 429,
        _ => 502,
    }
}

/// What a status says of a peer that gives no reason of ours.
const fn reason_of(status: u16) -> Reason {
    match status {
        401 | 403 => Reason::PolicyDenied,
        404 => Reason::NotMyWorkload,
        429 => Reason::LimitReached,
        504 => Reason::DialTimeout,
        500..=503 => Reason::DialFailed,
        _ => Reason::ProtocolError,
    }
}
