//! The sending half: what goes into the output, and what DATA may be written.

use crate::policy::Denial;
use crate::reason::Reason;

use super::connection::{Connection, Role};
use super::error::{ErrorCode, OpenError};
use super::frame::{self, Header};
use super::request::{self, ConnectRequest};
use super::streams::Stream;
use super::{FRAME_HEADER, StreamId};

/// Streams that were opened since answers were last said, of which some may owe one.
const LATE_MAX: usize = 256;

impl Connection {
    /// Opens a stream (dialling end). DATA may follow at once.
    ///
    /// # Errors
    /// When this connection takes no more streams; another may.
    pub fn connect(&mut self, request: &ConnectRequest) -> Result<StreamId, OpenError> {
        debug_assert_eq!(self.role, Role::Client);
        if self.sent_goaway || self.received_goaway {
            return Err(OpenError::GoingAway);
        }
        if self.streams.len() >= usize::try_from(self.peer.max_streams).unwrap_or(usize::MAX) {
            return Err(OpenError::PeerLimit(self.peer.max_streams));
        }
        let number = self.next_stream;
        if number > 0x7fff_fff0 {
            return Err(OpenError::IdsExhausted);
        }
        self.next_stream += 2;
        self.streams.insert(number, Stream::new(self.peer.window, self.settings.window));
        frame::push(&mut self.out, frame::HEADERS, frame::END_HEADERS, number, &request.encode());
        Ok(StreamId(number))
    }

    /// Answers a stream (accepting end): 200 opens it, anything else ends it with its reason. `policy` is the
    /// one that denied it or, of a stream that is opened, whose dry run would have.
    pub fn respond(
        &mut self,
        stream: StreamId,
        status: u16,
        reason: Option<Reason>,
        policy: Option<&Denial>,
    ) {
        let Some(entry) = self.streams.get_mut(&stream.0) else { return };
        if std::mem::replace(&mut entry.answered, true) {
            return;
        }
        let opened = (200..300).contains(&status);
        let flags = if opened { frame::END_HEADERS } else { frame::END_HEADERS | frame::END_STREAM };
        frame::push(
            &mut self.out,
            frame::HEADERS,
            flags,
            stream.0,
            &request::encode_response(status, reason, policy),
        );
        if !opened {
            self.streams.remove(&stream.0);
        }
    }

    /// Answers a stream with 200 (accepting end), but not by a record of its own: with whatever is said next on it, when
    /// the peer says more, or by [`Self::answer_late`]. For a peer that has said something already and may say more without
    /// an answer.
    pub fn open_late(&mut self, stream: StreamId) {
        let Some(entry) = self.streams.get_mut(&stream.0) else { return };
        if !std::mem::replace(&mut entry.answered, true) {
            entry.owes_answer = true;
            self.late.push(stream.0);
            // Whoever opens and resets many soon grows nothing here.
            if self.late.len() >= LATE_MAX {
                self.answer_late();
            }
        }
    }

    /// Says what was put off until now.
    pub fn answer_late(&mut self) {
        for number in std::mem::take(&mut self.late) {
            self.answer(number);
        }
    }

    /// Says that a stream is open, if that was put off.
    pub(super) fn answer(&mut self, number: u32) {
        let Some(entry) = self.streams.get_mut(&number) else { return };
        if std::mem::take(&mut entry.owes_answer) {
            let block = request::encode_response(200, None, None);
            frame::push(&mut self.out, frame::HEADERS, frame::END_HEADERS, number, &block);
        }
    }

    /// Bytes that may be sent on a stream now. If there are none, [`super::Event::WindowOpened`]
    /// will say when.
    pub fn capacity(&mut self, stream: StreamId) -> usize {
        let Some(entry) = self.streams.get_mut(&stream.0).filter(|s| !s.sent_end) else { return 0 };
        let own = entry.send.available();
        let shared = self.send.available();
        if own == 0 {
            entry.blocked = true;
        } else if shared == 0 {
            self.connection_blocked = true;
        }
        own.min(shared)
    }

