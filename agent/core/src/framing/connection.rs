//! The receiving half: bytes in, events out.

use std::collections::VecDeque;
use std::time::Duration;

use crate::explain::Violation;
use crate::policy::Denial;
use crate::reason::Reason;

use super::error::{ConnectionError, ErrorCode};
use super::flow::SendWindow;
use super::frame::{self, Header};
use super::headers::Block;
use super::hpack::Decoder;
use super::rate::{self, Rate};
use super::request::{BadRequest, ConnectRequest};
use super::settings::{DEFAULT_WINDOW, MAX_WINDOW, Peer, Settings};
use super::streams::Streams;
use super::{FRAME_HEADER, MAX_HEADER_BLOCK, MAX_OUTPUT, StreamId};

/// Which end of the connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The dialling agent: opens streams.
    Client,
    /// The accepting agent: answers them.
    Server,
}

/// What arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The peer's SETTINGS are known (again).
    SettingsReceived,
    /// A stream was opened by the peer (accepting end).
    Connect {
        /// The stream.
        stream: StreamId,
        /// What it asks for, or why that cannot be served.
        request: Result<ConnectRequest, BadRequest>,
    },
    /// A stream was answered (dialling end).
    Response {
        /// The stream.
        stream: StreamId,
        /// The status; 2xx means that the stream is open.
        status: u16,
        /// Why it was refused, if a Lark refused it.
        reason: Option<Reason>,
        /// The policy that denied it, or whose dry run would have. Believed by people only.
        policy: Option<Denial>,
    },
    /// Payload; perhaps a part of a frame only.
    Data {
        /// The stream.
        stream: StreamId,
        /// The bytes, where they lie in the input.
        bytes: &'a [u8],
    },
    /// The peer sends no more on this stream.
    End {
        /// The stream.
        stream: StreamId,
    },
    /// The peer reset this stream, or says that it never processed it.
    Reset {
        /// The stream.
        stream: StreamId,
        /// Why.
        code: ErrorCode,
    },
    /// A stream that lacked window may go on; without a number, all of them.
    WindowOpened {
        /// The stream.
        stream: Option<StreamId>,
    },
    /// The peer takes no more streams.
    GoAway {
        /// The last stream that it processes.
        last: StreamId,
        /// Why.
        code: ErrorCode,
    },
    /// The answer to a PING of ours.
    Pong {
        /// What the PING carried.
        opaque: [u8; 8],
    },
}

/// A DATA frame of which a part is still to come.
#[derive(Debug, Clone, Copy)]
struct Partial {
    stream: u32,
    payload: usize,
    padding: usize,
    end: bool,
}

#[derive(Debug, Default)]
pub(super) struct Rates {
    control: Rate,
    empty: Rate,
    resets: Rate,
    pub(super) refused: Rate,
    pub(super) bad_requests: Rate,
    updates: Rate,
    tiny_updates: Rate,
}

/// One end of an HTTP/2 connection that carries CONNECT streams.
#[derive(Debug)]
pub struct Connection {
    pub(super) role: Role,
    pub(super) settings: Settings,
    pub(super) peer: Peer,
    pub(super) streams: Streams,
    pub(super) send: SendWindow,
    pub(super) connection_blocked: bool,
    pub(super) next_stream: u32,
    pub(super) highest_seen: u32,
    pub(super) sent_goaway: bool,
    pub(super) received_goaway: bool,
    pub(super) out: Vec<u8>,
    pub(super) out_max: usize,
    /// Streams whose answer was put off, and others that have said it since.
    pub(super) late: Vec<u32>,
    /// Received on the connection and not yet credited.
    received: u32,
    preface_due: bool,
    settings_due: bool,
    partial: Option<Partial>,
    pub(super) block: Option<Block>,
    pub(super) decoder: Decoder,
    pub(super) pending: VecDeque<Event<'static>>,
    pub(super) rates: Rates,
}

