//! HTTP/1.x: which response belongs to which request (RFC 9112, sections 6.3 and 9.3).

use std::collections::VecDeque;

use super::event::{Cut, Event, Latency, Method, Opaque, Protocol, Response, Unanswered};
use super::fields::{Body, Start};
use super::message::{Messages, Step};
use super::{Sink, since};

/// Most requests sent ahead on one connection.
pub(super) const PIPELINE_MAX: usize = 64;

/// A request without its whole response.
#[derive(Debug, Clone, Copy)]
struct Pending {
    begun: u64,
    method: Method,
}

/// Both directions of a connection.
#[derive(Debug)]
pub(super) struct Http1 {
    requests: Messages,
    responses: Messages,
    pending: VecDeque<Pending>,
    /// Whether a first request line has shown that this is HTTP/1.x indeed.
    known: bool,
    /// Of the response on its way; 0 before its status line and after an interim one.
    status: u16,
    /// When the final response began.
    first: u64,
    /// When the server's last byte came.
    last: u64,
    /// The client has ended in the middle of a request or an answer, and the server has said nothing since.
    left: bool,
}

impl Http1 {
    pub(super) fn new() -> Self {
        Self {
            requests: Messages::new(false),
            responses: Messages::new(true),
            pending: VecDeque::new(),
            known: false,
            status: 0,
            first: 0,
            last: 0,
            left: false,
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.pending.capacity() * size_of::<Pending>()
    }

    pub(super) fn client(&mut self, mut bytes: &[u8], now: u64, sink: Sink<'_>) -> Result<(), Opaque> {
        while !bytes.is_empty() {
            let (taken, step) = match self.requests.take(bytes, now) {
                Err(_) if !self.known => return Err(Opaque::Unknown),
                other => other?,
            };
            bytes = bytes.get(taken..).unwrap_or_default();
            match step {
                Some(Step::Start(Start::Request(method))) => {
                    if !self.known {
                        self.known = true;
                        sink(Event::Known(Protocol::Http1));
                    }
                    if self.pending.len() == PIPELINE_MAX {
                        return Err(Opaque::Pipeline);
                    }
                    self.pending.push_back(Pending { begun: self.requests.begun, method });
                }
                Some(Step::Head(body)) => {
                    // Where nothing is said, a request has no body.
                    self.requests.body(if body == Body::Unsaid { Body::Length(0) } else { body });
                    if self.pending.back().is_some_and(|newest| newest.method == Method::Connect) {
                        self.requests.hold();
                    }
                }
                Some(Step::End | Step::Start(_)) | None => {}
            }
        }
        Ok(())
    }

    pub(super) fn server(&mut self, mut bytes: &[u8], now: u64, sink: Sink<'_>) -> Result<(), Opaque> {
        self.last = now;
        // A client that is gone answers it with a reset, and the others go on reading.
        self.left = false;
        while !bytes.is_empty() {
            let Some(pending) = self.pending.front().copied() else { return Err(Opaque::Unsolicited) };
            let (taken, step) = self.responses.take(bytes, now)?;
            bytes = bytes.get(taken..).unwrap_or_default();
            match step {
                Some(Step::Start(Start::Response(status))) => {
                    (self.status, self.first) = (status, self.responses.begun);
                }
                Some(Step::Head(body)) => {
                    if self.head(pending.method, body) {
                        self.end(pending, now, sink)?;
                    }
                }
                Some(Step::End) => self.end(pending, now, sink)?,
                Some(Step::Start(_)) | None => {}
            }
        }
        Ok(())
    }

    /// Decides where the response ends (section 6.3); true if it is here.
    fn head(&mut self, method: Method, said: Body) -> bool {
        let body = match self.status {
            101 => return true,
            100..=199 => {
                self.responses.body(Body::Length(0));
                self.status = 0;
                return false;
            }
            200..=299 if method == Method::Connect => return true,
            204 | 304 => Body::Length(0),
            _ if method == Method::Head => Body::Length(0),
            _ => said,
        };
        self.responses.body(body)
    }

    fn end(&mut self, pending: Pending, now: u64, sink: Sink<'_>) -> Result<(), Opaque> {
        self.pending.pop_front();
        let status = std::mem::take(&mut self.status);
        let first_byte = since(pending.begun, self.first);
        sink(Event::Response(Response {
            protocol: Protocol::Http1,
            method: pending.method,
            status,
            grpc_status: None,
            latency: Some(Latency { first_byte, last_byte: since(pending.begun, now) }),
        }));
        match (status, pending.method) {
            (101, _) | (200..=299, Method::Connect) => Err(Opaque::Upgraded),
            (_, Method::Connect) => self.requests.resume(),
            _ => Ok(()),
        }
    }

    /// The client sends no more. Between a whole request and its answer that tells nothing: whoever asks no more may
    /// say so and still wait (`nc -N`), and whoever gives up then looks the same unless it resets. What a server leaves
    /// unanswered then is its own.
    pub(super) fn client_ended(&mut self) {
        self.left = self.requests.is_underway() || self.status != 0;
    }

    /// Whether the client, which has ended, is known to have closed.
    pub(super) fn client_gave_up(&self) -> bool {
        self.left
    }

    /// The connection is over, `whole` if it was closed rather than reset; `cut` is what became of the rest.
    pub(super) fn finish(&mut self, whole: bool, cut: Cut, now: u64, sink: Sink<'_>) {
        if whole
            && self.responses.ends_with_connection()
            && let Some(pending) = self.pending.front().copied()
        {
            // What the exchange leads to does not matter any more.
            _ = self.end(pending, self.last, sink);
        }
        for pending in self.pending.drain(..) {
            sink(Event::Unanswered(Unanswered {
                protocol: Protocol::Http1,
                method: pending.method,
                status: Some(std::mem::take(&mut self.status)).filter(|status| *status != 0),
                cut,
                after: Some(since(pending.begun, now)),
            }));
        }
    }
}
