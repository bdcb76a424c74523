//! Connections that have a place in a room of bounded size.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use lark_core::room::{Place, Room};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

/// Connections from one address: an agent has one stream and a few requests.
const FROM_ONE: usize = 64;
/// Connections at all: as many nodes as a mesh has, each with its stream and a request.
const ALL: usize = 16 * 1024;

/// Room for the connections of agents.
pub(super) fn room() -> Room {
    Room::new(FROM_ONE, ALL)
}

/// A connection and its place.
#[derive(Debug)]
pub struct Limited {
    stream: TlsStream<TcpStream>,
    _place: Place,
}

impl Limited {
    pub(super) fn new(stream: TlsStream<TcpStream>, place: Place) -> Self {
        Self { stream, _place: place }
    }

    fn inner(self: Pin<&mut Self>) -> Pin<&mut TlsStream<TcpStream>> {
        Pin::new(&mut self.get_mut().stream)
    }
}

impl Connected for Limited {
    type ConnectInfo = <TlsStream<TcpStream> as Connected>::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Limited {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.inner().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Limited {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.inner().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_shutdown(cx)
    }
}
