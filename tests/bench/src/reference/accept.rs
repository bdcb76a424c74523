use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Request, Response};
use lark_sys::netns::NetNs;
use lark_sys::socket::delivery_socket;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::copy::{self, FRAME, STREAM_WINDOW, STREAMS, TUNNEL_WINDOW};

/// Takes tunnels for ever.
pub(crate) async fn run(listener: TcpListener, acceptor: TlsAcceptor, there: NetNs) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let there = Arc::new(there);
    loop {
        let (socket, _) = listener.accept().await?;
        let (acceptor, there) = (acceptor.clone(), there.clone());
        tokio::spawn(async move {
            // What fails is dropped, which the other end sees.
            let _ = tunnel(socket, &acceptor, &there).await;
        });
    }
}

async fn tunnel(socket: TcpStream, acceptor: &TlsAcceptor, there: &Arc<NetNs>) -> Result<()> {
    socket.set_nodelay(true)?;
    let tls = acceptor.accept(socket).await?;
    let mut streams = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(TUNNEL_WINDOW)
        .max_frame_size(FRAME)
        .max_concurrent_streams(STREAMS)
        .handshake(tls)
        .await?;
    while let Some(stream) = streams.accept().await {
        let (request, respond) = stream?;
        let there = there.clone();
        tokio::spawn(async move {
            let _ = deliver(request, respond, &there).await;
        });
    }
    Ok(())
}

async fn deliver(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    there: &NetNs,
) -> Result<()> {
    let to: SocketAddr = request.uri().authority().context("no authority")?.as_str().parse()?;
    let spread =
        request.headers().get("forwarded").map_or(0, |f| f.as_bytes().iter().map(|b| u32::from(*b)).sum());
    let socket = there.within(|| delivery_socket(to.ip(), spread))??;
    let socket = TcpSocket::from_std_stream(socket).connect(to).await?;
    let send = respond.send_response(Response::new(()), false)?;
    copy::both(socket, send, request.into_body()).await
}
