//! A pod's socket, as the engine holds it.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll};

use lark_sys::socket::{
    end_on_close, keep_urgent_in_line, prepare_for_pod, read_now, reset_on_close, set_nodelay, write_now,
};
use lark_sys::splice::Pipe;
use socket2::SockRef;
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// A pod's connection on its way into the tunnels. Its close is a reset until a tunnel closes it in order.
#[derive(Debug)]
pub struct PodSocket(TcpStream);

impl From<TcpStream> for PodSocket {
    fn from(socket: TcpStream) -> Self {
        prepare_for_pod(&socket);
        Self(socket)
    }
}

impl PodSocket {
    /// A socket that [`prepare_for_pod`] has prepared already.
    pub fn prepared(socket: TcpStream) -> Self {
        Self(socket)
    }

    /// A connection to outside the mesh, which may be far away: it keeps the system's congestion control.
    pub fn outside(socket: TcpStream) -> Self {
        set_nodelay(&socket);
        reset_on_close(&socket);
        keep_urgent_in_line(&socket);
        Self(socket)
    }

    /// The socket as it is.
    pub fn into_inner(self) -> TcpStream {
        self.0
    }
}

impl AsRef<TcpStream> for PodSocket {
    fn as_ref(&self) -> &TcpStream {
        &self.0
    }
}

/// A listener for pods' connections. What a socket needs is set once here and inherited by all.
#[derive(Debug)]
pub struct PodSocketListener(TcpListener);

impl From<TcpListener> for PodSocketListener {
    fn from(listener: TcpListener) -> Self {
        prepare_for_pod(&listener);
        Self(listener)
    }
}

impl PodSocketListener {
    /// The next connection, and where it comes from. Cancel safe.
    ///
    /// # Errors
    /// What the system says, descriptors exhausted for example; the listener stays usable.
    pub async fn accept(&self) -> io::Result<(PodSocket, std::net::SocketAddr)> {
        self.0.accept().await.map(|(socket, from)| (PodSocket(socket), from))
    }
}

/// A pod's socket. Its close is a reset, on whatever way that comes about: the pod must not take an error
/// for an end, not even when the kernel closes what a killed agent had open. Only [`Pod::close`] closes it
/// in order.
pub(crate) struct Pod {
    /// One of two owners of the socket: reads, and everything that needs no more than a reference.
    socket: OwnedReadHalf,
    /// The other, so that a watch can live beside it.
    watch: Watch,
    /// It has not been read or written yet. The reactor tells what a socket can do only in its next turn,
    /// which a new connection need not wait for: mostly its first bytes are there.
    unread: bool,
    unwritten: Cell<bool>,
}

enum Watch {
    /// Not asked for yet.
    Idle(Silent),
    /// Becomes ready when the socket has failed.
    Armed(Pin<Box<dyn Future<Output = ()>>>),
}

/// The write half, which would otherwise end the stream when it is dropped.
struct Silent(Option<OwnedWriteHalf>);

impl Drop for Silent {
    fn drop(&mut self) {
        if let Some(half) = self.0.take() {
            half.forget();
        }
    }
}

impl Pod {
    pub(crate) fn new(PodSocket(socket): PodSocket) -> Self {
        let (socket, other) = socket.into_split();
        let watch = Watch::Idle(Silent(Some(other)));
        Self { socket, watch, unread: true, unwritten: Cell::new(true) }
    }

    fn stream(&self) -> &TcpStream {
        self.socket.as_ref()
    }

    /// The next read asks the socket whatever the reactor knows of it.
    pub(crate) fn look_anyway(&mut self) {
        self.unread = true;
    }

    /// Reads once; nothing read means that the pod sends no more.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if std::mem::take(&mut self.unread) {
            match read_now(self.stream(), buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
        let mut read = ReadBuf::new(buffer);
        // Knows from a short read that nothing is left, and saves the call that would say so.
        std::task::ready!(Pin::new(&mut self.socket).poll_read(cx, &mut read))?;
        Poll::Ready(Ok(read.filled().len()))
    }

    /// Takes up to `most` bytes into a pipe. Where none are taken, a read tells whether the pod sends no more, or
    /// urgent data, at which splices stop (`tcp_read_sock`, net/ipv4/tcp.c); so what the socket can do is left to it.
    pub(crate) fn poll_fill(
        &self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.stream().poll_read_ready(cx))?;
        Poll::Ready(pipe.fill_some(self.stream(), most))
    }

    /// Whether there may be something to read.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_read_ready(cx)
    }

    /// Writes as much as the pod takes now; what does not fit registers for the time it will.
    pub(crate) fn write(&self, cx: &mut Context<'_>, mut slices: &mut [IoSlice<'_>]) -> io::Result<usize> {
        let mut written = 0;
        while !slices.is_empty() {
            let result = match self.unwritten.take() {
                true => write_now(self.stream(), slices),
                false => self.stream().try_write_vectored(slices),
            };
            match result {
                Ok(count) => {
                    written += count;
                    IoSlice::advance_slices(&mut slices, count);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    // If it became writable meanwhile, goes on.
                    if self.stream().poll_write_ready(cx)?.is_pending() {
                        break;
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Ok(written)
    }

    /// Writes as much of what is in the pipe as the pod takes now; the rest registers for the time it will.
    pub(crate) fn splice(&self, cx: &mut Context<'_>, pipe: &mut Pipe) -> io::Result<usize> {
        let before = pipe.holds();
        while pipe.holds() > 0 {
            let result = match self.unwritten.take() {
                true => pipe.drain(self.stream(), false),
                false => self.stream().try_io(Interest::WRITABLE, || pipe.drain(self.stream(), false)),
            };
            match result {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if self.stream().poll_write_ready(cx)?.is_pending() {
                        break;
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Ok(before - pipe.holds())
    }

    /// Tells the pod that no more comes.
    pub(crate) fn end(&self) -> io::Result<()> {
        SockRef::from(self.stream()).shutdown(Shutdown::Write)
    }

    /// Ready with the error when the socket has failed, although nobody reads or writes it.
    pub(crate) fn poll_failed(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if let Watch::Idle(half) = &mut self.watch {
            let half = Silent(half.0.take());
            self.watch = Watch::Armed(Box::pin(async move {
                if let Some(half) = &half.0 {
                    // An error of the reactor itself ends the watch as well: nothing works then.
                    let _ = half.ready(Interest::ERROR).await;
                }
            }));
        }
        let Watch::Armed(watch) = &mut self.watch else { return Poll::Pending };
        std::task::ready!(watch.as_mut().poll(cx));
        // Asked again, it fails again at once.
        self.watch = Watch::Idle(Silent(None));
        let error = self.stream().take_error().ok().flatten();
        Poll::Ready(error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()))
    }

    /// Closes the socket after both directions have ended.
    pub(crate) fn close(self) {
        end_on_close(self.stream());
    }
}