/// The connection's receive window: as large as it can be, since memory is bounded per stream and a
/// stream that waits must never hold up the others.
const CONNECTION_WINDOW: i64 = MAX_WINDOW;

impl Connection {
    /// A fresh connection; its preface and SETTINGS are in the output.
    pub fn new(role: Role, settings: Settings) -> Self {
        let mut out = Vec::with_capacity(128);
        if role == Role::Client {
            out.extend(frame::PREFACE);
        }
        settings.write(&mut out);
        let increment = u32::try_from(CONNECTION_WINDOW - i64::from(DEFAULT_WINDOW)).unwrap_or(0);
        frame::push(&mut out, frame::WINDOW_UPDATE, 0, 0, &increment.to_be_bytes());
        Self {
            role,
            settings,
            peer: Peer::default(),
            streams: Streams::new(),
            send: SendWindow::new(DEFAULT_WINDOW),
            connection_blocked: false,
            next_stream: 1,
            highest_seen: 0,
            sent_goaway: false,
            received_goaway: false,
            out,
            out_max: MAX_OUTPUT,
            late: Vec::new(),
            received: 0,
            preface_due: role == Role::Server,
            settings_due: true,
            partial: None,
            block: None,
            decoder: Decoder::default(),
            pending: VecDeque::new(),
            rates: Rates::default(),
        }
    }

