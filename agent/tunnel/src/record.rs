//! TLS records in and out of the node's socket, once rustls has made the handshake.
//!
//! Keys and the derivation of the next ones are rustls's (its `kernel` interface, made for whoever carries records
//! himself), and so is the cipher that opens; the one that seals is called without it (`seal.rs`). What is here is the record protocol of RFC 8446, section 5, and what may follow a handshake,
//! section 4.6, so that a received byte is decrypted where it was read and written to the pod from there, and a sent one
//! is sealed from where it was read: rustls's own connections copy the one three times on the way and the other once.
//!
//! Invariants:
//! - A sequence number is used once with a key: each is counted up with its record, and begins anew only with the next
//!   key.
//! - After an error nothing is opened or sealed but the alert that tells it.
//! - What waits for the socket is bounded by who writes, who looks at [`Records::unsent`] first.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll};

use lark_sys::ktls::Offer;
use rustls::{ContentType, Error};
use socket2::SockRef;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use crate::handshake::Finished;

mod kernel;
mod open;
mod outgoing;
mod protocol;
/// Ends without sockets or a handshake, for tests and fuzzing.
#[cfg(any(test, feature = "fuzzing"))]
pub mod replay;
mod seal;
mod splice;
#[cfg(test)]
mod tests;

use kernel::Kernel;
use open::Opening;
pub(crate) use open::RECORD_MAX;
use outgoing::Outgoing;
use protocol::{Protocol, Renewed, alert_of, goodbye};
pub(crate) use seal::FRAGMENT;
use seal::Sealing;
pub(crate) use splice::Spliced;

/// Bytes of one read from the node's socket.
const READ: usize = 256 * 1024;
/// What a read needs room for: what is left of the last one, and as much again as is read.
pub(crate) const ROOM: usize = RECORD_MAX + READ;
/// Pieces that are written at once.
const BATCH: usize = 16;

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
    /// The peer has new keys, and the kernel, which carries the records, does not take them.
    #[error("the peer renewed its keys, which this kernel's TLS cannot follow: {0}; see --ktls")]
    PeerKeys(#[source] io::Error),
    /// The kernel's key was used for as much as its cipher bears.
    #[error("the key that this kernel's TLS cannot replace is used up; see --ktls")]
    OwnKeys,
}

/// TLS over the node's socket.
pub(crate) struct Records {
    socket: TcpStream,
    protocol: Protocol,
    /// The beginning of a record that is not there yet.
    partial: Vec<u8>,
    /// Plaintext handed over since everything was last sent.
    unsent: usize,
    /// Something was sent since [`Self::is_stuck`] was asked last.
    sent: bool,
    /// What the kernel carries.
    kernel: Kernel,
}

