//! Through the server to pods: `portforward` by WebSocket, and the proxy of Services.
//!
//! A forwarded port is two channels of the subprotocol `v4.channel.k8s.io`, one of data and one for an error, each of
//! whose messages begins with its number; the first message of each is the port, little-endian. So the kubelet does it
//! (`pkg/kubelet/cri/streaming/portforward/websocket.go`).

use std::io;
use std::net::TcpStream as Dialled;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::header::{
    AUTHORIZATION, CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    UPGRADE,
};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::registry::Refusal;
use super::serve::Answer;
use super::{ApiServer, Shared, locked};

/// The subprotocol that is spoken.
const CHANNELS: &str = "v4.channel.k8s.io";

/// Who is to be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// A port of a pod's loopback.
    Pod {
        /// The pod.
        name: String,
        /// The port.
        port: u16,
    },
    /// Any endpoint of a Service.
    Service {
        /// The Service.
        name: String,
        /// Name of its port.
        port: String,
    },
}

pub(crate) type Dial = Arc<dyn Fn(&Backend) -> io::Result<Dialled> + Send + Sync>;

impl ApiServer {
    /// Says how pods are reached: what kubelets and the network of a cluster do.
    pub fn reach(&self, dial: impl Fn(&Backend) -> io::Result<Dialled> + Send + Sync + 'static) {
        *locked(&self.shared.dial) = Some(Arc::new(dial));
    }
}

async fn dial(shared: &Shared, backend: Backend) -> io::Result<TcpStream> {
    let dial = locked(&shared.dial).clone();
    let dial = dial.ok_or_else(|| io::Error::other("the scenario reaches no pods"))?;
    let dialled = tokio::task::spawn_blocking(move || dial(&backend)).await.map_err(io::Error::other)??;
    dialled.set_nonblocking(true)?;
    TcpStream::from_std(dialled)
}

/// `pods/NAME/portforward?ports=N`.
pub(crate) fn forward(
    shared: &Arc<Shared>,
    name: &str,
    ports: &str,
    mut request: Request<Incoming>,
) -> Result<Answer, Refusal> {
    let bad = |said: &str| Refusal::new(400, "BadRequest", said);
    let port: u16 = ports.parse().map_err(|_| bad("one port is forwarded here"))?;
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let offers =
        header(SEC_WEBSOCKET_PROTOCOL).is_some_and(|all| all.split(',').any(|one| one.trim() == CHANNELS));
    let key = header(SEC_WEBSOCKET_KEY).filter(|_| offers).ok_or_else(|| bad("an upgrade is required"))?;
    let accept = derive_accept_key(key.as_bytes());
    let upgrade = hyper::upgrade::on(&mut request);
    let (shared, name) = (shared.clone(), name.to_owned());
    tokio::spawn(async move {
        let mut cut = shared.cut.subscribe();
        let Ok(upgraded) = upgrade.await else { return };
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        tokio::select! {
            // How it ends is the client's matter.
            _ended = carry(&shared, name, port, socket) => {}
            _ = cut.changed() => {}
        }
    });
    let mut answer = Response::new(Empty::new().boxed_unsync());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(CHANNELS));
    headers.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::try_from(accept).map_err(|e| bad(&e.to_string()))?);
    Ok(answer)
}

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

async fn carry(
    shared: &Shared,
    name: String,
    port: u16,
    mut socket: Socket,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let message = |channel: u8, bytes: &[u8]| Message::binary([&[channel], bytes].concat());
    for channel in [0, 1] {
        socket.send(message(channel, &port.to_le_bytes())).await?;
    }
    let mut pod = match dial(shared, Backend::Pod { name: name.clone(), port }).await {
        Ok(pod) => pod,
        Err(error) => {
            let said = format!("error forwarding port {port} to pod {name}: {error}");
            socket.send(message(1, said.as_bytes())).await?;
            return Ok(socket.close(None).await?);
        }
    };
    let mut buffer = vec![0; 64 * 1024];
    let mut is_open = true;
    loop {
        tokio::select! {
            read = pod.read(&mut buffer) => match read? {
                0 => return Ok(socket.close(None).await?),
                count => socket.send(message(0, buffer.get(..count).unwrap_or_default())).await?,
            },
            told = socket.next(), if is_open => match told {
                Some(Ok(Message::Binary(bytes))) => match bytes.split_first() {
                    Some((0, data)) => pod.write_all(data).await?,
                    _ => return Err("data on another channel".into()),
                },
                Some(Ok(Message::Close(_))) | None => {
                    is_open = false;
                    pod.shutdown().await?;
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
            },
        }
    }
}

/// `services/https:NAME:PORT/proxy/TARGET`. The server keeps `Authorization` for itself, and takes any certificate.
pub(crate) async fn proxy(
    shared: &Shared,
    name: &str,
    port: &str,
    target: &str,
    request: Request<Incoming>,
) -> Result<Answer, Refusal> {
    let unavailable = |said: String| Refusal::new(503, "ServiceUnavailable", said);
    let backend = Backend::Service { name: name.to_owned(), port: port.to_owned() };
    let none = |error| unavailable(format!("no endpoints available for service {name:?}: {error}"));
    let stream = dial(shared, backend).await.map_err(none)?;
    let failed =
        |error: &dyn std::fmt::Display| unavailable(format!("error trying to reach service: {error}"));
    let tls = TlsConnector::from(Arc::new(config().map_err(|error| failed(&error))?));
    let host = ServerName::try_from("localhost").map_err(|error| failed(&error))?;
    let stream = tls.connect(host, stream).await.map_err(|error| failed(&error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    tokio::spawn(connection);
    let (parts, _) = request.into_parts();
    let mut onward = Request::new(Empty::<Bytes>::new());
    *onward.method_mut() = parts.method;
    *onward.uri_mut() = target.parse().map_err(|error: hyper::http::uri::InvalidUri| failed(&error))?;
    *onward.headers_mut() = parts.headers;
    onward.headers_mut().remove(AUTHORIZATION);
    let (parts, body) = sender.send_request(onward).await.map_err(|error| failed(&error))?.into_parts();
    let body = body.collect().await.map_err(|error| failed(&error))?.to_bytes();
    Ok(Response::from_parts(parts, Full::new(body).boxed_unsync()))
}

fn config() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let verifier = Arc::new(Anybody(provider.signature_verification_algorithms.supported_schemes()));
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Whoever it is: API servers do not verify the certificates of Services that they ask for somebody.
#[derive(Debug)]
struct Anybody(Vec<SignatureScheme>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}
