//! What ends a connection or keeps a stream from opening.

use crate::explain::Violation;

/// Error codes of RFC 9113, section 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub u32);

impl ErrorCode {
    /// Graceful end.
    pub const NO_ERROR: Self = Self(0x0);
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(0x1);
    /// We failed.
    pub const INTERNAL_ERROR: Self = Self(0x2);
    /// The peer sent more than its window.
    pub const FLOW_CONTROL_ERROR: Self = Self(0x3);
    /// A frame of a wrong size.
    pub const FRAME_SIZE_ERROR: Self = Self(0x6);
    /// The stream was not processed.
    pub const REFUSED_STREAM: Self = Self(0x7);
    /// The stream is not wanted any more.
    pub const CANCEL: Self = Self(0x8);
    /// A header block that cannot be decoded.
    pub const COMPRESSION_ERROR: Self = Self(0x9);
    /// The TCP connection behind the stream was reset (RFC 9113, section 8.5).
    pub const CONNECT_ERROR: Self = Self(0xa);
    /// What is asked for must not be; between agents: policy does not allow the connection any more.
    pub const INADEQUATE_SECURITY: Self = Self(0xc);
    /// The peer makes more work than it should.
    pub const ENHANCE_YOUR_CALM: Self = Self(0xb);
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match *self {
            Self::NO_ERROR => "NO_ERROR",
            Self::PROTOCOL_ERROR => "PROTOCOL_ERROR",
            Self::INTERNAL_ERROR => "INTERNAL_ERROR",
            Self::FLOW_CONTROL_ERROR => "FLOW_CONTROL_ERROR",
            Self::FRAME_SIZE_ERROR => "FRAME_SIZE_ERROR",
            Self::REFUSED_STREAM => "REFUSED_STREAM",
            Self::CANCEL => "CANCEL",
            Self::COMPRESSION_ERROR => "COMPRESSION_ERROR",
            Self::CONNECT_ERROR => "CONNECT_ERROR",
            Self::INADEQUATE_SECURITY => "INADEQUATE_SECURITY",
            Self::ENHANCE_YOUR_CALM => "ENHANCE_YOUR_CALM",
            Self(other) => return write!(f, "code {other:#x}"),
        };
        f.write_str(name)
    }
}

/// The peer broke the protocol so that the connection cannot go on. A GOAWAY with the code is
/// queued; send it and close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {what}")]
pub struct ConnectionError {
    /// The code that the GOAWAY carries.
    pub code: ErrorCode,
    /// Which kind of breach it is.
    pub violation: Violation,
    /// What the peer did.
    pub what: &'static str,
}

impl ConnectionError {
    pub(super) const fn protocol(violation: Violation, what: &'static str) -> Self {
        Self { code: ErrorCode::PROTOCOL_ERROR, violation, what }
    }
    pub(super) const fn size(what: &'static str) -> Self {
        Self { code: ErrorCode::FRAME_SIZE_ERROR, violation: Violation::FrameSize, what }
    }
    pub(super) const fn flow(violation: Violation, what: &'static str) -> Self {
        Self { code: ErrorCode::FLOW_CONTROL_ERROR, violation, what }
    }
    pub(super) const fn compression(what: &'static str) -> Self {
        Self { code: ErrorCode::COMPRESSION_ERROR, violation: Violation::HeaderCompression, what }
    }
    pub(super) const fn calm(violation: Violation, what: &'static str) -> Self {
        Self { code: ErrorCode::ENHANCE_YOUR_CALM, violation, what }
    }
}

/// Why no stream can be opened on this connection. Another connection may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// One end said GOAWAY.
    #[error("the connection is going away")]
    GoingAway,
    /// All stream numbers were used.
    #[error("the connection has used up its stream numbers")]
    IdsExhausted,
    /// The peer takes no more streams at once.
    #[error("the peer takes no more than {0} streams at once")]
    PeerLimit(u32),
}
