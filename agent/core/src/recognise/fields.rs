//! Start lines, and the two fields that say where a message ends (RFC 9112, sections 3, 4 and 6).

use super::event::{Method, Opaque, decimal};
use super::line::Whole;

/// What a start line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    Request(Method),
    /// With its status.
    Response(u16),
}

/// ` HTTP/1.1` or ` HTTP/1.0` at the line's end.
pub(super) fn request(line: &Whole<'_>) -> Option<(Start, Minor)> {
    let minor = match line.end.last_chunk::<9>()? {
        b" HTTP/1.0" => Minor::Zero,
        b" HTTP/1.1" => Minor::One,
        _ => return None,
    };
    let word = line.begin.iter().position(|byte| *byte == b' ')?;
    Some((Start::Request(Method::of(line.begin.get(..word)?)), minor))
}

/// `HTTP/1.1 200` and a reason, which may be missing with its space.
pub(super) fn response(line: &Whole<'_>) -> Option<(Start, Minor)> {
    let (minor, rest) = match line.begin.split_at_checked(9)? {
        (b"HTTP/1.0 ", rest) => (Minor::Zero, rest),
        (b"HTTP/1.1 ", rest) => (Minor::One, rest),
        _ => return None,
    };
    let (code, reason) = rest.split_at_checked(3)?;
    let code = decimal(code).filter(|code| *code >= 100 && matches!(reason.first(), None | Some(b' ')))?;
    Some((Start::Response(u16::try_from(code).ok()?), minor))
}

/// The minor version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Minor {
    Zero,
    One,
}

/// What the fields of one head say about its body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Framing {
    length: Option<u64>,
    chunked: bool,
}

/// How a message's body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// After so many bytes.
    Length(u64),
    /// With its last chunk.
    Chunked,
    /// Nothing was said: requests have none, responses end with the connection.
    Unsaid,
}

impl Framing {
    /// Before the first field.
    pub(super) const fn none() -> Self {
        Self { length: None, chunked: false }
    }

    /// Reads one field line. Whatever two readers could take differently is refused.
    pub(super) fn field(&mut self, line: &Whole<'_>) -> Result<(), Opaque> {
        // The cheap look first: all but two fields say nothing here.
        match line.begin.first() {
            Some(b'c' | b'C' | b't' | b'T') => {}
            Some(b' ' | b'\t') => return Err(Opaque::Ambiguous),
            _ => return Ok(()),
        }
        let Some(colon) = line.begin.iter().position(|byte| *byte == b':') else {
            return if line.long { Ok(()) } else { Err(Opaque::Broken) };
        };
        let (name, value) = line.begin.split_at(colon);
        let known = name.trim_ascii_end();
        let is_length = known.eq_ignore_ascii_case(b"content-length");
        if !is_length && !known.eq_ignore_ascii_case(b"transfer-encoding") {
            return Ok(());
        }
        if line.long || name != known || self.chunked || self.length.is_some() {
            return Err(Opaque::Ambiguous);
        }
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if is_length {
            self.length = Some(decimal(value).ok_or(Opaque::Ambiguous)?);
        } else {
            self.chunked = is_chunked(value);
            if !self.chunked {
                return Err(Opaque::Ambiguous);
            }
        }
        Ok(())
    }

    /// What the whole head says.
    pub(super) fn body(self, minor: Minor) -> Result<Body, Opaque> {
        match (self.chunked, self.length) {
            // Transfer codings came with HTTP/1.1; section 6.1 calls such a message faulty.
            (true, _) if minor == Minor::Zero => Err(Opaque::Ambiguous),
            (true, _) => Ok(Body::Chunked),
            (false, Some(length)) => Ok(Body::Length(length)),
            (false, None) => Ok(Body::Unsaid),
        }
    }
}

/// Whether `chunked` is the last coding, and only the last.
fn is_chunked(value: &[u8]) -> bool {
    let mut codings = value.rsplit(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    codings.next().is_some_and(|last| last.eq_ignore_ascii_case(b"chunked"))
        && codings.all(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"chunked"))
}

/// The size of a chunk, before extensions (RFC 9112, section 7.1). Readers differ on lines that end with a line
/// feed alone, and attackers know that.
pub(super) fn chunk_size(line: &Whole<'_>) -> Result<u64, Opaque> {
    if !line.crlf {
        return Err(Opaque::Ambiguous);
    }
    let digits = line.begin.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, rest) = line.begin.split_at(digits);
    if !matches!(rest.trim_ascii_start().first(), None | Some(b';')) || (rest.is_empty() && line.long) {
        return Err(Opaque::Broken);
    }
    let text = std::str::from_utf8(digits).ok().filter(|text| text.len() <= 15);
    text.and_then(|text| u64::from_str_radix(text, 16).ok()).ok_or(Opaque::Broken)
}