impl Records {
    /// The records behind a handshake; carried by the kernel where it offers that.
    ///
    /// # Errors
    /// When the handshake has agreed on something other than TLS 1.3, which its configuration does not take.
    pub(crate) fn new<Data: 'static>(
        socket: TcpStream,
        finished: Finished<Data>,
        offer: Option<Offer>,
    ) -> Result<Self, Error> {
        let Finished { secrets, kernel, received, may_get_tickets, .. } = finished;
        let suite = kernel.negotiated_cipher_suite();
        let limit = suite.tls13().map_or(u64::MAX, |suite| suite.common.confidentiality_limit);
        let carried = Kernel::new(&socket, offer, &secrets.rx.1, &secrets.tx.1, limit);
        let protocol = Protocol {
            suite,
            opening: Opening::new(suite, secrets.rx.1, secrets.rx.0)?,
            sealing: Sealing::new(suite, secrets.tx.1, secrets.tx.0)?,
            rekey: Box::new(kernel),
            waiting: Outgoing::default(),
            owes_keys: false,
            may_get_tickets,
            renewed: offer.map(|_| Renewed::default()),
        };
        let (unsent, sent) = (0, false);
        let mut records = Self { socket, protocol, partial: received, unsent, sent, kernel: carried };
        records.keep_nothing();
        Ok(records)
    }

    /// Plaintext that waits for the node's socket, at most.
    pub(crate) const fn unsent(&self) -> usize {
        self.unsent
    }

    /// Keeps what waits in no more memory than it needs, for a peer that takes nothing.
    pub(crate) fn pack(&mut self) {
        self.protocol.waiting.pack();
    }

    /// Forgets what waits, of a connection that is over.
    pub(crate) fn discard(&mut self) {
        self.protocol.waiting = Outgoing::default();
    }

    /// Encrypts a frame; the caller has looked how much waits.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), RecordError> {
        self.unsent += bytes.len();
        if self.protocol.waiting.is_empty() && !self.protocol.owes_keys {
            self.kernel.take_sending(&self.socket, self.protocol.sealing.used());
        }
        if self.kernel.sends() {
            return self.write_plain(bytes);
        }
        self.protocol.write(bytes)?;
        self.tell_kernel()
    }

    /// Tells the kernel of keys that are new.
    fn tell_kernel(&mut self) -> Result<(), RecordError> {
        let Some(renewed) = &mut self.protocol.renewed else { return Ok(()) };
        if let Some(next) = renewed.sending.take() {
            self.kernel.renewed_sending(next);
        }
        let Some(next) = renewed.receiving.take() else { return Ok(()) };
        let told = self.kernel.renew_receiving(&self.socket, next);
        if told.is_err() {
            // Nothing follows but a goodbye, with the keys that there are.
            self.protocol.owes_keys = false;
        }
        told
    }

    /// Sends what waits. Ready when nothing does.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RecordError>> {
        while self.has_waiting() {
            match self.send() {
                Ok(()) => self.sent = true,
                Err(RecordError::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => {
                    if self.socket.poll_write_ready(cx)?.is_pending() {
                        return Poll::Pending;
                    }
                }
                // What the kernel thinks of a record that came meanwhile fails a write too.
                Err(RecordError::Io(e)) if self.kernel.receives() => {
                    return Poll::Ready(Err(self.refused(e)));
                }
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        self.unsent = 0;
        Poll::Ready(Ok(()))
    }

    /// Whether anything waits for the socket.
    fn has_waiting(&self) -> bool {
        !self.protocol.waiting.is_empty() || self.kernel.has_to_say()
    }

    fn send(&mut self) -> Result<(), RecordError> {
        self.send_renewal()?;
        if self.protocol.waiting.is_empty() {
            return Ok(self.send_alert()?);
        }
        let mut slices = [IoSlice::new(&[]); BATCH];
        let count = self.protocol.waiting.slices(&mut slices);
        let written = self.socket.try_write_vectored(slices.get(..count).unwrap_or_default())?;
        if self.kernel.sends() {
            self.count_sealed(written);
        }
        self.protocol.waiting.sent(written);
        Ok(())
    }

    /// Whether something waits and nothing of it was taken since this was asked last.
    pub(crate) fn is_stuck(&mut self) -> bool {
        !std::mem::take(&mut self.sent) && self.has_waiting()
    }

    /// Reads once into a buffer of at least [`ROOM`] bytes, behind what was left of the last read, and says how
    /// many bytes there are for [`Self::open`]. Pending when nothing has arrived.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<Result<usize, RecordError>> {
        if self.kernel.receives() {
            return self.poll_plain(cx, buffer);
        }
        let Some((left, room)) = buffer.split_at_mut_checked(self.partial.len()) else {
            return Poll::Ready(Err(Error::PeerSentOversizedRecord.into()));
        };
        left.copy_from_slice(&self.partial);
        let most = self.kernel.awaits(&self.partial).unwrap_or(room.len()).min(room.len());
        let room = room.get_mut(..most).unwrap_or_default();
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
    /// What the kernel has opened is all taken at once.
    pub(crate) fn open<'a>(&mut self, bytes: &mut &'a mut [u8]) -> Result<Option<&'a [u8]>, RecordError> {
        if self.kernel.receives() {
            let plain = std::mem::take(bytes);
            return Ok((!plain.is_empty()).then_some(plain));
        }
        let opened = self.protocol.open(bytes)?;
        self.tell_kernel()?;
        Ok(opened)
    }

    /// What a peer may say after the handshake.
    fn handshake(&mut self, bytes: &[u8]) -> Result<(), RecordError> {
        self.protocol.handshake(bytes)?;
        self.tell_kernel()
    }

    /// Says by an alert why the records cannot go on, unless the peer said so itself; to be followed by a flush.
    fn tell(&mut self, error: &RecordError) {
        // Of the others nothing is the peer's fault, or nobody hears it.
        let RecordError::Tls(error) = error else { return };
        if let Some(alert) = alert_of(error) {
            self.alert(alert);
        }
    }

    fn alert(&mut self, alert: [u8; 2]) {
        if self.kernel.receives() {
            // The kernel notes an error of the receiving side at the socket, where it would fail the next write.
            let _ = self.socket.take_error();
        }
        if self.kernel.sends() {
            self.say_alert(alert);
        } else {
            // Whoever cannot even be told sees the connection end.
            let _ = self.protocol.seal(ContentType::Alert, &alert);
        }
    }

    /// Says goodbye in TLS; to be followed by a flush.
    pub(crate) fn close_notify(&mut self) {
        self.alert(goodbye());
    }

    /// Says to the kernel that nothing more is sent. False if it will not hear of it.
    pub(crate) fn end(&self) -> bool {
        SockRef::from(&self.socket).shutdown(Shutdown::Write).is_ok()
    }

    /// Resolves when the peer has closed the connection; what it still says is not looked at. A socket that is closed
    /// while something lies in it unread, or to which something comes then, resets the connection, and what the
    /// peer has not got yet is lost (`tcp_close`, `tcp_rcv_state_process`, net/ipv4).
    pub(crate) async fn closed_by_peer(&self) {
        let mut unread = [0; 4096];
        while self.socket.readable().await.is_ok() {
            match self.socket.try_read(&mut unread) {
                // Whoever sends without end keeps nobody else from his turn.
                Ok(1..) => tokio::task::yield_now().await,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return,
            }
        }
    }

    /// Keeps what [`Self::open`] has left for the next read.
    pub(crate) fn keep(&mut self, left: &[u8]) {
        if left.is_empty() {
            self.partial = Vec::new();
            self.keep_nothing();
        } else {
            self.partial.clear();
            self.partial.extend_from_slice(left);
        }
    }

    /// Between two records the kernel can begin.
    fn keep_nothing(&mut self) {
        if self.partial.is_empty() {
            self.kernel.take_receiving(&self.socket, self.protocol.opening.opened());
        }
    }
}
