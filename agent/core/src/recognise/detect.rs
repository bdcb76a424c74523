//! What is spoken, from the client's first bytes.

use crate::framing::frame::PREFACE;

use super::event::Protocol;

/// The client's bytes until it is clear what they are. Longer than the longest sign, the preface of HTTP/2, it
/// need not be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opening {
    bytes: [u8; PREFACE.len()],
    length: u8,
    /// When the first one came.
    pub(super) begun: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    /// Not clear yet.
    Open,
    /// Perhaps: its recogniser looks at the whole line.
    Http1,
    Http2,
    /// Not looked into.
    Named(Protocol),
    /// None of them.
    Unknown,
}

impl Opening {
    pub(super) const fn new() -> Self {
        Self { bytes: [0; PREFACE.len()], length: 0, begun: 0 }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }

    /// Takes what it needs and says how much that was.
    pub(super) fn take(&mut self, bytes: &[u8], now: u64) -> (usize, Sign) {
        if self.length == 0 {
            self.begun = now;
        }
        let mut taken = 0;
        for (byte, place) in bytes.iter().zip(self.bytes.iter_mut().skip(usize::from(self.length))) {
            *place = *byte;
            taken += 1;
            self.length += 1;
        }
        (taken, sign(self.bytes()))
    }
}

/// Once a sign is clear, more bytes do not change it: how the bytes were cut does not matter.
fn sign(bytes: &[u8]) -> Sign {
    if PREFACE.starts_with(bytes) {
        return if bytes.len() == PREFACE.len() { Sign::Http2 } else { Sign::Open };
    }
    match bytes {
        [0x16, ..] => tls(bytes),
        [0, ..] => postgres(bytes),
        [b'A'..=b'Z', ..] => method(bytes),
        _ => Sign::Unknown,
    }
}

/// A record with a handshake of any version, and in it a ClientHello (RFC 8446, sections 4 and 5.1).
fn tls(bytes: &[u8]) -> Sign {
    let fits = |at: usize, good: fn(u8) -> bool| bytes.get(at).is_none_or(|byte| good(*byte));
    if !(fits(1, |byte| byte == 3) && fits(2, |byte| byte <= 4) && fits(5, |byte| byte == 1)) {
        Sign::Unknown
    } else if bytes.len() > 5 {
        Sign::Named(Protocol::Tls)
    } else {
        Sign::Open
    }
}

/// A length and a code: start-up in protocol 3, or one of the requests that come before it (PostgreSQL's manual,
/// "Message Formats": StartupMessage, CancelRequest, SSLRequest, GSSENCRequest).
fn postgres(bytes: &[u8]) -> Sign {
    let Some([_, _, _, _, a, b, c, d]) = bytes.first_chunk::<8>() else { return Sign::Open };
    match (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])) {
        (1234, 5678..=5680) => Sign::Named(Protocol::Postgres),
        // The same eight bytes are Kafka's length, key 3 (Metadata) and version of a request, as old clients begin.
        // A correlation id follows there, counted up from nearly nothing; here the name of a parameter, for `user`
        // has to be among them.
        (3, 0..=2) => match bytes.get(8) {
            Some(b'a'..=b'z' | b'A'..=b'Z' | b'_') => Sign::Named(Protocol::Postgres),
            Some(_) => Sign::Unknown,
            None => Sign::Open,
        },
        _ => Sign::Unknown,
    }
}

/// A word and a space; all registered methods are in upper case.
fn method(bytes: &[u8]) -> Sign {
    match bytes.iter().find(|byte| !matches!(byte, b'A'..=b'Z' | b'-' | b'_')) {
        Some(b' ') => Sign::Http1,
        None if bytes.len() < PREFACE.len() => Sign::Open,
        _ => Sign::Unknown,
    }
}
