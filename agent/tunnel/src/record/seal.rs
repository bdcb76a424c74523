//! Plaintext into records (RFC 8446, section 5.2).
//!
//! The cipher is rustls's own, but called without it: its records are made by copying the plaintext and sealing the
//! copy, where one pass that reads here and writes there is enough.

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, MAX_TAG_LEN, Nonce, UnboundKey,
};
use rustls::crypto::cipher::{self, Iv};
use rustls::{ConnectionTrafficSecrets, ContentType, Error, SupportedCipherSuite};

use super::open::HEADER;
use super::outgoing::Outgoing;

/// Most plaintext of a record.
pub(crate) const FRAGMENT: usize = 16_384;
/// What is encrypted behind a record's plaintext, and what proves all of it.
const TAIL: usize = 1 + TAG;
/// All three ciphers have tags of this length (RFC 5116, section 5; RFC 8439, section 2.8).
const TAG: usize = MAX_TAG_LEN;
/// Bytes of a full record.
pub(super) const RECORD: usize = HEADER + FRAGMENT + TAIL;

/// Levels of alerts (RFC 8446, section 6).
pub(super) const WARNING: u8 = 1;
pub(super) const FATAL: u8 = 2;

/// One direction's key, and how often it was used.
pub(super) struct Sealing {
    key: LessSafeKey,
    iv: Iv,
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
        let algorithm = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { .. } => &AES_128_GCM,
            ConnectionTrafficSecrets::Aes256Gcm { .. } => &AES_256_GCM,
            _ => &CHACHA20_POLY1305,
        };
        // Refuses what is none of the three.
        let (suite, key, iv) = super::open::parts(suite, secrets)?;
        let unfit = |_| Error::General("the cipher's key has another length".to_owned());
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).map_err(unfit)?);
        Ok(Self { key, iv, sequence, limit: suite.common.confidentiality_limit })
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

    /// Puts a record with its header behind what waits: of at most [`FRAGMENT`] bytes. The content's kind is encrypted
    /// with it.
    pub(super) fn seal(
        &mut self,
        kind: ContentType,
        fragment: &[u8],
        out: &mut Outgoing,
    ) -> Result<(), Error> {
        let length = u16::try_from(fragment.len() + TAIL).map_err(|_| Error::EncryptError)?;
        let [high, low] = length.to_be_bytes();
        // The version is one of long ago for all records (RFC 8446, section 5.1).
        let header = [ContentType::ApplicationData.into(), 3, 3, high, low];
        let whole = HEADER + usize::from(length);
        let room = out.room(whole);
        let (Some((start, body)), true) = (room.split_first_chunk_mut(), fragment.len() <= FRAGMENT) else {
            return Err(Error::EncryptError);
        };
        let Some((text, tail)) = body.split_at_mut_checked(fragment.len()) else {
            return Err(Error::EncryptError);
        };
        let sequence = self.sequence;
        self.sequence = sequence.checked_add(1).ok_or(Error::EncryptError)?;
        let nonce = Nonce::assume_unique_for_key(cipher::Nonce::new(&self.iv, sequence).0);
        self.key
            .seal_out_of_place_scatter(nonce, Aad::from(header), fragment, text, &[kind.into()], tail)
            .map_err(|_| Error::EncryptError)?;
        *start = header;
        out.add(whole);
        Ok(())
    }

    /// A record by itself.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn record(&mut self, kind: ContentType, fragment: &[u8]) -> Result<Vec<u8>, Error> {
        let mut out = Outgoing::default();
        self.seal(kind, fragment, &mut out)?;
        Ok(out.take())
    }
}
