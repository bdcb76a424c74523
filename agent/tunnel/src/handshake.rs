//! Reaching the end of a handshake, and why one failed.

use std::io;
use std::ops::Deref;

use lark_core::explain::{Cause, Tunnel};
use lark_core::identity::SpiffeId;
use lark_core::reason::Reason;
use lark_identity::verify::VerifyError;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::pki_types::CertificateDer;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, UnbufferedConnectionCommon, UnbufferedStatus,
};
use rustls::{AlertDescription, ExtractedSecrets, InvalidMessage, PeerIncompatible};
use tokio::net::TcpStream;

use crate::record::{RECORD_MAX, RecordError};
use crate::tls;

/// Bytes of a read during a handshake.
const CHUNK: usize = 8 * 1024;
/// Most bytes of a handshake that wait to be whole.
const RECEIVED_MAX: usize = 64 * 1024;

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
            // Said of a tunnel that is open only.
            RecordError::PeerKeys(error) => Self::Io(error),
            RecordError::OwnKeys => Self::Closed,
        }
    }
}

/// What a handshake leaves.
pub(crate) struct Finished<Data> {
    pub(crate) secrets: ExtractedSecrets,
    /// Knows the next keys.
    pub(crate) kernel: KernelConnection<Data>,
    /// What the peer has proved itself with.
    pub(crate) leaf: CertificateDer<'static>,
    /// What came behind the handshake, as it came.
    pub(crate) received: Vec<u8>,
    /// Whether the peer may send tickets: only whoever accepts makes some.
    pub(crate) may_get_tickets: bool,
}

/// rustls's connection of either end, which has no buffers of its own.
pub(crate) trait Unfinished: Deref<Target = UnbufferedConnectionCommon<Self::Data>> {
    type Data;
    const DIALS: bool;
    fn advance<'c, 'i>(&'c mut self, received: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn finish(self) -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), rustls::Error>;
}

impl Unfinished for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    const DIALS: bool = true;

    fn advance<'c, 'i>(&'c mut self, received: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(received)
    }

    fn finish(self) -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), rustls::Error> {
        self.dangerous_into_kernel_connection()
    }
}

impl Unfinished for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    const DIALS: bool = false;

    fn advance<'c, 'i>(&'c mut self, received: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(received)
    }

    fn finish(self) -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), rustls::Error> {
        self.dangerous_into_kernel_connection()
    }
}

/// Drives a handshake to its end, of which those bytes have been received. Cancel safe only in that a cancelled one
/// must be thrown away.
///
/// rustls is shown one record more at a time, and so none behind the peer's last of the handshake: what it would make
/// of those, a key update for instance, does not survive it.
pub(crate) async fn complete<C: Unfinished>(
    socket: &TcpStream,
    mut tls: C,
    mut received: Vec<u8>,
) -> Result<Finished<C::Data>, HandshakeError> {
    let mut out = Vec::new();
    let mut shown = 0;
    loop {
        let UnbufferedStatus { discard, state } = tls.advance(received.get_mut(..shown).unwrap_or_default());
        let next = match state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                encode(&mut data, &mut out).map(|()| Next::Again)?
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                send(socket, &mut out).await?;
                data.done();
                Next::Again
            }
            Ok(ConnectionState::BlockedHandshake) => Next::More,
            Ok(ConnectionState::WriteTraffic(_)) => Next::Done,
            Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => return Err(HandshakeError::Closed),
            // Data before the handshake is over is not taken.
            Ok(_) => return Err(rustls::Error::HandshakeNotComplete.into()),
            Err(error) => Next::Failed(error),
        };
        received.drain(..discard.min(shown));
        shown = shown.saturating_sub(discard);
        match next {
            Next::Again => {}
            Next::Done if !tls.is_handshaking() => break,
            Next::Done | Next::More => {
                shown += loop {
                    match record(received.get(shown..).unwrap_or_default()) {
                        Some(length) => break length,
                        None => read(socket, &mut received).await?,
                    }
                };
            }
            Next::Failed(error) => {
                // The alert that tells the peer why.
                let _ = last_words(socket, tls, out).await;
                return Err(error.into());
            }
        }
    }
    match tls.alpn_protocol() {
        Some(tls::ALPN) => {}
        found => {
            let found = found.map(|f| String::from_utf8_lossy(f).into_owned());
            return Err(HandshakeError::Alpn { found });
        }
    }
    let missing = rustls::Error::NoCertificatesPresented;
    let leaf = tls.peer_certificates().and_then(|chain| chain.first()).ok_or(missing)?;
    let leaf = leaf.clone().into_owned();
    let (secrets, kernel) = tls.finish()?;
    Ok(Finished { secrets, kernel, leaf, received, may_get_tickets: C::DIALS })
}

