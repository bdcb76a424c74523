//! TLS records in and out of the node's socket. Reads are large: rustls would take 16 KiB at a time,
//! which doubles the cost of bulk.

use std::cell::RefCell;
use std::io::{self, BufRead, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::Connection;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

/// Bytes of one read from the node's socket.
pub(crate) const READ: usize = 256 * 1024;
/// Plaintext that may wait as records for the node's socket.
pub(crate) const SEND_LIMIT: usize = 512 * 1024;

thread_local! {
    /// Shared by all tunnels of the worker, since each uses it only within one call.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

/// Why the records cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The connection failed.
    #[error("the connection failed: {}", crate::told(.0))]
    Io(#[from] io::Error),
    /// A record is not as it must be, or the peer sent an alert.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The peer closed the connection.
    #[error("the peer closed the connection")]
    Closed,
}

/// TLS over the node's socket.
pub(crate) struct Records {
    socket: TcpStream,
    tls: Connection,
    /// Plaintext handed over since everything was last sent.
    unsent: usize,
    /// Something was sent since [`Self::is_stuck`] was asked last.
    sent: bool,
}

impl Records {
    pub(crate) fn new(socket: TcpStream, mut tls: Connection) -> Self {
        // Bounded by `has_room`, which whoever writes asks first.
        tls.set_buffer_limit(None);
        Self { socket, tls, unsent: 0, sent: false }
    }

    /// Whether more may be handed over before something is sent.
    pub(crate) fn has_room(&self) -> bool {
        self.unsent < SEND_LIMIT
    }

    /// Encrypts a frame; the caller has asked for room.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.unsent += bytes.len();
        self.tls.writer().write_all(bytes)
    }

    /// Sends what waits. Ready when nothing does.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RecordError>> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Socket(&self.socket)) {
                Ok(_) => self.sent = true,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if self.socket.poll_write_ready(cx)?.is_pending() {
                        return Poll::Pending;
                    }
                }
                Err(e) => return Poll::Ready(Err(e.into())),
            }
        }
        self.unsent = 0;
        Poll::Ready(Ok(()))
    }

    /// Whether something waits and nothing of it was taken since this was asked last.
    pub(crate) fn is_stuck(&mut self) -> bool {
        !std::mem::take(&mut self.sent) && self.tls.wants_write()
    }

    /// Reads once and appends the plaintext. Pending when nothing has arrived.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        plain: &mut Vec<u8>,
    ) -> Poll<Result<(), RecordError>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            // Knows from a short read that nothing is left, and saves the call that would say so.
            std::task::ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Err(RecordError::Closed));
            }
            Poll::Ready(self.decrypt(buffer.filled(), plain))
        })
    }

    /// Plaintext that came with the handshake's last bytes.
    pub(crate) fn buffered(&mut self, plain: &mut Vec<u8>) -> Result<(), RecordError> {
        self.tls.process_new_packets()?;
        self.drain(plain)
    }

    fn decrypt(&mut self, mut records: &[u8], plain: &mut Vec<u8>) -> Result<(), RecordError> {
        while !records.is_empty() {
            self.tls.read_tls(&mut records)?;
            self.tls.process_new_packets()?;
            self.drain(plain)?;
        }
        Ok(())
    }

    fn drain(&mut self, plain: &mut Vec<u8>) -> Result<(), RecordError> {
        let mut reader = self.tls.reader();
        loop {
            match reader.fill_buf() {
                Ok([]) => return Err(RecordError::Closed),
                Ok(chunk) => {
                    plain.extend_from_slice(chunk);
                    let count = chunk.len();
                    reader.consume(count);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Says goodbye in TLS; to be followed by a flush.
    pub(crate) fn close_notify(&mut self) {
        self.tls.send_close_notify();
    }
}

/// The node's socket as rustls wants it.
pub(crate) struct Socket<'a>(pub(crate) &'a TcpStream);

impl Read for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.try_write(buffer)
    }

    fn write_vectored(&mut self, buffers: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(buffers)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
