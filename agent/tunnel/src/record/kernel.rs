//! Records that the kernel carries, once a handshake is over: its keys are handed over, and plaintext is written and
//! read from there on.
//!
//! Invariants:
//! - What was received before is opened here, up to the end of a record: the kernel begins with the next one, and
//!   until it has the receiving key no byte of a record behind that is read.
//! - What is sealed here is sent before the kernel has the sending key.
//! - A key that the kernel cannot replace is used no more than its cipher bears: the tunnel retires at half of it, and
//!   ends at its end.

use std::io;
use std::task::{Context, Poll};

use lark_sys::ktls::{self, Cipher, DATA, Direction, Key, Offer, Refused};
use rustls::{ConnectionTrafficSecrets, ContentType, Error};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::open::{HEADER, KEY_UPDATE, Plain, RECORD_MAX};
use super::seal::FRAGMENT;
use super::{RecordError, Records};

/// A write of so many bytes goes to the kernel from where it is; less is gathered.
const LARGE: usize = FRAGMENT;
/// Records that may be sealed between the question whether a key is used up and the next.
pub(super) const MARGIN: u64 = 512;

/// Who has a direction's key.
enum Carrier {
    /// This process, to the end.
    Here,
    /// This process, until the stream of records is where the kernel can begin.
    Due(Key),
    /// The kernel.
    There,
}

/// What the kernel carries of a connection, and what it is to say.
pub(super) struct Kernel {
    receiving: Carrier,
    sending: Carrier,
    cipher: Cipher,
    renews: bool,
    /// Records sealed by the kernel with the key that it has, or more.
    sealed: u64,
    /// So many may be.
    pub(super) limit: u64,
    /// New keys are to be announced and taken before anything else is sent.
    renew: bool,
    /// What is to be sent after everything else.
    alert: Option<[u8; 2]>,
    /// It may have records of which the reactor has told nothing: those that were there before it had the key.
    unheard: bool,
}

impl Kernel {
    /// Nothing is carried.
    pub(super) const fn none() -> Self {
        let (receiving, sending) = (Carrier::Here, Carrier::Here);
        let (renews, renew, unheard) = (false, false, false);
        let cipher = Cipher::Aes256Gcm;
        Self { receiving, sending, cipher, renews, sealed: 0, limit: u64::MAX, renew, alert: None, unheard }
    }

    /// What the kernel offers is to be used, from where the connection is next between two records.
    pub(super) fn new(
        socket: &TcpStream,
        offer: Option<Offer>,
        receiving: &ConnectionTrafficSecrets,
        sending: &ConnectionTrafficSecrets,
        limit: u64,
    ) -> Self {
        let none = Self::none();
        let (Some(offer), Some(receiving), Some(sending)) = (offer, key(receiving), key(sending)) else {
            return none;
        };
        let cipher = sending.cipher();
        if !offer.has(cipher) {
            return none;
        }
        if let Err(error) = ktls::attach(socket) {
            tracing::debug!(%error, "the kernel takes no keys of this connection");
            return none;
        }
        let (receiving, sending) = (Carrier::Due(receiving), Carrier::Due(sending));
        Self { receiving, sending, cipher, renews: offer.renews, limit, ..none }
    }

    /// Whether the kernel seals what is sent.
    pub(super) const fn sends(&self) -> bool {
        matches!(self.sending, Carrier::There)
    }

    /// Whether the kernel opens what is received.
    pub(super) const fn receives(&self) -> bool {
        matches!(self.receiving, Carrier::There)
    }

    /// How many bytes may be read behind those of a record that are there, if the kernel waits for its end.
    pub(super) fn awaits(&self, partial: &[u8]) -> Option<usize> {
        let Carrier::Due(_) = self.receiving else { return None };
        let missing = match partial.first_chunk::<HEADER>() {
            None => HEADER - partial.len(),
            Some(&[.., high, low]) => {
                let whole = HEADER + usize::from(u16::from_be_bytes([high, low]));
                whole.min(RECORD_MAX).saturating_sub(partial.len()).max(1)
            }
        };
        Some(missing)
    }

