//! Both ends of a connection as they are after a handshake, but with keys that anybody can count out: for tests and
//! fuzzing, and in no other build.

use rustls::crypto::aws_lc_rs::cipher_suite::{TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256};
use rustls::crypto::cipher::{AeadKey, Iv};
use rustls::{ConnectionTrafficSecrets, ContentType, Error, SupportedCipherSuite};

use super::RecordError;
use super::open::{MESSAGE_MAX, Opening};
use super::outgoing::Outgoing;
use super::protocol::{Protocol, Rekey};
use super::seal::{FRAGMENT, Sealing};

/// Most bytes of messages that are not whole, and of the record that has just come with the next part of one.
pub const HELD_MAX: usize = MESSAGE_MAX + 4 + FRAGMENT;

/// The ciphers.
pub(super) const SUITES: [SupportedCipherSuite; 2] =
    [TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];

/// Keys of a generation.
pub(super) fn secrets(suite: SupportedCipherSuite, generation: u8) -> ConnectionTrafficSecrets {
    let (key, iv) = (AeadKey::from([generation; 32]), Iv::new([generation; 12]));
    if suite == TLS13_AES_256_GCM_SHA384 {
        ConnectionTrafficSecrets::Aes256Gcm { key, iv }
    } else {
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }
    }
}

/// Derives keys as no protocol would, but both ends the same.
struct Generations {
    suite: SupportedCipherSuite,
    sending: u8,
    receiving: u8,
}

impl Rekey for Generations {
    fn next_sending(&mut self) -> Result<ConnectionTrafficSecrets, Error> {
        self.sending = self.sending.wrapping_add(1);
        Ok(secrets(self.suite, self.sending))
    }

    fn next_receiving(&mut self) -> Result<ConnectionTrafficSecrets, Error> {
        self.receiving = self.receiving.wrapping_add(1);
        Ok(secrets(self.suite, self.receiving))
    }
}

/// One end with its keys, of which the other end has the other half.
pub(super) fn protocol(
    suite: SupportedCipherSuite,
    sending: u8,
    receiving: u8,
    may_get_tickets: bool,
) -> Result<Protocol, Error> {
    Ok(Protocol {
        suite,
        rekey: Box::new(Generations { suite, sending, receiving }),
        opening: Opening::new(suite, secrets(suite, receiving), 0)?,
        sealing: Sealing::new(suite, secrets(suite, sending), 0)?,
        waiting: Outgoing::default(),
        owes_keys: false,
        may_get_tickets,
        renewed: None,
    })
}

/// One end of a connection.
pub struct End(Protocol);

impl End {
    /// Both ends of a connection: the one that dialled, and so may get tickets, first.
    ///
    /// # Errors
    /// Never: the ciphers are of TLS 1.3.
    pub fn both(chacha: bool) -> Result<[Self; 2], Error> {
        let suite = SUITES[usize::from(chacha)];
        Ok([Self(protocol(suite, 1, 101, true)?), Self(protocol(suite, 101, 1, false)?)])
    }

    /// A record of whatever a peer with the keys likes, of at most 2^14 bytes.
    ///
    /// # Errors
    /// When the cipher does not take it.
    pub fn seal(&mut self, kind: u8, bytes: &[u8]) -> Result<Vec<u8>, Error> {
        self.0.sealing.record(ContentType::from(kind), bytes)
    }

    /// A record that announces new keys, which count from now on.
    ///
    /// # Errors
    /// When the cipher does not take it.
    pub fn renew(&mut self, asks: bool) -> Result<Vec<u8>, Error> {
        let record = self.seal(ContentType::Handshake.into(), &[24, 0, 0, 1, u8::from(asks)])?;
        self.0.sealing = Sealing::new(self.0.suite, self.0.rekey.next_sending()?, 0)?;
        Ok(record)
    }

    /// Says something the way that an agent says it: new keys first if they are due.
    ///
    /// # Errors
    /// When the cipher does not take it.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.0.write(bytes)
    }

    /// What has been written, and an alert if something was wrong; all of it is taken.
    pub fn written(&mut self) -> Vec<u8> {
        self.0.waiting.take()
    }

    /// Takes the next record of data that is whole off the front, and decrypts it where it is; nothing if there is
    /// none.
    ///
    /// # Errors
    /// When the records cannot go on; nothing is to be opened after that.
    pub fn open<'a>(&mut self, bytes: &mut &'a mut [u8]) -> Result<Option<&'a [u8]>, RecordError> {
        self.0.open(bytes)
    }

    /// Bytes that are held of what was opened, and of what is to be said about it.
    pub fn held(&self) -> usize {
        self.0.opening.held() + self.0.waiting.len()
    }
}
