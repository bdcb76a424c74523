//! TLS records in and out of the node's socket, once rustls has made the handshake.
//!
//! Keys, ciphers and the derivation of the next keys are rustls's (its `kernel` interface, made for whoever carries
//! records himself). What is here is the record protocol of RFC 8446, section 5, and what may follow a handshake,
//! section 4.6, so that a received byte is decrypted where it was read and written to the pod from there: rustls's own
//! connections copy it three times on the way.
//!
//! Invariants:
//! - A sequence number is used once with a key: each is counted up with its record, and begins anew only with the next
//!   key.
//! - After an error nothing is opened or sealed but the alert that tells it.
//! - What waits for the socket is bounded by [`Records::has_room`], which whoever writes asks first.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::kernel::KernelConnection;
use rustls::{
    AlertDescription, ConnectionTrafficSecrets, ContentType, Error, HandshakeType, InvalidMessage,
    PeerMisbehaved, SupportedCipherSuite,
};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use crate::handshake::Finished;

mod open;
mod seal;
#[cfg(test)]
mod tests;

pub(crate) use open::RECORD_MAX;
use open::{Opening, Plain};
use seal::{FRAGMENT, Sealing};

/// Bytes of one read from the node's socket.
const READ: usize = 256 * 1024;
/// What a read needs room for: what is left of the last one, and as much again as is read.
pub(crate) const ROOM: usize = RECORD_MAX + READ;
/// Plaintext that may wait as records for the node's socket.
const SEND_LIMIT: usize = 512 * 1024;
/// Records that are written at once.
const BATCH: usize = 64;