    /// Nothing of what was received is left, and so many records were opened: the kernel may go on.
    pub(super) fn take_receiving(&mut self, socket: &TcpStream, opened: u64) {
        let Carrier::Due(key) = &self.receiving else { return };
        match ktls::hand_over(socket, Direction::Receiving, key, opened) {
            Ok(()) => {
                ktls::expect_no_padding(socket);
                self.receiving = Carrier::There;
                self.unheard = true;
            }
            Err(error) => {
                tracing::debug!(%error, "the kernel takes no keys of this connection");
                (self.receiving, self.sending) = (Carrier::Here, Carrier::Here);
            }
        }
    }

    /// Nothing of what was sealed is left, and so many records were.
    pub(super) fn take_sending(&mut self, socket: &TcpStream, sealed: u64) {
        let (Carrier::There, Carrier::Due(key)) = (&self.receiving, &self.sending) else { return };
        match ktls::hand_over(socket, Direction::Sending, key, sealed) {
            Ok(()) => {
                self.sending = Carrier::There;
                self.sealed = sealed;
            }
            Err(error) => {
                tracing::debug!(%error, "the kernel takes no keys of this connection for sending");
                self.sending = Carrier::Here;
            }
        }
    }

    /// The peer has new keys.
    pub(super) fn renew_receiving(&mut self, socket: &TcpStream, next: Key) -> Result<(), RecordError> {
        match self.receiving {
            Carrier::Here => Ok(()),
            Carrier::Due(_) => {
                self.receiving = Carrier::Due(next);
                Ok(())
            }
            Carrier::There => {
                ktls::hand_over(socket, Direction::Receiving, &next, 0).map_err(RecordError::PeerKeys)
            }
        }
    }

    /// We have new keys, of which the kernel does not know yet.
    pub(super) fn renewed_sending(&mut self, next: Key) {
        if matches!(self.sending, Carrier::Due(_)) {
            self.sending = Carrier::Due(next);
        }
    }

    /// Whether a next key is due.
    pub(super) const fn is_used_up(&self) -> bool {
        self.sealed.saturating_add(MARGIN) >= self.limit
    }

    /// Whether something waits besides data.
    pub(super) const fn has_to_say(&self) -> bool {
        self.renew || self.alert.is_some()
    }
}

/// The secrets as the kernel wants them.
pub(super) fn key(secrets: &ConnectionTrafficSecrets) -> Option<Key> {
    let (cipher, key, iv) = match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Cipher::Aes128Gcm, key, iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Cipher::Aes256Gcm, key, iv),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Cipher::Chacha20Poly1305, key, iv),
        _ => return None,
    };
    Key::new(cipher, key.as_ref(), iv.as_ref())
}

impl Records {
    /// Hands plaintext over to the kernel, or keeps it until the socket takes it.
    pub(super) fn write_plain(&mut self, bytes: &[u8]) -> Result<(), RecordError> {
        if self.protocol.owes_keys || self.kernel.is_used_up() {
            if !self.kernel.renews {
                // A goodbye is within the margin.
                self.kernel.limit = u64::MAX;
                self.protocol.owes_keys = false;
                return Err(RecordError::OwnKeys);
            }
            self.protocol.owes_keys = false;
            self.kernel.renew = true;
        }
        let mut taken = 0;
        if bytes.len() >= LARGE && !self.has_waiting() {
            match ktls::send(&self.socket, DATA, bytes, false) {
                Ok(count) => taken = count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(self.refused(error)),
            }
            self.sent |= taken > 0;
            self.count_sealed(taken);
        }
        self.protocol.waiting.extend(bytes.get(taken..).unwrap_or_default());
        Ok(())
    }

    /// At most that many records hold these bytes, since none is left open.
    pub(super) fn count_sealed(&mut self, bytes: usize) {
        let records = u64::try_from(bytes.div_ceil(FRAGMENT)).unwrap_or(u64::MAX);
        self.kernel.sealed = self.kernel.sealed.saturating_add(records);
    }

    /// Keeps an alert for when everything else is sent.
    pub(super) fn say_alert(&mut self, alert: [u8; 2]) {
        self.kernel.alert = Some(alert);
    }

