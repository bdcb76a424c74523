//! Records into plaintext, where they are (RFC 8446, section 5.2).

use rustls::crypto::cipher::{AeadKey, InboundOpaqueMessage, Iv, MessageDecrypter};
use rustls::{
    AlertDescription, ConnectionTrafficSecrets, ContentType, Error, HandshakeType, InvalidMessage,
    PeerMisbehaved, ProtocolVersion, SupportedCipherSuite, Tls13CipherSuite,
};

/// Bytes of a record's header.
pub(super) const HEADER: usize = 5;
/// Most bytes of a record with its header: 2^14 of plaintext, and 256 for the kind of its content, padding and the tag.
pub(crate) const RECORD_MAX: usize = HEADER + 16_384 + 256;
/// Most bytes of a message of the handshake protocol. Tickets have a few hundred.
pub(super) const MESSAGE_MAX: usize = 65_535;
/// Messages of the handshake protocol, and records that hold parts of them, that may come without data between them:
/// each costs work and brings nothing.
pub(super) const IN_A_ROW: u32 = 64;

/// A KeyUpdate that asks for none in return (RFC 8446, section 4.6.3).
pub(super) const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

/// What a record held.
pub(super) struct Plain<'a> {
    pub(super) kind: ContentType,
    pub(super) bytes: &'a [u8],
}

/// One direction's key, and where in the stream of records it is.
pub(super) struct Opening {
    decrypter: Box<dyn MessageDecrypter>,
    sequence: u64,
    /// Messages of the handshake protocol that are not whole, or not taken yet.
    messages: Vec<u8>,
    /// How many came since the last data.
    in_a_row: u32,
    /// The peer has said goodbye.
    closed: bool,
}

impl Opening {
    pub(super) fn new(
        suite: SupportedCipherSuite,
        secrets: ConnectionTrafficSecrets,
        sequence: u64,
    ) -> Result<Self, Error> {
        let (suite, key, iv) = parts(suite, secrets)?;
        let decrypter = suite.aead_alg.decrypter(key, iv);
        Ok(Self { decrypter, sequence, messages: Vec::new(), in_a_row: 0, closed: false })
    }

    /// Goes on with the next key.
    pub(super) fn renew(
        &mut self,
        suite: SupportedCipherSuite,
        secrets: ConnectionTrafficSecrets,
    ) -> Result<(), Error> {
        let (suite, key, iv) = parts(suite, secrets)?;
        self.decrypter = suite.aead_alg.decrypter(key, iv);
        self.sequence = 0;
        Ok(())
    }

