//! Protocols seen in passing. A [`Recogniser`] is shown the plaintext of one connection, both directions slice
//! by slice as they pass, and tells what requests were answered how and how fast. It never changes or delays a
//! byte, keeps no payload, and gives up for good, with a reason, where it would have to guess.
//!
//! HTTP/1.x (RFC 9112), HTTP/2 with prior knowledge (RFC 9113, header compression RFC 7541) and gRPC over it are
//! followed; TLS and PostgreSQL are known by name. How the bytes are cut into slices makes no difference to the
//! events, only to the times in them.
//!
//! Memory: at most [`MEMORY_MAX`] bytes a connection, far fewer for most. Time: bodies are skipped by their
//! length.

mod beyond;
mod detect;
mod event;
mod fields;
mod frames;
mod hpack;
mod http1;
mod http2;
mod huffman;
mod line;
mod message;
mod outcome;
mod streams;
mod table;

use std::time::Duration;

pub use event::{
    Class, Cut, Event, GrpcStatus, Judgement, Latency, Method, Opaque, Protocol, Response, Unanswered,
};
pub use outcome::{Answer, Outcome};

use detect::{Opening, Sign};
use http1::Http1;
use http2::Http2;

/// Most bytes that one connection's recogniser takes, itself and what it has allocated.
pub const MEMORY_MAX: usize = 2048 - 1;

/// Where events go.
type Sink<'a> = &'a mut dyn FnMut(Event);

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Both ends closed: a response that ends with its connection is whole.
    Closed,
    /// The client reset it.
    ResetByClient,
    /// The server reset it, or what was between them ended it.
    Reset,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// Follows one connection.
///
/// Show it bytes before they are passed on: then no response is seen before its request. `now` is any clock that
/// never goes back, the same in all calls.
#[derive(Debug)]
pub struct Recogniser {
    state: State,
    /// Who was the first to send no more, once one has.
    ended: Option<Side>,
}

#[derive(Debug)]
enum State {
    Opening(Opening),
    Http1(Box<Http1>),
    Http2(Box<Http2>),
    /// Opaque, known by name only, or finished.
    Silent,
}

impl Default for Recogniser {
    fn default() -> Self {
        Self::new()
    }
}

impl Recogniser {
    /// Before the first byte.
    pub const fn new() -> Self {
        Self { state: State::Opening(Opening::new()), ended: None }
    }

    /// The client, who opened the connection, has sent these bytes.
    pub fn client(&mut self, bytes: &[u8], now: Duration, sink: &mut dyn FnMut(Event)) {
        let seen = self.feed_client(bytes, nanoseconds(now), sink);
        self.unless_opaque(seen, sink);
    }

    /// The server has sent these bytes.
    pub fn server(&mut self, bytes: &[u8], now: Duration, sink: &mut dyn FnMut(Event)) {
        let seen = self.feed_server(bytes, nanoseconds(now), sink);
        self.unless_opaque(seen, sink);
    }

    /// The client sends no more, behind all that it has said.
    pub fn client_ended(&mut self) {
        if self.ended.is_none() {
            self.ended = Some(Side::Client);
            if let State::Http1(http) = &mut self.state {
                http.client_ended();
            }
        }
    }

    /// The server sends no more, behind all that it has said.
    pub fn server_ended(&mut self) {
        self.ended.get_or_insert(Side::Server);
    }

    /// The connection is over. Tells what was left without a whole response.
    pub fn finish(&mut self, ending: Ending, now: Duration, sink: &mut dyn FnMut(Event)) {
        let now = nanoseconds(now);
        let cut = if self.client_gave_up(ending) { Cut::ClientClosed } else { Cut::Closed };
        match &mut self.state {
            State::Http1(http) => http.finish(ending == Ending::Closed, cut, now, sink),
            State::Http2(http) => http.finish(cut, now, sink),
            State::Opening(_) | State::Silent => {}
        }
        self.state = State::Silent;
    }

