use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, StatusCode};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;

use crate::copy::{self, FRAME, STREAM_WINDOW, STREAMS, TUNNEL_WINDOW};
use crate::tls::ACCEPTS;

/// Tunnels to the other end, each with how many streams it has.
struct Pool {
    via: SocketAddr,
    connector: TlsConnector,
    tunnels: Mutex<Vec<(SendRequest<Bytes>, Arc<AtomicU32>)>>,
}

/// A stream's place in its tunnel.
struct Place(Arc<AtomicU32>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    async fn take(&self) -> Result<(SendRequest<Bytes>, Place)> {
        let mut tunnels = self.tunnels.lock().await;
        let room = |streams: &AtomicU32| streams.load(Ordering::Relaxed) < STREAMS;
        if !tunnels.iter().any(|(_, streams)| room(streams)) {
            let new = self.open().await?;
            tunnels.push((new, Arc::default()));
        }
        let found = tunnels.iter().find(|(_, streams)| room(streams));
        let (tunnel, streams) = found.ok_or_else(|| anyhow::anyhow!("no tunnel"))?;
        streams.fetch_add(1, Ordering::Relaxed);
        Ok((tunnel.clone(), Place(streams.clone())))
    }

    async fn open(&self) -> Result<SendRequest<Bytes>> {
        let socket = TcpStream::connect(self.via).await?;
        socket.set_nodelay(true)?;
        let tls = self.connector.connect(ServerName::try_from(ACCEPTS)?, socket).await?;
        let (tunnel, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(TUNNEL_WINDOW)
            .max_frame_size(FRAME)
            .enable_push(false)
            .handshake(tls)
            .await?;
        tokio::spawn(connection);
        Ok(tunnel)
    }

    async fn carry(&self, socket: TcpStream, to: SocketAddr) -> Result<()> {
        let (tunnel, _place) = self.take().await?;
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri(to.to_string())
            .header("forwarded", format!("for=\"{}\"", socket.peer_addr()?))
            .header("baggage", "k8s.cluster.name=bench,k8s.namespace.name=shop,k8s.deployment.name=client")
            .body(())?;
        let (response, send) = tunnel.ready().await?.send_request(request, false)?;
        let response = response.await?;
        ensure!(response.status() == StatusCode::OK, "refused: {}", response.status());
        copy::both(socket, send, response.into_body()).await
    }
}

/// Takes connections for ever.
pub(crate) async fn run(
    listeners: Vec<(TcpListener, SocketAddr)>,
    via: SocketAddr,
    connector: TlsConnector,
) -> Result<()> {
    let pool = Arc::new(Pool { via, connector, tunnels: Mutex::default() });
    let mut ways = Vec::new();
    for (listener, to) in listeners {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let pool = pool.clone();
        ways.push(tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let pool = pool.clone();
                tokio::spawn(async move {
                    // What fails is dropped, which the client sees as its end.
                    let _ = pool.carry(socket, to).await;
                });
            }
        }));
    }
    for way in ways {
        way.await?;
    }
    Ok(())
}