    /// Whether the peer has said that it sends no more. What follows is not looked at.
    pub(super) const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Takes the next record that is whole off the front; nothing if there is none. Alerts are dealt with here.
    pub(super) fn next<'a>(&mut self, bytes: &mut &'a mut [u8]) -> Result<Option<Plain<'a>>, Error> {
        while !self.closed
            && let Some(record) = take(bytes)?
        {
            // The version in the header counts for nothing (RFC 8446, section 5.1).
            let message =
                InboundOpaqueMessage::new(ContentType::ApplicationData, ProtocolVersion::TLSv1_2, record);
            let sequence = self.sequence;
            self.sequence = sequence.checked_add(1).ok_or(Error::DecryptError)?;
            let opened = self.decrypter.decrypt(message, sequence)?;
            let plain = Plain { kind: opened.typ, bytes: opened.payload };
            if let Some(plain) = self.admit(plain)? {
                return Ok(Some(plain));
            }
        }
        Ok(None)
    }

    /// Whether what a record held may come now. Nothing if it was an alert, which is dealt with here.
    pub(super) fn admit<'a>(&mut self, plain: Plain<'a>) -> Result<Option<Plain<'a>>, Error> {
        // A message's parts must follow each other (RFC 8446, section 5.1), and only data may be empty (5.4).
        let interrupts = plain.kind != ContentType::Handshake && !self.messages.is_empty();
        let says_nothing = plain.kind != ContentType::ApplicationData && plain.bytes.is_empty();
        if interrupts || says_nothing {
            return Err(unexpected(plain.kind));
        }
        match plain.kind {
            ContentType::Alert => {
                self.alert(plain.bytes)?;
                return Ok(None);
            }
            ContentType::ApplicationData => self.in_a_row = 0,
            _ => {}
        }
        Ok(Some(plain))
    }

    /// Records opened with this key.
    pub(super) const fn opened(&self) -> u64 {
        self.sequence
    }

    fn alert(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let [_, description] = *bytes else {
            return Err(InvalidMessage::TrailingData("Alert").into());
        };
        match AlertDescription::from(description) {
            AlertDescription::CloseNotify => self.closed = true,
            // Says only that a close_notify follows (RFC 8446, section 6.1).
            AlertDescription::UserCanceled => self.count()?,
            other => return Err(Error::AlertReceived(other)),
        }
        Ok(())
    }

    fn count(&mut self) -> Result<(), Error> {
        self.in_a_row += 1;
        if self.in_a_row > IN_A_ROW {
            return Err(PeerMisbehaved::TooManyKeyUpdateRequests.into());
        }
        Ok(())
    }

    /// Takes in what a record held of the handshake protocol.
    pub(super) fn join(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.count()?;
        self.messages.extend_from_slice(bytes);
        Ok(())
    }

    /// The next message that is whole: its kind and its body.
    pub(super) fn message(&mut self) -> Result<Option<(HandshakeType, Vec<u8>)>, Error> {
        let Some((&[kind, high, middle, low], rest)) = self.messages.split_first_chunk() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        if length > MESSAGE_MAX {
            return Err(InvalidMessage::HandshakePayloadTooLarge.into());
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let body = body.to_vec();
        self.count()?;
        self.messages.drain(..length + 4);
        if self.messages.is_empty() {
            self.messages = Vec::new();
        }
        Ok(Some((kind.into(), body)))
    }

    /// Bytes of messages that are held.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) const fn held(&self) -> usize {
        self.messages.len()
    }

    /// Whether nothing of a message is there that is not whole.
    pub(super) const fn is_between_messages(&self) -> bool {
        self.messages.is_empty()
    }
}

/// The body of the next record that is whole, without its header.
fn take<'a>(bytes: &mut &'a mut [u8]) -> Result<Option<&'a mut [u8]>, Error> {
    let Some(&[kind, _, _, high, low]) = bytes.first_chunk() else { return Ok(None) };
    let kind = ContentType::from(kind);
    // All is encrypted now, alerts too.
    if kind != ContentType::ApplicationData {
        return Err(unexpected(kind));
    }
    let whole = HEADER + usize::from(u16::from_be_bytes([high, low]));
    if whole > RECORD_MAX {
        return Err(Error::PeerSentOversizedRecord);
    }
    if bytes.len() < whole {
        return Ok(None);
    }
    let (record, rest) = std::mem::take(bytes).split_at_mut(whole);
    *bytes = rest;
    Ok(record.get_mut(HEADER..))
}

/// What keys consist of. The cipher is the one that the handshake agreed on, so they fit.
pub(super) fn parts(
    suite: SupportedCipherSuite,
    secrets: ConnectionTrafficSecrets,
) -> Result<(&'static Tls13CipherSuite, AeadKey, Iv), Error> {
    let suite = suite.tls13().ok_or(Error::HandshakeNotComplete)?;
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => Ok((suite, key, iv)),
        _ => Err(Error::General("the cipher has keys of an unknown kind".to_owned())),
    }
}

pub(super) fn unexpected(got_type: ContentType) -> Error {
    let expect_types = vec![ContentType::ApplicationData, ContentType::Handshake, ContentType::Alert];
    Error::InappropriateMessage { expect_types, got_type }
}
