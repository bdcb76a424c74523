//! What both ends say by records once the handshake is done (RFC 8446, sections 4.6, 5 and 6), without the socket.

use lark_sys::ktls::Key;
use rustls::kernel::KernelConnection;
use rustls::{
    AlertDescription, ConnectionTrafficSecrets, ContentType, Error, HandshakeType, InvalidMessage,
    PeerMisbehaved, SupportedCipherSuite,
};

use super::RecordError;
use super::kernel::key;
use super::open::{self, Opening, Plain, unexpected};
use super::outgoing::Outgoing;
use super::seal::{self, FRAGMENT, Sealing};

/// Derives the next keys of a connection (RFC 8446, section 7.2).
pub(super) trait Rekey {
    fn next_sending(&mut self) -> Result<ConnectionTrafficSecrets, Error>;
    fn next_receiving(&mut self) -> Result<ConnectionTrafficSecrets, Error>;
}

impl<Data> Rekey for KernelConnection<Data> {
    fn next_sending(&mut self) -> Result<ConnectionTrafficSecrets, Error> {
        self.update_tx_secret().map(|(_, secrets)| secrets)
    }

    fn next_receiving(&mut self) -> Result<ConnectionTrafficSecrets, Error> {
        self.update_rx_secret().map(|(_, secrets)| secrets)
    }
}

/// One end's keys, and what it has to say.
pub(super) struct Protocol {
    pub(super) suite: SupportedCipherSuite,
    pub(super) rekey: Box<dyn Rekey>,
    pub(super) opening: Opening,
    pub(super) sealing: Sealing,
    /// Sealed records that wait for the socket.
    pub(super) waiting: Outgoing,
    /// The peer wants new keys, before anything else is sealed.
    pub(super) owes_keys: bool,
    /// Whether the peer may send tickets. None is wanted.
    pub(super) may_get_tickets: bool,
    /// Keys that were taken since the kernel, which may carry the records, heard of any. None: it carries nothing.
    pub(super) renewed: Option<Renewed>,
}

/// The newest keys of both directions, if they are new.
#[derive(Default)]
pub(super) struct Renewed {
    pub(super) receiving: Option<Key>,
    pub(super) sending: Option<Key>,
}

impl Protocol {
    /// Encrypts a frame.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        for fragment in bytes.chunks(FRAGMENT) {
            if self.owes_keys || self.sealing.is_due() {
                self.renew_keys()?;
            }
            self.seal(ContentType::ApplicationData, fragment)?;
        }
        Ok(())
    }

    pub(super) fn seal(&mut self, kind: ContentType, fragment: &[u8]) -> Result<(), Error> {
        self.sealing.seal(kind, fragment, &mut self.waiting)
    }

    /// Announces new keys and takes them.
    fn renew_keys(&mut self) -> Result<(), Error> {
        self.seal(ContentType::Handshake, &open::KEY_UPDATE)?;
        let secrets = self.rekey.next_sending()?;
        if let Some(renewed) = &mut self.renewed {
            renewed.sending = key(&secrets);
        }
        self.sealing = Sealing::new(self.suite, secrets, 0)?;
        self.owes_keys = false;
        Ok(())
    }

    /// Takes the next record of data that is whole off the front, and decrypts it where it is; nothing if there is none.
    pub(super) fn open<'a>(&mut self, bytes: &mut &'a mut [u8]) -> Result<Option<&'a [u8]>, RecordError> {
        let opened = self.next_data(bytes);
        if let Err(error) = &opened {
            self.tell(error);
        }
        match opened? {
            None if self.opening.is_closed() => Err(RecordError::Closed),
            data => Ok(data),
        }
    }

    fn next_data<'a>(&mut self, bytes: &mut &'a mut [u8]) -> Result<Option<&'a [u8]>, Error> {
        while let Some(Plain { kind, bytes }) = self.opening.next(bytes)? {
            match kind {
                ContentType::ApplicationData => return Ok(Some(bytes)),
                ContentType::Handshake => self.handshake(bytes)?,
                kind => return Err(unexpected(kind)),
            }
        }
        Ok(None)
    }

    /// What a peer may say after the handshake: tickets, which are not wanted, and that it has new keys.
    pub(super) fn handshake(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.opening.join(bytes)?;
        while let Some((kind, body)) = self.opening.message()? {
            match (kind, &*body) {
                (HandshakeType::NewSessionTicket, _) if self.may_get_tickets => {}
                (HandshakeType::KeyUpdate, [asks @ (0 | 1)]) => {
                    if !self.opening.is_between_messages() {
                        return Err(PeerMisbehaved::KeyEpochWithPendingFragment.into());
                    }
                    self.owes_keys |= *asks == 1;
                    let secrets = self.rekey.next_receiving()?;
                    if let Some(renewed) = &mut self.renewed {
                        renewed.receiving = key(&secrets);
                    }
                    self.opening.renew(self.suite, secrets)?;
                }
                (HandshakeType::KeyUpdate, [_]) => return Err(InvalidMessage::InvalidKeyUpdate.into()),
                (HandshakeType::KeyUpdate, _) => return Err(InvalidMessage::TrailingData("KeyUpdate").into()),
                (got_type, _) => {
                    let expect_types = vec![HandshakeType::NewSessionTicket, HandshakeType::KeyUpdate];
                    return Err(Error::InappropriateHandshakeMessage { expect_types, got_type });
                }
            }
        }
        Ok(())
    }

    /// Says by an alert why the records cannot go on, unless the peer said so itself; to be followed by a flush.
    fn tell(&mut self, error: &Error) {
        if let Some(alert) = alert_of(error) {
            // Whoever cannot even be told sees the connection end.
            let _ = self.seal(ContentType::Alert, &alert);
        }
    }
}

/// The alert by which the peer is told of an error, unless it said so itself.
pub(super) fn alert_of(error: &Error) -> Option<[u8; 2]> {
    let alert = match error {
        Error::AlertReceived(_) => return None,
        Error::DecryptError => AlertDescription::BadRecordMac,
        Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
        Error::InvalidMessage(InvalidMessage::InvalidKeyUpdate) => AlertDescription::IllegalParameter,
        Error::InvalidMessage(_) => AlertDescription::DecodeError,
        Error::General(_) => AlertDescription::InternalError,
        _ => AlertDescription::UnexpectedMessage,
    };
    Some([seal::FATAL, alert.into()])
}

/// The alert that ends what an end sends.
pub(super) fn goodbye() -> [u8; 2] {
    [seal::WARNING, AlertDescription::CloseNotify.into()]
}
