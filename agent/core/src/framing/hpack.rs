//! Header compression (RFC 7541). Out: the static table and literals. In: everything, with the
//! dynamic table at its default size until the peer has seen our SETTINGS, and then at zero.

use std::collections::VecDeque;

use crate::explain::Violation;

use super::error::ConnectionError;

/// A decoded header field.
pub(crate) type Field = (Vec<u8>, Vec<u8>);

/// Static-table indices used in what we send (RFC 7541, appendix A).
pub(crate) const AUTHORITY: u8 = 1;
pub(crate) const METHOD: u8 = 2;
pub(crate) const STATUS: u8 = 8;
/// `:status: 200` as an indexed field.
pub(crate) const STATUS_200: u8 = 0x88;

const DYNAMIC_MAX: usize = 4096;
const FIELDS_MAX: usize = 64;
const LIST_MAX: usize = 16 * 1024;

/// A literal without indexing whose name is in the static table below 15.
pub(crate) fn literal(block: &mut Vec<u8>, name: u8, value: &[u8]) {
    block.push(name);
    string(block, value);
}

/// A literal without indexing with its name spelled out.
pub(crate) fn named(block: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    block.push(0);
    string(block, name);
    string(block, value);
}

fn string(block: &mut Vec<u8>, bytes: &[u8]) {
    // Integer with a prefix of seven bits (section 5.1), no Huffman.
    let mut length = bytes.len();
    if length < 127 {
        block.push(u8::try_from(length).unwrap_or(0));
    } else {
        block.push(127);
        length -= 127;
        while length >= 128 {
            block.push(u8::try_from(length % 128).unwrap_or(0) | 128);
            length /= 128;
        }
        block.push(u8::try_from(length).unwrap_or(0));
    }
    block.extend(bytes);
}

/// Decodes the header blocks of one connection.
#[derive(Debug)]
pub(crate) struct Decoder {
    table: VecDeque<Field>,
    size: usize,
    max: usize,
    /// What our SETTINGS allow by now.
    limit: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { table: VecDeque::new(), size: 0, max: DYNAMIC_MAX, limit: DYNAMIC_MAX }
    }
}

impl Decoder {
    /// The peer has acknowledged our SETTINGS: no table from now on.
    pub(crate) fn settings_acknowledged(&mut self) {
        self.limit = 0;
        self.resize(0);
    }

    fn resize(&mut self, max: usize) {
        self.max = max;
        while self.size > self.max {
            let Some((name, value)) = self.table.pop_back() else { break };
            self.size -= name.len() + value.len() + 32;
        }
    }

    /// Decodes one whole block.
    pub(crate) fn decode(&mut self, block: &[u8]) -> Result<Vec<Field>, ConnectionError> {
        let mut input = Input(block);
        let mut fields = Vec::new();
        let mut total = 0;
        while let Some(first) = input.peek() {
            let field = if first & 0x80 != 0 {
                let index = input.integer(7)?;
                self.indexed(index)?
            } else if first & 0x40 != 0 {
                let field = self.literal(&mut input, 6)?;
                self.insert(field.clone());
                field
            } else if first & 0x20 != 0 {
                let max = input.integer(5)?;
                if max > self.limit || !fields.is_empty() {
                    return Err(ConnectionError::compression("a table size beyond what SETTINGS allow"));
                }
                self.resize(max);
                continue;
            } else {
                self.literal(&mut input, 4)?
            };
            total += field.0.len() + field.1.len() + 32;
            if fields.len() >= FIELDS_MAX || total > LIST_MAX {
                return Err(ConnectionError::calm(
                    Violation::HeadersTooLarge,
                    "too many or too long header fields",
                ));
            }
            fields.push(field);
        }
        Ok(fields)
    }

    fn literal(&self, input: &mut Input<'_>, prefix: u32) -> Result<Field, ConnectionError> {
        let index = input.integer(prefix)?;
        let name = if index == 0 { input.string()? } else { self.indexed(index)?.0 };
        if name.iter().any(u8::is_ascii_uppercase) {
            return Err(ConnectionError::protocol(Violation::FrameUnexpected, "a header name in upper case"));
        }
        Ok((name, input.string()?))
    }

    fn indexed(&self, index: usize) -> Result<Field, ConnectionError> {
        let unknown = ConnectionError::compression("an index outside the header tables");
        let index = index.checked_sub(1).ok_or(unknown)?;
        if let Some((name, value)) = STATIC.get(index) {
            return Ok((name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        }
        self.table.get(index - STATIC.len()).cloned().ok_or(unknown)
    }

    fn insert(&mut self, field: Field) {
        let size = field.0.len() + field.1.len() + 32;
        let max = self.max;
        self.resize(max.saturating_sub(size));
        self.max = max;
        if size <= max {
            self.size += size;
            self.table.push_front(field);
        }
    }
}

struct Input<'a>(&'a [u8]);

const TRUNCATED: ConnectionError = ConnectionError::compression("a header block that ends too early");

impl Input<'_> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    fn byte(&mut self) -> Result<u8, ConnectionError> {
        let (first, rest) = self.0.split_first().ok_or(TRUNCATED)?;
        self.0 = rest;
        Ok(*first)
    }

    /// An integer with a prefix of that many bits (section 5.1), bounded to 2^21.
    fn integer(&mut self, prefix: u32) -> Result<usize, ConnectionError> {
        let mask = (1_usize << prefix) - 1;
        let mut value = usize::from(self.byte()?) & mask;
        if value < mask {
            return Ok(value);
        }
        for shift in [0, 7, 14] {
            let byte = self.byte()?;
            value += (usize::from(byte) & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ConnectionError::compression("an integer above what a header needs"))
    }

    fn string(&mut self) -> Result<Vec<u8>, ConnectionError> {
        let huffman = self.peek().is_some_and(|b| b & 0x80 != 0);
        let length = self.integer(7)?;
        let bytes = self.0.get(..length).ok_or(TRUNCATED)?;
        self.0 = self.0.get(length..).unwrap_or_default();
        if huffman { unhuffman(bytes) } else { Ok(bytes.to_vec()) }
    }
}

fn unhuffman(bytes: &[u8]) -> Result<Vec<u8>, ConnectionError> {
    const BAD: ConnectionError = ConnectionError::compression("a Huffman string that is not canonical");
    let mut plain = Vec::new();
    httlib_huffman::decode(bytes, &mut plain, httlib_huffman::DecoderSpeed::FourBits).map_err(|_| BAD)?;
    // The encoding is unique, so encoding again proves padding and end (section 5.2), whatever the
    // decoder let pass.
    let mut again = Vec::new();
    httlib_huffman::encode(&plain, &mut again).map_err(|_| BAD)?;
    if again == bytes { Ok(plain) } else { Err(BAD) }
}

/// RFC 7541, appendix A.
pub(crate) const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];