/// Why the records cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The connection failed.
    #[error("the connection failed: {}", crate::told(.0))]
    Io(#[from] io::Error),
    /// A record is not as it must be, or the peer sent an alert.
    #[error("TLS: {0}")]
    Tls(#[from] Error),
    /// The peer closed the connection.
    #[error("the peer closed the connection")]
    Closed,
}

/// Derives the next keys of a connection (RFC 8446, section 7.2).
trait Rekey {
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

/// TLS over the node's socket.
pub(crate) struct Records {
    socket: TcpStream,
    suite: SupportedCipherSuite,
    rekey: Box<dyn Rekey>,
    opening: Opening,
    sealing: Sealing,
    /// The beginning of a record that is not there yet.
    partial: Vec<u8>,
    /// Sealed records that wait for the socket, of the first those bytes are gone.
    waiting: VecDeque<Vec<u8>>,
    gone: usize,
    /// Plaintext handed over since everything was last sent.
    unsent: usize,
    /// Something was sent since [`Self::is_stuck`] was asked last.
    sent: bool,
    /// The peer wants new keys, before anything else is sealed.
    owes_keys: bool,
    /// Whether the peer may send tickets. None is wanted.
    may_get_tickets: bool,
}

impl Records {
    /// # Errors
    /// When the handshake has agreed on something other than TLS 1.3, which its configuration does not take.
    pub(crate) fn new<Data: 'static>(socket: TcpStream, finished: Finished<Data>) -> Result<Self, Error> {
        let Finished { secrets, kernel, received, may_get_tickets, .. } = finished;
        let suite = kernel.negotiated_cipher_suite();
        Ok(Self {
            socket,
            suite,
            opening: Opening::new(suite, secrets.rx.1, secrets.rx.0)?,
            sealing: Sealing::new(suite, secrets.tx.1, secrets.tx.0)?,
            rekey: Box::new(kernel),
            partial: received,
            waiting: VecDeque::new(),
            gone: 0,
            unsent: 0,
            sent: false,
            owes_keys: false,
            may_get_tickets,
        })
    }

    /// Whether more may be handed over before something is sent.
    pub(crate) fn has_room(&self) -> bool {
        self.unsent < SEND_LIMIT
    }

    /// Encrypts a frame; the caller has asked for room.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), RecordError> {
        self.unsent += bytes.len();
        for fragment in bytes.chunks(FRAGMENT) {
            if self.owes_keys || self.sealing.is_due() {
                self.renew_keys()?;
            }
            self.seal(ContentType::ApplicationData, fragment)?;
        }
        Ok(())
    }

    fn seal(&mut self, kind: ContentType, fragment: &[u8]) -> Result<(), Error> {
        self.waiting.push_back(self.sealing.seal(kind, fragment)?);
        Ok(())
    }

    /// Announces new keys and takes them.
    fn renew_keys(&mut self) -> Result<(), Error> {
        self.seal(ContentType::Handshake, &open::KEY_UPDATE)?;
        self.sealing = Sealing::new(self.suite, self.rekey.next_sending()?, 0)?;
        self.owes_keys = false;
        Ok(())
    }

    /// Sends what waits. Ready when nothing does.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RecordError>> {
        while !self.waiting.is_empty() {
            match self.send() {
                Ok(()) => self.sent = true,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if self.socket.poll_write_ready(cx)?.is_pending() {
                        return Poll::Pending;
                    }
                }
                Err(e) => return Poll::Ready(Err(e.into())),
            }
        }
        self.unsent = 0;
        // A burst is no reason to keep its memory.
        self.waiting.shrink_to(BATCH);
        Poll::Ready(Ok(()))
    }

    fn send(&mut self) -> io::Result<()> {
        let mut slices = [IoSlice::new(&[]); BATCH];
        let mut skipped = self.gone;
        let mut count = 0;
        for (slice, record) in slices.iter_mut().zip(&self.waiting) {
            *slice = IoSlice::new(record.get(std::mem::take(&mut skipped)..).unwrap_or_default());
            count += 1;
        }
        let mut written =
            self.socket.try_write_vectored(slices.get(..count).unwrap_or_default())? + self.gone;
        while let Some(first) = self.waiting.front()
            && written >= first.len()
        {
            written -= first.len();
            self.waiting.pop_front();
        }
        self.gone = written;
        Ok(())
    }

    /// Whether something waits and nothing of it was taken since this was asked last.
    pub(crate) fn is_stuck(&mut self) -> bool {
        !std::mem::take(&mut self.sent) && !self.waiting.is_empty()
    }

    /// Reads once into a buffer of at least [`ROOM`] bytes, behind what was left of the last read, and says how
    /// many bytes of records there are for [`Self::open`]. Pending when nothing has arrived.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<Result<usize, RecordError>> {
        let Some((left, room)) = buffer.split_at_mut_checked(self.partial.len()) else {
            return Poll::Ready(Err(Error::PeerSentOversizedRecord.into()));
        };
        left.copy_from_slice(&self.partial);
        let mut read = ReadBuf::new(room);
        // Knows from a short read that nothing is left, and saves the call that would say so.
        std::task::ready!(Pin::new(&mut self.socket).poll_read(cx, &mut read))?;
        if read.filled().is_empty() {
            return Poll::Ready(Err(RecordError::Closed));
        }
        Poll::Ready(Ok(left.len() + read.filled().len()))
    }

    /// What came behind the handshake: bytes of records for [`Self::open`].
    pub(crate) fn buffered(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.partial)
    }

    /// Takes the next record of data that is whole off the front, and decrypts it where it is; nothing if there is none.
    pub(crate) fn open<'a>(&mut self, bytes: &mut &'a mut [u8]) -> Result<Option<&'a [u8]>, RecordError> {
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

    /// Keeps what [`Self::open`] has left for the next read.
    pub(crate) fn keep(&mut self, left: &[u8]) {
        if left.is_empty() {
            self.partial = Vec::new();
        } else {
            self.partial.clear();
            self.partial.extend_from_slice(left);
        }
    }

    /// What a peer may say after the handshake: tickets, which are not wanted, and that it has new keys.
    fn handshake(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.opening.join(bytes)?;
        while let Some((kind, body)) = self.opening.message()? {
            match (kind, &*body) {
                (HandshakeType::NewSessionTicket, _) if self.may_get_tickets => {}
                (HandshakeType::KeyUpdate, [asks @ (0 | 1)]) => {
                    if !self.opening.is_between_messages() {
                        return Err(PeerMisbehaved::KeyEpochWithPendingFragment.into());
                    }
                    self.owes_keys |= *asks == 1;
                    self.opening.renew(self.suite, self.rekey.next_receiving()?)?;
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
        let alert = match error {
            Error::AlertReceived(_) => return,
            Error::DecryptError => AlertDescription::BadRecordMac,
            Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
            Error::InvalidMessage(InvalidMessage::InvalidKeyUpdate) => AlertDescription::IllegalParameter,
            Error::InvalidMessage(_) => AlertDescription::DecodeError,
            Error::General(_) => AlertDescription::InternalError,
            _ => AlertDescription::UnexpectedMessage,
        };
        // Whoever cannot even be told sees the connection end.
        let _ = self.seal(ContentType::Alert, &[seal::FATAL, alert.into()]);
    }

    /// Says goodbye in TLS; to be followed by a flush.
    pub(crate) fn close_notify(&mut self) {
        let alert = [seal::WARNING, AlertDescription::CloseNotify.into()];
        let _ = self.seal(ContentType::Alert, &alert);
    }
}

fn unexpected(got_type: ContentType) -> Error {
    let expect_types = vec![ContentType::ApplicationData, ContentType::Handshake, ContentType::Alert];
    Error::InappropriateMessage { expect_types, got_type }
}
