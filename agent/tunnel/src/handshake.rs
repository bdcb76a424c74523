//! Reaching the end of a handshake, and why one failed.

use std::io;

use lark_core::explain::{Cause, Tunnel};
use lark_core::identity::SpiffeId;
use lark_core::reason::Reason;
use lark_identity::verify::VerifyError;
use rustls::{AlertDescription, Connection, PeerIncompatible};
use tokio::net::TcpStream;

use crate::record::{RecordError, Socket};
use crate::tls;

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The connection failed.
    #[error("the connection failed during the handshake: {}", crate::told(.0))]
    Io(#[from] io::Error),
    /// The peer closed the connection.
    #[error("the peer closed the connection during the handshake")]
    Closed,
    /// The peer's certificate does not prove what it must.
    #[error("{0}")]
    Certificate(VerifyError),
    /// The peer refused us by an alert.
    #[error("the peer refused: {}", explain_alert(*.0))]
    Alert(AlertDescription),
    /// The peer does not speak TLS as we do: version, key exchange, certificate missing, or no TLS at all.
    #[error("TLS: {0}")]
    Tls(rustls::Error),
    /// The application protocol is another than HTTP/2.
    #[error("expected the application protocol h2, the peer agreed on {found:?}")]
    Alpn {
        /// What was agreed on, if anything.
        found: Option<String>,
    },
    /// No captured workload here has the server name.
    #[error("no captured workload of this node has the server name {name:?}")]
    UnknownName {
        /// The server name, empty if none was given.
        name: String,
    },
    /// The workload that is meant has no valid certificate.
    #[error("{identity} is captured here but has no valid certificate; see `lark certs`")]
    NoCertificate {
        /// Whose is missing.
        identity: SpiffeId,
    },
}

/// The alert as a person needs it. Our own verifier sends these.
fn explain_alert(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateExpired => {
            "our certificate is not valid by its clock (certificate_expired): compare both clocks".to_owned()
        }
        AlertDescription::UnknownCA => {
            "our certificate does not chain to a root it accepts (unknown_ca): compare the trust bundles"
                .to_owned()
        }
        AlertDescription::UnrecognisedName => {
            "it has no captured workload of that identity (unrecognized_name): its discovery or ours is stale"
                .to_owned()
        }
        AlertDescription::InternalError => {
            "it has no certificate for that identity yet (internal_error)".to_owned()
        }
        other => format!("{other:?}; its log says why"),
    }
}

impl HandshakeError {
    /// The label in metrics, and the reason of the connections that waited for the tunnel.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Certificate(VerifyError::Mismatch { .. }) => Reason::PeerIdentityMismatch,
            _ => Reason::TunnelHandshake,
        }
    }
}

impl HandshakeError {
    /// What it was, in one word that `lark explain` knows.
    pub fn cause(&self) -> Cause {
        let tunnel = match self {
            Self::Io(_) => Tunnel::ConnectionFailed,
            Self::Closed => Tunnel::ClosedByPeer,
            Self::Certificate(why) => return why.cause().into(),
            Self::Alert(_) => Tunnel::RefusedByPeer,
            Self::Tls(error) => of_tls(error),
            Self::Alpn { .. } => Tunnel::NotHttp2,
            Self::UnknownName { .. } => Tunnel::UnknownName,
            Self::NoCertificate { .. } => Tunnel::NoCertificate,
        };
        tunnel.into()
    }
}

fn of_tls(error: &rustls::Error) -> Tunnel {
    match error {
        rustls::Error::NoCertificatesPresented => Tunnel::NoPeerCertificate,
        rustls::Error::NoApplicationProtocol => Tunnel::NotHttp2,
        rustls::Error::PeerIncompatible(
            PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled,
        ) => Tunnel::OldTls,
        _ => Tunnel::NotOurTls,
    }
}

impl From<rustls::Error> for HandshakeError {
    fn from(error: rustls::Error) -> Self {
        match error {
            rustls::Error::AlertReceived(alert) => Self::Alert(alert),
            error => match tls::verify_error(&error) {
                Some(why) => Self::Certificate(why),
                None => Self::Tls(error),
            },
        }
    }
}

impl From<RecordError> for HandshakeError {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Io(error) => Self::Io(error),
            RecordError::Tls(error) => error.into(),
            RecordError::Closed => Self::Closed,
        }
    }
}

/// Drives a handshake to its end. Cancel safe only in that a cancelled one must be thrown away.
pub(crate) async fn complete(socket: &TcpStream, tls: &mut Connection) -> Result<(), HandshakeError> {
    while tls.is_handshaking() {
        flush(socket, tls).await?;
        if !tls.is_handshaking() {
            break;
        }
        read(socket, tls).await?;
    }
    flush(socket, tls).await?;
    match tls.alpn_protocol() {
        Some(tls::ALPN) => Ok(()),
        found => Err(HandshakeError::Alpn { found: found.map(|f| String::from_utf8_lossy(f).into_owned()) }),
    }
}

async fn read(socket: &TcpStream, tls: &mut Connection) -> Result<(), HandshakeError> {
    loop {
        socket.readable().await?;
        match tls.read_tls(&mut Socket(socket)) {
            Ok(0) => return Err(HandshakeError::Closed),
            Ok(_) => break,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e.into()),
        }
    }
    if let Err(error) = tls.process_new_packets() {
        // The alert that tells the peer why.
        let _ = flush(socket, tls).await;
        return Err(error.into());
    }
    Ok(())
}

async fn flush(socket: &TcpStream, tls: &mut Connection) -> Result<(), HandshakeError> {
    while tls.wants_write() {
        match tls.write_tls(&mut Socket(socket)) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => socket.writable().await?,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Refuses a ClientHello, as rustls would if it could be told which alert. Best effort.
pub(crate) fn alert(socket: &TcpStream, alert: AlertDescription) {
    const ALERT: u8 = 21;
    const FATAL: u8 = 2;
    // RFC 8446, sections 5.1 and 6: one record in the clear, since no keys are there yet.
    let _ = socket.try_write(&[ALERT, 3, 3, 0, 2, FATAL, alert.into()]);
}
