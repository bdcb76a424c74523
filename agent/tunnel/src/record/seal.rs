//! Plaintext into records (RFC 8446, section 5.2).

use rustls::crypto::cipher::{MessageEncrypter, OutboundChunks, OutboundPlainMessage};
use rustls::{ConnectionTrafficSecrets, ContentType, Error, ProtocolVersion, SupportedCipherSuite};

/// Most plaintext of a record.
pub(super) const FRAGMENT: usize = 16_384;

/// Levels of alerts (RFC 8446, section 6).
pub(super) const WARNING: u8 = 1;
pub(super) const FATAL: u8 = 2;

/// One direction's key, and how often it was used.
pub(super) struct Sealing {
    encrypter: Box<dyn MessageEncrypter>,
    sequence: u64,
    /// So many records may be sealed with one key.
    limit: u64,
}

impl Sealing {
    pub(super) fn new(
        suite: SupportedCipherSuite,
        secrets: ConnectionTrafficSecrets,
        sequence: u64,
    ) -> Result<Self, Error> {
        let (suite, key, iv) = super::open::parts(suite, secrets)?;
        let limit = suite.common.confidentiality_limit;
        Ok(Self { encrypter: suite.aead_alg.encrypter(key, iv), sequence, limit })
    }

    /// Whether new keys are due: the record that announces them is the last one of these.
    pub(super) const fn is_due(&self) -> bool {
        self.sequence.saturating_add(1) >= self.limit
    }

    /// Records sealed with this key.
    pub(super) const fn used(&self) -> u64 {
        self.sequence
    }

    #[cfg(test)]
    pub(super) const fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// A record with its header. The content's kind is encrypted with it.
    pub(super) fn seal(&mut self, kind: ContentType, fragment: &[u8]) -> Result<Vec<u8>, Error> {
        let payload = OutboundChunks::Single(fragment);
        let message = OutboundPlainMessage { typ: kind, version: ProtocolVersion::TLSv1_3, payload };
        let sequence = self.sequence;
        self.sequence = sequence.checked_add(1).ok_or(Error::EncryptError)?;
        Ok(self.encrypter.encrypt(message, sequence)?.encode())
    }
}
