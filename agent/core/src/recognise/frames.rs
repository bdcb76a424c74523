//! One direction of HTTP/2: frames cut out of the bytes, header blocks decoded, everything else skipped by its
//! length (RFC 9113, sections 4 and 6).

use crate::framing::frame::{self, Header};
use crate::framing::{ErrorCode, FRAME_HEADER};

use super::event::Opaque;
use super::hpack::{Decoder, Fields};

/// What happened.
#[derive(Debug, Clone, Copy)]
pub(super) enum Signal {
    /// A whole header block.
    Block(Block),
    /// The last byte of a stream that ends with DATA.
    End(u32),
    /// RST_STREAM, and why.
    Reset(u32, ErrorCode),
    /// GOAWAY: streams above this one were not looked at.
    GoAway(u32),
}

/// A header block, over HEADERS and CONTINUATION frames.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    pub(super) stream: u32,
    /// Whether the stream ends with it.
    pub(super) end: bool,
    /// Whether it is a PUSH_PROMISE.
    pub(super) promised: bool,
    /// When its first byte came.
    pub(super) begun: u64,
    pub(super) fields: Fields,
}

/// The frames of one direction.
#[derive(Debug)]
pub(super) struct Frames {
    header: [u8; FRAME_HEADER],
    /// Bytes of the header that are there; all of them while the payload comes.
    have: u8,
    kind: u8,
    flags: u8,
    stream: u32,
    length: usize,
    /// Payload bytes still to come.
    left: usize,
    /// Of these, the ones before a header block's fragment, and after it.
    lead: u8,
    padding: u8,
    /// The first four bytes of a payload as a number, for GOAWAY and RST_STREAM.
    word: u32,
    /// When the frame's first byte came.
    begun: u64,
    /// The first frame has to be SETTINGS (section 3.4).
    settled: bool,
    /// The header block that is not over.
    block: Option<Block>,
    decoder: Decoder,
}

impl Frames {
    pub(super) const fn new() -> Self {
        Self {
            header: [0; FRAME_HEADER],
            have: 0,
            kind: 0,
            flags: 0,
            stream: 0,
            length: 0,
            left: 0,
            lead: 0,
            padding: 0,
            word: 0,
            begun: 0,
            settled: false,
            block: None,
            decoder: Decoder::new(),
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.decoder.heap_bytes()
    }

    /// Takes bytes, at least one if there is any, up to the next signal.
    pub(super) fn take(&mut self, bytes: &[u8], now: u64) -> Result<(usize, Option<Signal>), Opaque> {
        let mut rest = bytes;
        let mut signal = None;
        while signal.is_none() && !rest.is_empty() {
            let taken = if usize::from(self.have) < FRAME_HEADER {
                self.take_header(rest, now)?
            } else {
                self.take_payload(rest)?
            };
            rest = rest.get(taken..).unwrap_or_default();
            if self.left == 0 && usize::from(self.have) == FRAME_HEADER {
                self.have = 0;
                signal = self.end_of_frame()?;
            }
        }
        Ok((bytes.len() - rest.len(), signal))
    }

    fn take_header(&mut self, bytes: &[u8], now: u64) -> Result<usize, Opaque> {
        if self.have == 0 {
            self.begun = now;
        }
        let mut taken = 0;
        for (place, byte) in self.header.iter_mut().skip(usize::from(self.have)).zip(bytes) {
            *place = *byte;
            taken += 1;
            self.have += 1;
        }
        if usize::from(self.have) == FRAME_HEADER {
            let header = Header::parse(&self.header).ok_or(Opaque::Broken)?;
            self.begin(header)?;
        }
        Ok(taken)
    }

    fn begin(&mut self, header: Header) -> Result<(), Opaque> {
        let Header { length, kind, flags, stream } = header;
        (self.kind, self.flags, self.stream) = (kind, flags, stream);
        (self.length, self.left, self.lead, self.padding, self.word) = (length, length, 0, 0, 0);
        let is_settings =
            kind == frame::SETTINGS && stream == 0 && !header.has(frame::ACK) && length % 6 == 0;
        if !self.settled && !is_settings {
            return Err(Opaque::Broken);
        }
        self.settled = true;
        // Nothing may come between the frames of one header block (section 6.10).
        let goes_on = kind == frame::CONTINUATION;
        if goes_on != self.block.is_some() || self.block.is_some_and(|block| block.stream != stream) {
            return Err(Opaque::Broken);
        }
        if matches!(kind, frame::HEADERS | frame::PUSH_PROMISE) {
            let promised = kind == frame::PUSH_PROMISE;
            if stream == 0 {
                return Err(Opaque::Broken);
            }
            let end = !promised && header.has(frame::END_STREAM);
            self.block = Some(Block { stream, end, promised, begun: self.begun, fields: Fields::default() });
            let priority = if header.has(frame::HAS_PRIORITY) { 5 } else { 0 };
            self.lead = u8::from(header.has(frame::PADDED)) + if promised { 4 } else { priority };
            if usize::from(self.lead) > length {
                return Err(Opaque::Broken);
            }
        }
        Ok(())
    }

    fn take_payload(&mut self, bytes: &[u8]) -> Result<usize, Opaque> {
        let bytes = bytes.get(..self.left).unwrap_or(bytes);
        let taken = match self.kind {
            frame::HEADERS | frame::PUSH_PROMISE | frame::CONTINUATION => self.take_block(bytes)?,
            frame::GOAWAY | frame::RST_STREAM => {
                let word = 4_usize.saturating_sub(self.length - self.left);
                self.word =
                    bytes.iter().take(word).fold(self.word, |word, byte| word << 8 | u32::from(*byte));
                bytes.len()
            }
            _ => bytes.len(),
        };
        self.left -= taken;
        Ok(taken)
    }

    /// Padding length, priority or promised stream; the fragment; the padding (sections 6.2 and 6.6).
    fn take_block(&mut self, bytes: &[u8]) -> Result<usize, Opaque> {
        if self.lead > 0 {
            if self.flags & frame::PADDED != 0 && self.left == self.length {
                self.padding = bytes.first().copied().unwrap_or_default();
                if usize::from(self.lead) + usize::from(self.padding) > self.length {
                    return Err(Opaque::Broken);
                }
            }
            self.lead -= 1;
            return Ok(1);
        }
        // Nothing is left of it once some padding has come.
        let fragment = self.left.saturating_sub(usize::from(self.padding));
        if fragment == 0 {
            return Ok(bytes.len());
        }
        let fragment = bytes.get(..fragment).unwrap_or(bytes);
        if let Some(block) = &mut self.block {
            self.decoder.feed(fragment, &mut block.fields)?;
        }
        Ok(fragment.len())
    }

    fn end_of_frame(&mut self) -> Result<Option<Signal>, Opaque> {
        Ok(match self.kind {
            frame::HEADERS | frame::PUSH_PROMISE | frame::CONTINUATION
                if self.flags & frame::END_HEADERS != 0 =>
            {
                if !self.decoder.is_between() {
                    return Err(Opaque::Broken);
                }
                self.block.take().map(Signal::Block)
            }
            frame::DATA if self.flags & frame::END_STREAM != 0 => Some(Signal::End(self.stream)),
            frame::RST_STREAM => Some(Signal::Reset(self.stream, ErrorCode(self.word))),
            frame::GOAWAY if self.length >= 8 => Some(Signal::GoAway(self.word & 0x7fff_ffff)),
            _ => None,
        })
    }
}
