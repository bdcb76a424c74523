//! One direction of HTTP/1.x: heads line by line, bodies by arithmetic (RFC 9112, sections 2.2, 6 and 7).

use super::event::Opaque;
use super::fields::{self, Body, Framing, Minor, Start};
use super::line::{Line, Whole};

/// Where in a message the next byte belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Start,
    Fields,
    /// The head is over; [`Messages::body`] says how to go on.
    Decide,
    Length(u64),
    ChunkSize,
    Chunk(u64),
    /// The line's end after a chunk.
    ChunkEnd,
    Trailers,
    /// A response that ends with the connection.
    Rest,
    /// After a CONNECT nobody knows what the bytes are until it is answered. True once there were some.
    Held(bool),
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// A start line is there.
    Start(Start),
    /// The fields are over. The caller answers with [`Messages::body`] before it goes on.
    Head(Body),
    /// The body is over.
    End,
}

/// The messages of one direction.
#[derive(Debug)]
pub(super) struct Messages {
    line: Line,
    part: Part,
    framing: Framing,
    minor: Minor,
    responses: bool,
    /// When the first byte of the message came.
    pub(super) begun: u64,
}

impl Messages {
    pub(super) const fn new(responses: bool) -> Self {
        let framing = Framing::none();
        Self { line: Line::new(), part: Part::Start, framing, minor: Minor::One, responses, begun: 0 }
    }

    /// Whether the next byte is the first of a message.
    pub(super) fn is_between(&self) -> bool {
        self.part == Part::Start && self.line.is_empty()
    }

    /// Whether a start line is there, and the message not over.
    pub(super) fn is_underway(&self) -> bool {
        !matches!(self.part, Part::Start | Part::Held(_))
    }

    /// Whether a response that ends with the connection is on its way.
    pub(super) fn ends_with_connection(&self) -> bool {
        self.part == Part::Rest
    }

    /// Says how the message goes on after its head; true if it is over already.
    pub(super) fn body(&mut self, body: Body) -> bool {
        self.part = match body {
            Body::Length(0) => Part::Start,
            Body::Length(length) => Part::Length(length),
            Body::Chunked => Part::ChunkSize,
            Body::Unsaid => Part::Rest,
        };
        self.part == Part::Start
    }

    /// Takes what comes for unknown until [`Messages::resume`].
    pub(super) fn hold(&mut self) {
        self.part = Part::Held(false);
    }

    /// Goes on after a hold, unless bytes came that nobody can place now.
    pub(super) fn resume(&mut self) -> Result<(), Opaque> {
        match self.part {
            Part::Held(false) => self.part = Part::Start,
            Part::Held(true) => return Err(Opaque::Ambiguous),
            _ => {}
        }
        Ok(())
    }

    /// Takes bytes, at least one if there is any, up to the next step.
    pub(super) fn take(&mut self, bytes: &[u8], now: u64) -> Result<(usize, Option<Step>), Opaque> {
        match &mut self.part {
            Part::Length(left) | Part::Chunk(left) => {
                let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left = left.saturating_sub(u64::try_from(taken).unwrap_or(u64::MAX));
                let over = *left == 0;
                let step = match self.part {
                    Part::Length(_) if over => {
                        self.part = Part::Start;
                        Some(Step::End)
                    }
                    Part::Chunk(_) if over => {
                        self.part = Part::ChunkEnd;
                        None
                    }
                    _ => None,
                };
                Ok((taken, step))
            }
            Part::Held(some) => {
                *some = true;
                Ok((bytes.len(), None))
            }
            Part::Rest => Ok((bytes.len(), None)),
            Part::Decide => Err(Opaque::Broken),
            Part::Start | Part::Fields | Part::ChunkSize | Part::ChunkEnd | Part::Trailers => {
                self.take_line(bytes, now)
            }
        }
    }

    fn take_line(&mut self, bytes: &[u8], now: u64) -> Result<(usize, Option<Step>), Opaque> {
        if self.is_between() {
            self.begun = now;
        }
        let Self { line, part, framing, minor, responses, .. } = self;
        let (taken, whole) = line.take(bytes);
        let Some(whole) = whole else { return Ok((taken, None)) };
        let step = match *part {
            // Before a request, an empty line is to be overlooked (section 2.2).
            Part::Start if whole.is_empty() && !*responses => None,
            Part::Start => {
                let (start, version) =
                    if *responses { fields::response(&whole) } else { fields::request(&whole) }
                        .ok_or(Opaque::Broken)?;
                (*part, *framing, *minor) = (Part::Fields, Framing::none(), version);
                Some(Step::Start(start))
            }
            Part::Fields if whole.is_empty() => {
                *part = Part::Decide;
                Some(Step::Head(framing.body(*minor)?))
            }
            Part::Fields => {
                framing.field(&whole)?;
                None
            }
            Part::Trailers if whole.is_empty() => {
                *part = Part::Start;
                Some(Step::End)
            }
            Part::Trailers => None,
            Part::ChunkEnd => {
                *part = chunk_end(&whole)?;
                None
            }
            _ => {
                let size = fields::chunk_size(&whole)?;
                *part = if size == 0 { Part::Trailers } else { Part::Chunk(size) };
                None
            }
        };
        line.clear();
        Ok((taken, step))
    }
}

fn chunk_end(line: &Whole<'_>) -> Result<Part, Opaque> {
    if line.is_empty() && line.crlf { Ok(Part::ChunkSize) } else { Err(Opaque::Broken) }
}
