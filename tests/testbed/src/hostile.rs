//! A peer that speaks TLS as agents do and frames as it likes: for attacks, and for looking at what is
//! answered.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Kinds of frames (RFC 9113, section 6).
pub mod kind {
    #![expect(missing_docs, reason = "the names are the RFC's")]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// `END_STREAM` of DATA and HEADERS, `ACK` of SETTINGS and PING.
pub const END: u8 = 1;
/// The header block is whole.
pub const END_HEADERS: u8 = 4;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// See [`kind`].
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// The stream, 0 for the connection.
    pub stream: u32,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// A frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [.., high, middle, low] = payload.len().to_be_bytes();
    let [a, b, c, d] = stream.to_be_bytes();
    [[high, middle, low, kind, flags, a, b, c, d].as_slice(), payload].concat()
}

/// A header field spelled out, without Huffman; name and value below 127 bytes.
pub fn field(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).unwrap_or(0);
    [[0, length(name)].as_slice(), name.as_bytes(), &[length(value)], value.as_bytes()].concat()
}

/// A CONNECT as agents write it, with any authority and any `forwarded`.
pub fn connect_to(authority: &str, forwarded: &str) -> Vec<u8> {
    [field(":method", "CONNECT"), field(":authority", authority), field("forwarded", forwarded)].concat()
}

/// One setting.
pub fn setting(name: u8, value: u32) -> Vec<u8> {
    [[0, name].as_slice(), &value.to_be_bytes()].concat()
}

/// A TCP connection from an address of one's choice.
///
/// # Errors
/// When there is none.
pub async fn from(source: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(source, 0))?;
    socket.connect(to).await
}

/// A client's configuration without a certificate, for these versions of TLS; it takes any server.
///
/// # Errors
/// When the cryptography has none of the versions.
pub fn nobody(versions: &[&'static SupportedProtocolVersion]) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// A tunnel in hostile hands.
#[derive(Debug)]
pub struct Hostile(TlsStream<TcpStream>);

impl Hostile {
    /// Speaks TLS on a connection; without a name it sends none. In TLS 1.3 this succeeds before the other
    /// end has looked at the certificate.
    ///
    /// # Errors
    /// When the other end refuses.
    pub async fn new(socket: TcpStream, mut config: ClientConfig, name: Option<&str>) -> io::Result<Self> {
        let name = match name.map(|name| ServerName::try_from(name.to_owned())) {
            Some(name) => name.map_err(io::Error::other)?,
            None => {
                config.enable_sni = false;
                ServerName::from(IpAddr::from(Ipv4Addr::LOCALHOST))
            }
        };
        TlsConnector::from(Arc::new(config)).connect(name, socket).await.map(Self)
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// When the connection is over.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await?;
        self.0.flush().await
    }

    /// The preface and these SETTINGS.
    ///
    /// # Errors
    /// When the connection is over.
    pub async fn hello(&mut self, settings: &[u8]) -> io::Result<()> {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice();
        self.send(&[preface, &frame(kind::SETTINGS, 0, 0, settings)].concat()).await
    }

    /// The next frame.
    ///
    /// # Errors
    /// When the connection is over.
    pub async fn next(&mut self) -> io::Result<Frame> {
        let mut header = [0; 9];
        self.0.read_exact(&mut header).await?;
        let [high, middle, low, kind, flags, a, b, c, d] = header;
        let length = u32::from_be_bytes([0, high, middle, low]);
        let mut payload = vec![0; usize::try_from(length).unwrap_or(0)];
        self.0.read_exact(&mut payload).await?;
        Ok(Frame { kind, flags, stream: u32::from_be_bytes([a, b, c, d]), payload })
    }

    /// The next frame of that kind; others are passed over.
    ///
    /// # Errors
    /// When the connection is over before it came.
    pub async fn next_of(&mut self, kind: u8) -> io::Result<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.kind == kind {
                return Ok(frame);
            }
        }
    }

    /// Opens a stream and returns the header block of the answer.
    ///
    /// # Errors
    /// When the connection is over before it came.
    pub async fn ask(&mut self, stream: u32, block: &[u8]) -> io::Result<Vec<u8>> {
        self.send(&frame(kind::HEADERS, END_HEADERS, stream, block)).await?;
        loop {
            let frame = self.next_of(kind::HEADERS).await?;
            if frame.stream == stream {
                return Ok(frame.payload);
            }
        }
    }

    /// Reads until the other end has closed.
    pub async fn closed(&mut self) {
        while self.next().await.is_ok() {}
    }
}

#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
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
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
