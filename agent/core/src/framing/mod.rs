//! HTTP/2 CONNECT as the tunnels speak it (RFC 9113; RFC 9110 section 9.3.6): a state machine over
//! bytes, without I/O and without a clock.
//!
//! Only what CONNECT tunnels use is there; everything else is refused. Whoever drives it feeds what
//! arrived into [`Connection::receive`], sends what [`Connection::output`] holds, and writes DATA as
//! a header from [`Connection::data_header`] followed by the bytes themselves, so that payload is
//! never copied here in either direction.
//!
//! Memory: a fixed part, one small record a stream, header blocks up to [`MAX_HEADER_BLOCK`] and an
//! output queue up to [`MAX_OUTPUT`], or less if told. Payload is never kept.

mod connection;
mod error;
mod flow;
pub(crate) mod frame;
mod headers;
pub(crate) mod hpack;
mod rate;
mod request;
mod send;
mod settings;
mod streams;

pub use connection::{Connection, Event, Role};
pub use error::{ConnectionError, ErrorCode, OpenError};
pub use request::{BadRequest, ConnectRequest};
pub use settings::Settings;

/// Most bytes of one header block, and of any frame but DATA.
pub const MAX_HEADER_BLOCK: usize = 16 * 1024;
/// Most queued control bytes; a peer that makes us answer without reading is cut off.
pub const MAX_OUTPUT: usize = 1024 * 1024;
/// Length of a frame header (RFC 9113, section 4.1).
pub const FRAME_HEADER: usize = 9;

/// A stream's number, odd for streams that the dialling agent opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub(crate) u32);

impl StreamId {
    /// The number on the wire.
    pub const fn value(self) -> u32 {
        self.0
    }
}

impl std::fmt::Display for StreamId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests;
