//! The exchanges of one HTTP/2 connection that are open beyond those that are kept: how many they are, and little
//! else.

use super::Sink;
use super::event::{Cut, Event, Method, Protocol, Response, Unanswered};
use super::frames::Block;
use super::hpack::Fields;

/// Most ends that are told at once: a client may have opened any number, and its worker has others to serve.
pub(super) const TOLD_MAX: u32 = 10_000;

/// Each is told of once, when something ends that may be it. Where that was an exchange that had been told of
/// before, it is told in place of another: the number stays right.
#[derive(Debug)]
pub(super) struct Beyond {
    open: u32,
    /// Of these, calls of gRPC, about.
    calls: u32,
    /// The stream that was the first while none else was open, ...
    first: u32,
    /// ... and the newest.
    newest: u32,
}

impl Beyond {
    pub(super) const fn new() -> Self {
        Self { open: 0, calls: 0, first: 0, newest: 0 }
    }

    /// A request's head.
    pub(super) fn request(&mut self, id: u32, is_call: bool) {
        if self.open == 0 {
            self.first = id;
        }
        self.newest = id;
        self.open = self.open.saturating_add(1);
        self.calls = self.calls.saturating_add(u32::from(is_call));
    }

    /// Whether a stream that is not kept may be one of these: it may have ended before, or be one that the server
    /// began.
    pub(super) fn may_have(&self, id: u32) -> bool {
        self.open > 0 && id % 2 == 1 && (self.first..=self.newest).contains(&id)
    }

    /// A block from the server on one of these: only the one that tells how the exchange went is counted.
    pub(super) fn response(&mut self, block: &Block, sink: Sink<'_>) {
        let Fields { status, is_grpc, grpc_status, .. } = block.fields;
        let tells = match status {
            Some(status) => status >= 200 && (block.end || !is_grpc),
            None => grpc_status.is_some(),
        };
        if !tells {
            return;
        }
        let is_call = is_grpc || grpc_status.is_some();
        self.open = self.open.saturating_sub(1);
        self.calls = self.calls.saturating_sub(u32::from(is_call)).min(self.open);
        sink(Event::Response(Response {
            protocol: protocol(is_call),
            method: Method::Other,
            // A call whose status comes in trailers has had a head with 200, or nothing would have followed.
            status: status.unwrap_or(200),
            grpc_status,
            latency: None,
        }));
    }

    /// So many ended without a whole response, or as many as there are.
    pub(super) fn cut(&mut self, count: u32, cut: Cut, sink: Sink<'_>) {
        let count = count.min(self.open);
        // Which they were is known if all have ended, or all are of one kind.
        let calls = count.min(self.calls);
        self.open -= count;
        self.calls -= calls;
        for number in 0..count.min(TOLD_MAX) {
            sink(Event::Unanswered(Unanswered {
                protocol: protocol(number < calls),
                method: Method::Other,
                status: None,
                cut,
                after: None,
            }));
        }
    }

    /// The server will not look at streams above this one; `kept` of those that may be of these are known to be
    /// others. None of them was answered, so nearly all that were opened are open.
    pub(super) fn going_away(&mut self, last: u32, kept: u32, sink: Sink<'_>) {
        let odd = |id: u32| id.div_ceil(2);
        let above = odd(self.newest).saturating_sub(odd(last));
        self.cut(above.saturating_sub(kept), Cut::GoingAway, sink);
        self.newest = self.newest.min(last);
    }
}

const fn protocol(is_call: bool) -> Protocol {
    if is_call { Protocol::Grpc } else { Protocol::Http2 }
}
