//! Header blocks as they arrive: whole or in two pieces, of requests, answers and trailers.

use std::time::Duration;

use crate::explain::Violation;

use super::connection::{Connection, Event, Role};
use super::error::{ConnectionError, ErrorCode};
use super::frame::{self, Header};
use super::rate;
use super::request::{self, ConnectRequest};
use super::streams::Stream;
use super::{MAX_HEADER_BLOCK, StreamId};

/// A block of which the second piece is still to come.
#[derive(Debug)]
pub(super) struct Block {
    stream: u32,
    end_stream: bool,
    bytes: Vec<u8>,
}

impl Connection {
    pub(super) fn receive_headers(
        &mut self,
        now: Duration,
        header: Header,
        payload: &[u8],
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        if header.stream == 0 {
            return Err(ConnectionError::protocol(Violation::StreamState, "HEADERS without a stream"));
        }
        let mut block = frame::unpadded(header, payload)
            .ok_or(ConnectionError::protocol(Violation::FrameUnexpected, "padding longer than its frame"))?;
        if header.has(frame::HAS_PRIORITY) {
            block = block.get(5..).ok_or(ConnectionError::size("HEADERS too short for their priority"))?;
        }
        let end_stream = header.has(frame::END_STREAM);
        if header.has(frame::END_HEADERS) {
            return self.receive_block(now, header.stream, end_stream, block);
        }
        self.block = Some(Block { stream: header.stream, end_stream, bytes: block.to_vec() });
        Ok(None)
    }

    pub(super) fn receive_continuation(
        &mut self,
        now: Duration,
        header: Header,
        payload: &[u8],
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        let Some(mut block) = self.block.take() else {
            return Err(ConnectionError::protocol(Violation::FrameUnexpected, "CONTINUATION of nothing"));
        };
        if block.stream != header.stream {
            return Err(ConnectionError::protocol(
                Violation::FrameUnexpected,
                "CONTINUATION of another stream",
            ));
        }
        block.bytes.extend(payload);
        // One is enough for what a CONNECT needs; endless ones are an attack (CVE-2024-27316).
        if block.bytes.len() > MAX_HEADER_BLOCK || !header.has(frame::END_HEADERS) {
            return Err(ConnectionError::calm(
                Violation::ContinuationFlood,
                "a header block in too many or too large pieces",
            ));
        }
        self.receive_block(now, block.stream, block.end_stream, &block.bytes)
    }

    fn receive_block(
        &mut self,
        now: Duration,
        number: u32,
        end_stream: bool,
        block: &[u8],
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        // Decoded even if nobody wants it, because it changes the table.
        let fields = self.decoder.decode(block)?;
        let stream = StreamId(number);
        let fresh = number > self.highest_seen;
        if self.role == Role::Server && fresh {
            if number.is_multiple_of(2) {
                return Err(ConnectionError::protocol(
                    Violation::StreamState,
                    "a stream with an even number from the dialling end",
                ));
            }
            self.highest_seen = number;
            let most = usize::try_from(self.settings.max_streams).unwrap_or(usize::MAX);
            if self.sent_goaway || self.streams.len() >= most {
                if !self.rates.refused.allows(now, rate::REFUSED) {
                    return Err(ConnectionError::calm(
                        Violation::StreamFlood,
                        "too many streams beyond our limit",
                    ));
                }
                self.push_reset(number, ErrorCode::REFUSED_STREAM);
                return Ok(None);
            }
            let request = ConnectRequest::decode(&fields);
            if request.is_err() && !self.rates.bad_requests.allows(now, rate::BAD_REQUESTS) {
                return Err(ConnectionError::calm(
                    Violation::RequestFlood,
                    "too many requests that are not served",
                ));
            }
            self.streams.insert(number, Stream::new(self.peer.window, self.settings.window));
            if end_stream {
                self.ended(number);
                self.pending.push_back(Event::End { stream });
            }
            return Ok(Some(Event::Connect { stream, request }));
        }
        self.known(number, "HEADERS on a stream that was never opened")?;
        let Some(entry) = self.streams.get_mut(&number) else { return Ok(None) };
        if entry.received_end {
            return Err(ConnectionError::protocol(Violation::StreamState, "HEADERS after END_STREAM"));
        }
        if self.role == Role::Client && !entry.answered {
            let Some((status, reason, policy)) = request::decode_response(&fields) else {
                return Ok(Some(self.break_stream(number)));
            };
            // Interim answers are not for tunnels.
            if (100..200).contains(&status) {
                return Ok(if end_stream { Some(self.break_stream(number)) } else { None });
            }
            entry.answered = true;
            if end_stream {
                self.ended(number);
                self.pending.push_back(Event::End { stream });
            }
            return Ok(Some(Event::Response { stream, status, reason, policy }));
        }
        // Trailers have no meaning in a tunnel; they may only end it.
        if end_stream {
            self.ended(number);
            Ok(Some(Event::End { stream }))
        } else {
            Ok(Some(self.break_stream(number)))
        }
    }

    /// Resets a stream whose peer broke the protocol on it alone.
    fn break_stream(&mut self, number: u32) -> Event<'static> {
        self.streams.remove(&number);
        self.push_reset(number, ErrorCode::PROTOCOL_ERROR);
        Event::Reset { stream: StreamId(number), code: ErrorCode::PROTOCOL_ERROR }
    }
}
