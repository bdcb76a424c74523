//! The exchanges of one HTTP/2 connection that are open, up to a bound.

use crate::framing::ErrorCode;

use super::beyond::Beyond;
use super::event::{Cut, Event, GrpcStatus, Latency, Method, Opaque, Protocol, Response, Unanswered};
use super::frames::Block;
use super::hpack::Fields;
use super::{Sink, since};

/// Most exchanges timed at once. Of further ones only their number is known.
pub(super) const STREAMS_MAX: usize = 40;

/// By so much the room for exchanges grows.
const STEP: usize = 8;

/// A request without its whole response.
#[derive(Debug, Clone, Copy)]
struct Stream {
    begun: u64,
    /// When the final response began, once there is a status.
    first: u64,
    id: u32,
    /// 0 before the final response.
    status: u16,
    method: Method,
    /// Nothing if it is not gRPC; then the call's status, once it is there.
    call: Option<Option<GrpcStatus>>,
}
const _: () = assert!(size_of::<Stream>() == 24);

/// All open exchanges.
#[derive(Debug)]
pub(super) struct Streams {
    open: Vec<Stream>,
    beyond: Beyond,
    /// The highest that the server looks at, as its GOAWAY said.
    last: u32,
}

impl Streams {
    pub(super) const fn new() -> Self {
        Self { open: Vec::new(), beyond: Beyond::new(), last: u32::MAX }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.open.capacity() * size_of::<Stream>()
    }

    fn find(&mut self, id: u32) -> Option<(usize, &mut Stream)> {
        self.open.iter_mut().enumerate().find(|(_, stream)| stream.id == id)
    }

    /// A request's head.
    pub(super) fn request(&mut self, block: &Block, now: u64, sink: Sink<'_>) {
        let Fields { method, is_grpc, .. } = block.fields;
        let stream = Stream {
            begun: block.begun,
            first: 0,
            id: block.stream,
            status: 0,
            method: method.unwrap_or(Method::Other),
            call: is_grpc.then_some(None),
        };
        if stream.id > self.last {
            // It crossed the GOAWAY, and nothing will ever be said of it.
            sink(Event::Unanswered(stream.unanswered(Cut::GoingAway, now)));
            return;
        }
        if self.open.len() == STREAMS_MAX {
            self.beyond.request(stream.id, is_grpc);
            return;
        }
        if self.open.len() == self.open.capacity() {
            self.open.reserve_exact(STEP);
        }
        self.open.push(stream);
    }

    /// A head or trailers from the server.
    pub(super) fn response(&mut self, block: &Block, now: u64, sink: Sink<'_>) -> Result<(), Opaque> {
        let Fields { status, is_grpc, grpc_status, .. } = block.fields;
        let Some((at, stream)) = self.find(block.stream) else {
            if self.beyond.may_have(block.stream) {
                self.beyond.response(block, sink);
            }
            return Ok(());
        };
        match status {
            Some(0) => return Err(Opaque::Broken),
            // Interim: another head will come.
            Some(100..=199) if !block.end => return Ok(()),
            Some(status) => (stream.status, stream.first) = (status, block.begun),
            None => {}
        }
        if is_grpc && stream.call.is_none() {
            stream.call = Some(None);
        }
        if let Some(call) = &mut stream.call {
            *call = grpc_status.or(*call);
        }
        // What follows a granted CONNECT is no part of an exchange (RFC 9113, section 8.5).
        let granted = stream.method == Method::Connect && (200..300).contains(&stream.status);
        if block.end || granted { self.end_at(at, now, sink) } else { Ok(()) }
    }

    /// The server's last byte of a stream.
    pub(super) fn end(&mut self, id: u32, now: u64, sink: Sink<'_>) -> Result<(), Opaque> {
        match self.find(id) {
            Some((at, _)) => self.end_at(at, now, sink),
            None => Ok(()),
        }
    }

    fn end_at(&mut self, at: usize, now: u64, sink: Sink<'_>) -> Result<(), Opaque> {
        let stream = self.open.swap_remove(at);
        if stream.status == 0 {
            return Err(Opaque::Broken);
        }
        sink(Event::Response(Response {
            protocol: stream.protocol(),
            method: stream.method,
            status: stream.status,
            grpc_status: stream.call.flatten(),
            latency: Some(Latency {
                first_byte: since(stream.begun, stream.first),
                last_byte: since(stream.begun, now),
            }),
        }));
        Ok(())
    }

    /// The server reset a stream.
    pub(super) fn reset_by_server(&mut self, id: u32, code: ErrorCode, now: u64, sink: Sink<'_>) {
        if code == ErrorCode::NO_ERROR && self.find(id).is_none() {
            // Behind a whole answer, which was counted, it wants no more of the request (RFC 9113, section 8.1).
            return;
        }
        // Refused, it was not processed (section 8.7).
        let cut = if code == ErrorCode::REFUSED_STREAM { Cut::GoingAway } else { Cut::ServerReset };
        self.reset(id, cut, now, sink);
    }

    /// One end reset a stream.
    pub(super) fn reset(&mut self, id: u32, cut: Cut, now: u64, sink: Sink<'_>) {
        if let Some((at, _)) = self.find(id) {
            sink(Event::Unanswered(self.open.swap_remove(at).unanswered(cut, now)));
        } else if self.beyond.may_have(id) {
            self.beyond.cut(1, cut, sink);
        }
    }

    /// The server will not look at streams above this one.
    pub(super) fn going_away(&mut self, last: u32, now: u64, sink: Sink<'_>) {
        // It may say so again and of fewer (RFC 9113, section 6.8); at first it names the highest there is, mostly.
        self.last = self.last.min(last);
        let (mut kept, beyond) = (0, &mut self.beyond);
        drop_if(&mut self.open, Cut::GoingAway, now, sink, |stream| {
            let gone = stream.id > last;
            kept += u32::from(gone && beyond.may_have(stream.id));
            gone
        });
        beyond.going_away(last, kept, sink);
    }

    /// The connection is over.
    pub(super) fn finish(&mut self, cut: Cut, now: u64, sink: Sink<'_>) {
        drop_if(&mut self.open, cut, now, sink, |_| true);
        self.beyond.cut(u32::MAX, cut, sink);
    }
}

fn drop_if(
    open: &mut Vec<Stream>,
    cut: Cut,
    now: u64,
    sink: Sink<'_>,
    mut gone: impl FnMut(&Stream) -> bool,
) {
    open.retain(|stream| {
        let gone = gone(stream);
        if gone {
            sink(Event::Unanswered(stream.unanswered(cut, now)));
        }
        !gone
    });
}

impl Stream {
    fn protocol(&self) -> Protocol {
        if self.call.is_some() { Protocol::Grpc } else { Protocol::Http2 }
    }

    fn unanswered(&self, cut: Cut, now: u64) -> Unanswered {
        Unanswered {
            protocol: self.protocol(),
            method: self.method,
            status: Some(self.status).filter(|status| *status != 0),
            cut,
            after: Some(since(self.begun, now)),
        }
    }
}
