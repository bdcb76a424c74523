//! What arrives from the peer.

use lark_core::framing::{BadRequest, ConnectRequest, ErrorCode, Event, StreamId};
use lark_core::reason::Reason;

use super::{Engine, TunnelError};
use crate::acceptor::{Delivery, Inbound};
use crate::ended::{End, Ended, Refusal};
use crate::settings::Side;
use crate::stream::Stream;

impl Engine {
    /// Takes in what was decrypted.
    pub(super) fn receive(&mut self) -> Result<(), TunnelError> {
        let plain = std::mem::take(&mut self.plain);
        let mut at = 0;
        let now = self.began.elapsed();
        let result = loop {
            let rest = plain.get(at..).unwrap_or_default();
            match self.h2.receive(now, rest) {
                Ok((0, None)) => break Ok(()),
                Ok((taken, event)) => {
                    at += taken;
                    if let Some(event) = event {
                        self.event(event);
                    }
                }
                Err(error) => break Err(error.into()),
            }
        };
        self.plain = plain;
        self.plain.drain(..at);
        result
    }

    /// The stream's number as the codec wants it, if the stream is here.
    pub(super) fn id(&self, number: u32) -> Option<StreamId> {
        self.ids.get(&number).copied().filter(|_| self.streams.contains_key(&number))
    }

    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::SettingsReceived => {
                self.shared.streams_max.set(self.h2.peer_streams_max());
                if let Some(settled) = self.settled.take() {
                    // The dialler may have given up meanwhile.
                    let _ = settled.send(());
                }
            }
            Event::Connect { stream, request } => self.connect(stream, request),
            Event::Response { stream, status, reason } => self.response(stream, status, reason),
            Event::Data { stream, bytes } => self.data(stream, bytes),
            Event::End { stream } => {
                if let Some(entry) = self.streams.get_mut(&stream.value()) {
                    entry.peer_ended = true;
                    entry.waker.push();
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
            Event::GoAway { .. } => self.shared.going_away.set(true),
            Event::Pong { .. } => {}
        }
    }

    fn connect(&mut self, id: StreamId, request: Result<ConnectRequest, BadRequest>) {
        let Some(accepting) = &self.accepting else { return };
        let request = match request {
            Ok(request) => request,
            Err(error) => {
                tracing::warn!(peer = %accepting.peer, client = %accepting.client, %error, "a stream asks for what is not served");
                self.h2.respond(id, 400, Some(Reason::ProtocolError));
                return;
            }
        };
        if accepting.svids.now() >= accepting.expires {
            tracing::warn!(peer = %accepting.peer, client = %accepting.client, "a certificate of the tunnel has expired; it takes no more streams");
            self.h2.respond(id, 421, Some(Reason::TunnelLost));
            self.h2.go_away(ErrorCode::NO_ERROR);
            return;
        }
        let inbound = Inbound {
            client: accepting.client.clone(),
            server: accepting.server.clone(),
            peer: accepting.peer,
            request,
        };
        let dial = accepting.deliver.deliver(inbound);
        self.dials.push(Box::pin(async move { (id, dial.await) }));
        let number = id.value();
        self.ids.insert(number, id);
        self.streams.insert(number, Stream::new(Side::Server, self.ready.waker(number)));
    }

    /// A delivery's dial is done.
    pub(super) fn dialled(&mut self, id: StreamId, result: Result<Delivery, Refusal>) {
        let Some(stream) = self.streams.get_mut(&id.value()) else {
            // The peer did not wait for it.
            if let Ok(delivery) = result {
                lark_sys::socket::reset_on_close(&delivery.pod);
                drop(delivery.pod);
                (delivery.on_end)(Ended { established: true, how: End::ResetBySource, refusal: None });
            }
            return;
        };
        match result {
            Ok(delivery) => {
                stream.answered = true;
                stream.on_end = Some(delivery.on_end);
                stream.attach(delivery.pod, delivery.counters);
                self.h2.respond(id, 200, None);
            }
            Err(refusal) => {
                self.h2.respond(id, status(refusal.reason), Some(refusal.reason));
                self.finish(id.value(), End::Lost, Some(refusal));
            }
        }
    }

    fn response(&mut self, id: StreamId, status: u16, reason: Option<Reason>) {
        let Some(stream) = self.streams.get_mut(&id.value()) else { return };
        if (200..300).contains(&status) {
            stream.answered = true;
            if let Some(on_open) = stream.on_open.take() {
                on_open();
            }
            stream.waker.push();
            return;
        }
        let reason = reason.unwrap_or(Reason::ProtocolError);
        let detail = format!("the destination's agent refused with status {status}; its log says more");
        self.h2.reset(id, ErrorCode::CANCEL);
        self.finish(id.value(), End::Lost, Some(Refusal::new(reason, detail)));
    }

    fn data(&mut self, id: StreamId, bytes: &[u8]) {
        let Some(stream) = self.streams.get_mut(&id.value()) else { return };
        match stream.arrived(bytes) {
            Ok(taken) if taken > 0 => self.h2.consumed(id, taken),
            Ok(_) => {}
            Err(error) => self.pod_failed(id.value(), id, &error),
        }
    }

    fn reset(&mut self, id: StreamId, code: ErrorCode) {
        let how = match (self.side, code) {
            (_, ErrorCode::REFUSED_STREAM | ErrorCode::PROTOCOL_ERROR | ErrorCode::INTERNAL_ERROR) => {
                End::Lost
            }
            (Side::Client, _) => End::ResetByDestination,
            (Side::Server, _) => End::ResetBySource,
        };
        let refusal = (how == End::Lost).then(|| {
            Refusal::new(Reason::TunnelLost, format!("the peer's agent reset the stream with {code}"))
        });
        self.finish(id.value(), how, refusal);
    }
}

/// The status that says about the same as the reason, for peers that do not know ours.
fn status(reason: Reason) -> u16 {
    match reason {
        Reason::PolicyDenied | Reason::SourceUnknown | Reason::DestinationIdentityMismatch => 403,
        Reason::NotMyWorkload | Reason::DestinationUnknown => 404,
        Reason::DialTimeout => 504,
        Reason::DialRefused | Reason::DialFailed | Reason::HooksNotLive | Reason::ShuttingDown => 503,
        Reason::LimitReached => 429,
        _ => 502,
    }
}
