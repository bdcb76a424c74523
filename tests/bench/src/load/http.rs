//! Messages that a recogniser knows: HTTP/1.1, as long as the others.

use crate::poll::MESSAGE;

/// Asks for nothing in particular.
pub(crate) const REQUEST: [u8; MESSAGE] =
    *b"GET / HTTP/1.1\r\nhost: b\r\nx-padding: ........................\r\n\r\n";

/// What a server answers.
pub(crate) const RESPONSE: [u8; MESSAGE] =
    *b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\nx-padding: .....\r\n\r\nllllllll";

/// Begins a body that is longer than any run.
pub(crate) const BODY: &[u8] = b"POST / HTTP/1.1\r\nhost: b\r\ncontent-length: 1000000000000000\r\n\r\n";