    /// Most bytes that the peer takes in one DATA frame.
    pub fn max_frame(&self) -> usize {
        usize::try_from(self.peer.max_frame).unwrap_or(usize::MAX)
    }

    /// Streams that the peer takes at once.
    pub fn peer_streams_max(&self) -> usize {
        usize::try_from(self.peer.max_streams).unwrap_or(usize::MAX)
    }

    /// Whether both halves of the stream are not yet closed here.
    pub fn is_open(&self, stream: StreamId) -> bool {
        self.streams.contains_key(&stream.0)
    }

    /// The header of a DATA frame whose `length` bytes the caller writes right after it, and after what is in the
    /// output by then. The caller keeps to [`Self::capacity`] and [`Self::max_frame`].
    pub fn data_header(&mut self, stream: StreamId, length: usize, end: bool) -> [u8; FRAME_HEADER] {
        debug_assert!(length <= self.max_frame());
        self.answer(stream.0);
        self.send.spend(length);
        if let Some(entry) = self.streams.get_mut(&stream.0) {
            debug_assert!(!entry.sent_end);
            entry.send.spend(length);
            entry.sent_end |= end;
            if entry.is_done() {
                self.streams.remove(&stream.0);
            }
        }
        let flags = if end { frame::END_STREAM } else { 0 };
        Header { length, kind: frame::DATA, flags, stream: stream.0 }.bytes()
    }

    /// Resets a stream; what arrives for it later is dropped.
    pub fn reset(&mut self, stream: StreamId, code: ErrorCode) {
        // It was open, which the peer tells from one that never was.
        self.answer(stream.0);
        if self.streams.remove(&stream.0).is_some() {
            self.push_reset(stream.0, code);
        }
    }

    pub(super) fn push_reset(&mut self, number: u32, code: ErrorCode) {
        frame::push(&mut self.out, frame::RST_STREAM, 0, number, &code.0.to_be_bytes());
    }

    /// The reader took that many bytes of the stream's DATA: the peer may send as many again.
    pub fn consumed(&mut self, stream: StreamId, bytes: usize) {
        let max = self.settings.window_max;
        let Some(entry) = self.streams.get_mut(&stream.0).filter(|s| !s.received_end) else { return };
        if let Some(increment) = entry.receive.consumed(bytes, max) {
            frame::push(&mut self.out, frame::WINDOW_UPDATE, 0, stream.0, &increment.to_be_bytes());
        }
    }

    /// Asks whether the peer is there; it answers with [`super::Event::Pong`].
    pub fn ping(&mut self, opaque: [u8; 8]) {
        frame::push(&mut self.out, frame::PING, 0, 0, &opaque);
    }

    /// Takes no more streams; those that are open may finish.
    pub fn go_away(&mut self, code: ErrorCode) {
        if std::mem::replace(&mut self.sent_goaway, true) {
            return;
        }
        let mut payload = [0; 8];
        let (last, error) = payload.split_at_mut(4);
        last.copy_from_slice(&self.highest_seen.to_be_bytes());
        error.copy_from_slice(&code.0.to_be_bytes());
        frame::push(&mut self.out, frame::GOAWAY, 0, 0, &payload);
    }

    /// Queued control bytes. The caller takes them all and clears the queue before it writes DATA of
    /// a stream that they open.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// How much may be queued before a peer that asks and does not read is cut off; [`MAX_OUTPUT`] unless told.
    pub fn bound_output(&mut self, most: usize) {
        self.out_max = most;
    }

    /// Streams of which a half is open.
    pub fn open_streams(&self) -> usize {
        self.streams.len()
    }

    /// Whether either end said GOAWAY.
    pub fn is_going_away(&self) -> bool {
        self.sent_goaway || self.received_goaway
    }
}
