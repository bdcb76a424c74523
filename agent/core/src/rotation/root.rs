//! The name of a root.

use std::fmt;

use serde::{Deserialize, Serialize};

/// SHA-256 of a root certificate's DER.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RootId([u8; 32]);

/// A text is no [`RootId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a root is named by 64 hexadecimal digits, not by {0:?}")]
pub struct RootIdError(String);

impl RootId {
    /// The root with this hash.
    pub const fn new(sha256: [u8; 32]) -> Self {
        Self(sha256)
    }

    /// The hash.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight bytes in hexadecimal, for tables.
    pub fn short(&self) -> String {
        self.to_string().chars().take(16).collect()
    }
}

impl fmt::Display for RootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl TryFrom<String> for RootId {
    type Error = RootIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
        let mut bytes = [0; 32];
        if text.len() == 64 {
            let pairs = text.as_bytes().chunks_exact(2);
            for (byte, pair) in bytes.iter_mut().zip(pairs) {
                let [high, low] = pair else { return Err(RootIdError(text)) };
                match (digit(*high), digit(*low)) {
                    (Some(high), Some(low)) => *byte = high << 4 | low,
                    _ => return Err(RootIdError(text)),
                }
            }
            return Ok(Self(bytes));
        }
        Err(RootIdError(text.chars().take(80).collect()))
    }
}

impl From<RootId> for String {
    fn from(root: RootId) -> Self {
        root.to_string()
    }
}