    /// Announces new keys and gives them to the kernel.
    pub(super) fn send_renewal(&mut self) -> Result<(), RecordError> {
        if std::mem::take(&mut self.kernel.renew) {
            if let Err(error) = self.send_record(ContentType::Handshake, &KEY_UPDATE) {
                self.kernel.renew = true;
                return Err(error.into());
            }
            let next = key(&self.protocol.rekey.next_sending()?).ok_or(RecordError::OwnKeys)?;
            ktls::hand_over(&self.socket, Direction::Sending, &next, 0)?;
            self.kernel.sealed = 0;
        }
        Ok(())
    }

    /// Sends the alert.
    pub(super) fn send_alert(&mut self) -> io::Result<()> {
        if let Some(alert) = self.kernel.alert {
            self.send_record(ContentType::Alert, &alert)?;
            self.kernel.alert = None;
        }
        Ok(())
    }

    fn send_record(&self, kind: ContentType, bytes: &[u8]) -> io::Result<()> {
        let send = || ktls::send(&self.socket, kind.into(), bytes, false);
        match self.socket.try_io(Interest::WRITABLE, send)? {
            count if count == bytes.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    /// Reads plaintext, and takes in what comes between it.
    pub(super) fn poll_plain(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<Result<usize, RecordError>> {
        loop {
            let (count, kind) = match self.poll_record(cx, buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(read)) => read,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.refused(error))),
            };
            if count == 0 {
                return Poll::Ready(Err(RecordError::Closed));
            }
            let plain =
                Plain { kind: ContentType::from(kind), bytes: buffer.get(..count).unwrap_or_default() };
            match self.take_plain(plain) {
                Ok(true) => return Poll::Ready(Ok(count)),
                Ok(false) if self.protocol.opening.is_closed() => {
                    return Poll::Ready(Err(RecordError::Closed));
                }
                Ok(false) => {}
                Err(error) => {
                    self.tell(&error);
                    return Poll::Ready(Err(error));
                }
            }
        }
    }

    /// True if it is data, which is left to the caller.
    fn take_plain(&mut self, plain: Plain<'_>) -> Result<bool, RecordError> {
        match self.protocol.opening.admit(plain)? {
            None => Ok(false),
            Some(Plain { kind: ContentType::ApplicationData, .. }) => Ok(true),
            Some(Plain { kind: ContentType::Handshake, bytes }) => self.handshake(bytes).map(|()| false),
            Some(Plain { kind, .. }) => Err(super::open::unexpected(kind).into()),
        }
    }

    fn poll_record(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<(usize, u8)>> {
        if std::mem::take(&mut self.kernel.unheard) {
            match ktls::receive(&self.socket, buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
        loop {
            std::task::ready!(self.socket.poll_read_ready(cx))?;
            match self.socket.try_io(Interest::READABLE, || ktls::receive(&self.socket, buffer)) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }

    /// What an error of the kernel's says of a record; the peer is told.
    pub(super) fn refused(&mut self, error: io::Error) -> RecordError {
        let error = match Refused::of(&error) {
            None => return error.into(),
            Some(Refused::Broken) => Error::DecryptError.into(),
            Some(Refused::TooLong) => Error::PeerSentOversizedRecord.into(),
        };
        self.tell(&error);
        error
    }

    /// Whether the kernel has used a key, which it cannot replace, for half of what its cipher bears: then the tunnel
    /// takes no more streams, and those that it has may go on for as long again.
    pub(crate) fn wears_out(&mut self) -> bool {
        let kernel = &mut self.kernel;
        if kernel.renews || !kernel.receives() {
            return false;
        }
        let used = |direction| ktls::sequence(&self.socket, direction, kernel.cipher).unwrap_or(0);
        let opened = used(Direction::Receiving);
        if kernel.sends() {
            // The kernel ends a record also when it is in many small pieces.
            kernel.sealed = kernel.sealed.max(used(Direction::Sending));
        }
        opened.max(kernel.sealed) >= kernel.limit / 2
    }
}