/// Length of the first record, if it is whole; what is none is all shown, for rustls to say what it is.
fn record(bytes: &[u8]) -> Option<usize> {
    const KINDS: std::ops::RangeInclusive<u8> = 20..=23;
    let &[kind, _, _, high, low] = bytes.first_chunk()?;
    let length = 5 + usize::from(u16::from_be_bytes([high, low]));
    if !KINDS.contains(&kind) || length > RECORD_MAX {
        return Some(bytes.len());
    }
    (length <= bytes.len()).then_some(length)
}

enum Next {
    Again,
    More,
    Done,
    Failed(rustls::Error),
}

fn encode<Data>(data: &mut EncodeTlsData<'_, Data>, out: &mut Vec<u8>) -> Result<(), rustls::Error> {
    let at = out.len();
    loop {
        let room = out.get_mut(at..).unwrap_or_default();
        match data.encode(room) {
            Ok(count) => {
                out.truncate(at + count);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(needs)) if needs.required_size > room.len() => {
                out.resize(at + needs.required_size, 0);
            }
            Err(error) => return Err(rustls::Error::General(error.to_string())),
        }
    }
}

async fn send(socket: &TcpStream, out: &mut Vec<u8>) -> Result<(), HandshakeError> {
    let mut left = out.as_slice();
    while !left.is_empty() {
        socket.writable().await?;
        match socket.try_write(left) {
            Ok(count) => left = left.get(count..).unwrap_or_default(),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e.into()),
        }
    }
    out.clear();
    Ok(())
}

/// Sends what rustls still has to say after an error.
async fn last_words<C: Unfinished>(
    socket: &TcpStream,
    mut tls: C,
    mut out: Vec<u8>,
) -> Result<(), HandshakeError> {
    // Only while it has something to say: asked for more, it would look at what was received again.
    while tls.wants_write()
        && let Ok(ConnectionState::EncodeTlsData(mut data)) = tls.advance(&mut []).state
    {
        encode(&mut data, &mut out)?;
    }
    send(socket, &mut out).await
}

/// Reads once behind what was received.
pub(crate) async fn read(socket: &TcpStream, received: &mut Vec<u8>) -> Result<(), HandshakeError> {
    if received.len() >= RECEIVED_MAX {
        return Err(rustls::Error::from(InvalidMessage::HandshakePayloadTooLarge).into());
    }
    received.reserve_exact(CHUNK);
    loop {
        socket.readable().await?;
        match socket.try_read_buf(received) {
            Ok(0) => return Err(HandshakeError::Closed),
            Ok(_) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Refuses a ClientHello, as rustls would if it could be told which alert. Best effort.
pub(crate) fn alert(socket: &TcpStream, alert: AlertDescription) {
    const ALERT: u8 = 21;
    const FATAL: u8 = 2;
    // RFC 8446, sections 5.1 and 6: one record in the clear, since no keys are there yet.
    let _ = socket.try_write(&[ALERT, 3, 3, 0, 2, FATAL, alert.into()]);
}