    /// Whether the client wanted no more when the connection ended, as far as its ends show.
    fn client_gave_up(&self, ending: Ending) -> bool {
        match (self.ended, &self.state) {
            (Some(Side::Server), _) => false,
            _ if ending == Ending::ResetByClient => true,
            (Some(Side::Client), State::Http1(http)) => http.client_gave_up(),
            // Whoever waits for an answer has more to say, if only acknowledgements and windows.
            (Some(Side::Client), State::Http2(_)) => true,
            (Some(Side::Client), State::Opening(_) | State::Silent) | (None, _) => false,
        }
    }

    /// Whether no event will ever come: it can be dropped, and the bytes need not be shown.
    pub const fn is_silent(&self) -> bool {
        matches!(self.state, State::Silent)
    }

    /// Bytes that it takes now, itself and what it has allocated.
    pub fn memory(&self) -> usize {
        let allocated = match &self.state {
            State::Http1(http) => size_of::<Http1>() + http.heap_bytes(),
            State::Http2(http) => size_of::<Http2>() + http.heap_bytes(),
            State::Opening(_) | State::Silent => 0,
        };
        size_of::<Self>() + allocated
    }

    fn feed_client(&mut self, bytes: &[u8], now: u64, sink: Sink<'_>) -> Result<(), Opaque> {
        let opening = match &mut self.state {
            State::Opening(opening) if !bytes.is_empty() => opening,
            State::Http1(http) => return http.client(bytes, now, sink),
            State::Http2(http) => return http.client(bytes, now, sink),
            State::Opening(_) | State::Silent => return Ok(()),
        };
        let (taken, sign) = opening.take(bytes, now);
        let opening = *opening;
        self.state = match sign {
            Sign::Open => return Ok(()),
            Sign::Unknown => return Err(Opaque::Unknown),
            Sign::Http1 => State::Http1(Box::new(Http1::new())),
            Sign::Http2 => State::Http2(Box::new(Http2::new(false))),
            Sign::Named(protocol) => {
                sink(Event::Known(protocol));
                State::Silent
            }
        };
        self.feed_client(opening.bytes(), opening.begun, sink)?;
        self.feed_client(bytes.get(taken..).unwrap_or_default(), now, sink)
    }

    fn feed_server(&mut self, bytes: &[u8], now: u64, sink: Sink<'_>) -> Result<(), Opaque> {
        let opening = match &mut self.state {
            State::Opening(opening) if !bytes.is_empty() => *opening,
            State::Http1(http) => return http.server(bytes, now, sink),
            State::Http2(http) => return http.server(bytes, now, sink),
            State::Opening(_) | State::Silent => return Ok(()),
        };
        // The one thing that a server may say unasked is its SETTINGS: HTTP/2 will see.
        self.state = State::Http2(Box::new(Http2::new(opening.bytes().is_empty())));
        self.feed_client(opening.bytes(), opening.begun, sink)?;
        self.feed_server(bytes, now, sink)
    }

    fn unless_opaque(&mut self, seen: Result<(), Opaque>, sink: Sink<'_>) {
        if let Err(reason) = seen {
            sink(Event::Opaque(reason));
            self.state = State::Silent;
        }
    }
}

/// Shows a recogniser what arbitrary bytes spell, for fuzzing: each slice is headed by a byte whose lowest bit is
/// the direction and whose others are the length, of which 0 ends the direction; at the end the connection is
/// closed. Returns the most memory that was taken.
pub fn replay(mut script: &[u8], sink: &mut dyn FnMut(Event)) -> usize {
    let mut recogniser = Recogniser::new();
    let mut most = recogniser.memory();
    let mut now = Duration::ZERO;
    while let Some((head, rest)) = script.split_first() {
        let (bytes, later) = rest.split_at(usize::from(head >> 1).min(rest.len()));
        match *head {
            0 => recogniser.client_ended(),
            1 => recogniser.server_ended(),
            head if head & 1 == 0 => recogniser.client(bytes, now, sink),
            _ => recogniser.server(bytes, now, sink),
        }
        most = most.max(recogniser.memory());
        now += Duration::from_micros(1);
        script = later;
    }
    recogniser.finish(Ending::Closed, now, sink);
    most
}

fn nanoseconds(time: Duration) -> u64 {
    // Enough for five centuries.
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn since(begun: u64, now: u64) -> Duration {
    Duration::from_nanos(now.saturating_sub(begun))
}

#[cfg(test)]
mod tests;