    /// Takes a prefix of `input` in, and says how long it was and what it meant. `now` is the time
    /// since any fixed moment. To be called again with the rest until it takes nothing and says
    /// nothing; what is left is the beginning of a frame, at most [`MAX_HEADER_BLOCK`] and a header
    /// long.
    ///
    /// # Errors
    /// When the connection cannot go on: send the output, which ends in a GOAWAY, and close.
    pub fn receive<'a>(
        &mut self,
        now: Duration,
        input: &'a [u8],
    ) -> Result<(usize, Option<Event<'a>>), ConnectionError> {
        self.receive_frame(now, input).inspect_err(|error| self.go_away(error.code))
    }

    fn receive_frame<'a>(
        &mut self,
        now: Duration,
        input: &'a [u8],
    ) -> Result<(usize, Option<Event<'a>>), ConnectionError> {
        if let Some(event) = self.pending.pop_front() {
            return Ok((0, Some(event)));
        }
        if self.out.len() > self.out_max {
            return Err(ConnectionError::calm(
                Violation::AnswersUnread,
                "the peer reads nothing of what it makes us answer",
            ));
        }
        if self.preface_due {
            let expected = frame::PREFACE.get(..input.len()).unwrap_or(frame::PREFACE);
            if !input.starts_with(expected) {
                return Err(ConnectionError::protocol(Violation::NoPreface, "no HTTP/2 preface"));
            }
            if input.len() < frame::PREFACE.len() {
                return Ok((0, None));
            }
            self.preface_due = false;
            return Ok((frame::PREFACE.len(), self.pending.pop_front()));
        }
        if let Some(partial) = self.partial {
            return self.receive_data(partial, 0, input);
        }
        let Some(header) = Header::parse(input) else { return Ok((0, None)) };
        if self.settings_due && header.kind != frame::SETTINGS {
            return Err(ConnectionError::protocol(Violation::NoPreface, "the first frame is not SETTINGS"));
        }
        if self.block.is_some() && header.kind != frame::CONTINUATION {
            return Err(ConnectionError::protocol(
                Violation::FrameUnexpected,
                "a header block was not continued",
            ));
        }
        if header.kind == frame::DATA {
            return self.begin_data(now, header, input);
        }
        if header.length > MAX_HEADER_BLOCK {
            return Err(ConnectionError::size("a frame larger than its kind may be"));
        }
        let Some(payload) = input.get(FRAME_HEADER..FRAME_HEADER + header.length) else {
            return Ok((0, None));
        };
        let event = self.receive_control(now, header, payload)?;
        Ok((FRAME_HEADER + header.length, event))
    }

    fn begin_data<'a>(
        &mut self,
        now: Duration,
        header: Header,
        input: &'a [u8],
    ) -> Result<(usize, Option<Event<'a>>), ConnectionError> {
        if header.length > usize::try_from(self.settings.max_frame).unwrap_or(usize::MAX) {
            return Err(ConnectionError::size("DATA larger than our MAX_FRAME_SIZE"));
        }
        self.known(header.stream, "DATA on a stream that was never opened")?;
        let (skip, padding) = if header.has(frame::PADDED) {
            let Some(padding) = input.get(FRAME_HEADER) else { return Ok((0, None)) };
            if usize::from(*padding) >= header.length {
                return Err(ConnectionError::protocol(
                    Violation::FrameUnexpected,
                    "padding longer than its frame",
                ));
            }
            (1, usize::from(*padding))
        } else {
            (0, 0)
        };
        let payload = header.length - skip - padding;
        let end = header.has(frame::END_STREAM);
        if payload == 0 && !end && !self.rates.empty.allows(now, rate::EMPTY) {
            return Err(ConnectionError::calm(Violation::FrameFlood, "too many empty DATA frames"));
        }
        self.received = self.received.saturating_add(u32::try_from(header.length).unwrap_or(u32::MAX));
        // It says more than fits before an answer, maybe.
        self.answer(header.stream);
        if let Some(stream) = self.streams.get_mut(&header.stream) {
            if stream.received_end {
                return Err(ConnectionError::protocol(Violation::StreamState, "DATA after END_STREAM"));
            }
            stream.receive.arrived(header.length)?;
        }
        let unread = skip + padding;
        if unread > 0 {
            self.consumed(StreamId(header.stream), unread);
        }
        self.credit_connection();
        let partial = Partial { stream: header.stream, payload, padding, end };
        self.receive_data(partial, FRAME_HEADER + skip, input)
    }

    /// Takes what has arrived of a DATA frame, beginning at `at`.
    fn receive_data<'a>(
        &mut self,
        mut partial: Partial,
        at: usize,
        input: &'a [u8],
    ) -> Result<(usize, Option<Event<'a>>), ConnectionError> {
        let rest = input.get(at..).unwrap_or_default();
        let bytes = rest.get(..partial.payload.min(rest.len())).unwrap_or_default();
        let after = rest.len() - bytes.len();
        partial.payload -= bytes.len();
        let padding = if partial.payload == 0 { partial.padding.min(after) } else { 0 };
        partial.padding -= padding;
        let taken = at + bytes.len() + padding;
        let stream = StreamId(partial.stream);
        let complete = partial.payload == 0 && partial.padding == 0;
        self.partial = (!complete).then_some(partial);
        // DATA of a stream that we have reset is in flight still, and goes nowhere.
        let open = self.streams.contains_key(&partial.stream);
        if complete && partial.end && open {
            self.ended(partial.stream);
            if bytes.is_empty() {
                return Ok((taken, Some(Event::End { stream })));
            }
            self.pending.push_back(Event::End { stream });
        }
        let event = (open && !bytes.is_empty()).then_some(Event::Data { stream, bytes });
        Ok((taken, event))
    }

    /// The stream of a DATA frame of which payload is still to come and wanted, and how much.
    pub fn under_way(&self) -> Option<(StreamId, usize)> {
        let partial = self.partial.filter(|partial| partial.payload > 0)?;
        self.streams.contains_key(&partial.stream).then_some((StreamId(partial.stream), partial.payload))
    }

    /// So many bytes of what is [`Self::under_way`] went to the reader by another way, and are not fed here. Says
    /// whether the stream ended with them.
    pub fn passed(&mut self, count: usize) -> Option<Event<'static>> {
        let mut partial = self.partial.take()?;
        debug_assert!(count <= partial.payload);
        partial.payload = partial.payload.saturating_sub(count);
        if partial.payload > 0 || partial.padding > 0 {
            self.partial = Some(partial);
            return None;
        }
        if !partial.end || !self.streams.contains_key(&partial.stream) {
            return None;
        }
        self.ended(partial.stream);
        Some(Event::End { stream: StreamId(partial.stream) })
    }

    fn receive_control(
        &mut self,
        now: Duration,
        header: Header,
        payload: &[u8],
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        // PRIORITY and unknown kinds are ignored (section 4.1), but nothing of that sort comes without end.
        let carries = [frame::HEADERS, frame::CONTINUATION, frame::WINDOW_UPDATE, frame::RST_STREAM];
        if !carries.contains(&header.kind) && !self.rates.control.allows(now, rate::CONTROL) {
            return Err(ConnectionError::calm(Violation::FrameFlood, "too many frames of no use"));
        }
        match header.kind {
            frame::HEADERS => self.receive_headers(now, header, payload),
            frame::CONTINUATION => self.receive_continuation(now, header, payload),
            frame::SETTINGS => self.receive_settings(header, payload),
            frame::PING => self.receive_ping(header, payload),
            frame::WINDOW_UPDATE => self.receive_window(now, header, payload),
            frame::RST_STREAM => self.receive_reset(now, header, payload),
            frame::GOAWAY => self.receive_goaway(header, payload),
            frame::PUSH_PROMISE => Err(ConnectionError::protocol(
                Violation::FrameUnexpected,
                "PUSH_PROMISE, which we do not take",
            )),
            _ => Ok(None),
        }
    }

    fn receive_settings(
        &mut self,
        header: Header,
        payload: &[u8],
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        if header.stream != 0 {
            return Err(ConnectionError::protocol(Violation::FrameUnexpected, "SETTINGS on a stream"));
        }
        if header.has(frame::ACK) {
            if !payload.is_empty() {
                return Err(ConnectionError::size("a SETTINGS acknowledgement with a payload"));
            }
            self.decoder.settings_acknowledged();
            return Ok(None);
        }
        let before = i64::from(self.peer.window);
        self.peer.apply(payload)?;
        let change = i64::from(self.peer.window) - before;
        for stream in self.streams.values_mut() {
            stream.send.add(change)?;
        }
        self.settings_due = false;
        frame::push(&mut self.out, frame::SETTINGS, frame::ACK, 0, &[]);
        if change > 0 {
            self.pending.push_back(Event::WindowOpened { stream: None });
        }
        Ok(Some(Event::SettingsReceived))
    }

    fn receive_ping(
        &mut self,
        header: Header,
        payload: &[u8],
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        let opaque: [u8; 8] =
            payload.try_into().map_err(|_| ConnectionError::size("a PING of another length than eight"))?;
        if header.stream != 0 {
            return Err(ConnectionError::protocol(Violation::FrameUnexpected, "PING on a stream"));
        }
        if header.has(frame::ACK) {
            return Ok(Some(Event::Pong { opaque }));
        }
        frame::push(&mut self.out, frame::PING, frame::ACK, 0, &opaque);
        Ok(None)
    }

    fn receive_window(
        &mut self,
        now: Duration,
        header: Header,
        payload: &[u8],
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        let increment: [u8; 4] = payload
            .try_into()
            .map_err(|_| ConnectionError::size("a WINDOW_UPDATE of another length than four"))?;
        let increment = i64::from(u32::from_be_bytes(increment) & 0x7fff_ffff);
        if !self.rates.updates.allows(now, rate::UPDATES) {
            return Err(ConnectionError::calm(Violation::WindowFlood, "too many WINDOW_UPDATEs"));
        }
        if increment == 0 {
            return Err(ConnectionError::protocol(Violation::WindowFlood, "a WINDOW_UPDATE of nothing"));
        }
        if increment < rate::TINY && !self.rates.tiny_updates.allows(now, rate::TINY_UPDATES) {
            return Err(ConnectionError::calm(
                Violation::WindowFlood,
                "too many WINDOW_UPDATEs of hardly anything",
            ));
        }
        if header.stream == 0 {
            self.send.add(increment)?;
            let waited = std::mem::take(&mut self.connection_blocked);
            return Ok(waited.then_some(Event::WindowOpened { stream: None }));
        }
        self.known(header.stream, "WINDOW_UPDATE on a stream that was never opened")?;
        let Some(stream) = self.streams.get_mut(&header.stream) else { return Ok(None) };
        stream.send.add(increment)?;
        let waited = std::mem::take(&mut stream.blocked);
        Ok(waited.then_some(Event::WindowOpened { stream: Some(StreamId(header.stream)) }))
    }

    fn receive_reset(
        &mut self,
        now: Duration,
        header: Header,
        payload: &[u8],
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        let code: [u8; 4] = payload
            .try_into()
            .map_err(|_| ConnectionError::size("a RST_STREAM of another length than four"))?;
        self.known(header.stream, "RST_STREAM on a stream that was never opened")?;
        let Some(stream) = self.streams.remove(&header.stream) else { return Ok(None) };
        if self.role == Role::Server && !stream.answered && !self.rates.resets.allows(now, rate::RESETS) {
            return Err(ConnectionError::calm(Violation::RapidReset, "too many streams opened and reset"));
        }
        Ok(Some(Event::Reset { stream: StreamId(header.stream), code: ErrorCode(u32::from_be_bytes(code)) }))
    }

    fn receive_goaway(
        &mut self,
        header: Header,
        payload: &[u8],
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        let Some([l0, l1, l2, l3, c0, c1, c2, c3]) = payload.first_chunk::<8>() else {
            return Err(ConnectionError::size("a GOAWAY shorter than eight"));
        };
        if header.stream != 0 {
            return Err(ConnectionError::protocol(Violation::FrameUnexpected, "GOAWAY on a stream"));
        }
        self.received_goaway = true;
        let last = u32::from_be_bytes([*l0, *l1, *l2, *l3]) & 0x7fff_ffff;
        if self.role == Role::Client {
            let mut lost: Vec<u32> = self.streams.keys().copied().filter(|id| *id > last).collect();
            lost.sort_unstable();
            for number in lost {
                self.streams.remove(&number);
                let code = ErrorCode::REFUSED_STREAM;
                self.pending.push_back(Event::Reset { stream: StreamId(number), code });
            }
        }
        let code = ErrorCode(u32::from_be_bytes([*c0, *c1, *c2, *c3]));
        Ok(Some(Event::GoAway { last: StreamId(last), code }))
    }

    /// Gives back the room of streams that are over. For a connection that has had none for a while.
    pub fn release(&mut self) {
        self.streams.shrink_to_fit();
        self.late.retain(|number| self.streams.contains_key(number));
        self.late.shrink_to_fit();
        self.pending.shrink_to_fit();
    }

    /// A stream number that was in use at some time; anything else breaks the protocol.
    pub(super) fn known(&self, number: u32, what: &'static str) -> Result<(), ConnectionError> {
        let known = match self.role {
            Role::Client => number % 2 == 1 && number < self.next_stream,
            Role::Server => number % 2 == 1 && number <= self.highest_seen,
        };
        if known { Ok(()) } else { Err(ConnectionError::protocol(Violation::StreamState, what)) }
    }

    pub(super) fn ended(&mut self, number: u32) {
        if let Some(stream) = self.streams.get_mut(&number) {
            stream.received_end = true;
            if stream.is_done() {
                self.streams.remove(&number);
            }
        }
    }

    /// Credits the connection's window in large steps: it is never what limits a stream.
    fn credit_connection(&mut self) {
        if self.received >= 1 << 29 {
            let increment = std::mem::take(&mut self.received);
            frame::push(&mut self.out, frame::WINDOW_UPDATE, 0, 0, &increment.to_be_bytes());
        }
    }
}
