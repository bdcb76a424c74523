//! The connection to a CA: its certificate proved, this node's token shown, and what goes wrong told.

use std::net::SocketAddr;
use std::time::Duration;

use rustls::CertificateError;
use tonic::client::Grpc;
use tonic::codegen::http::Uri;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};

use super::{CaClient, RequestError};
use crate::credential::Shown;
use crate::protocol::LEADER;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection on which nothing comes is asked after this long whether there is still somebody.
const KEEPALIVE: Duration = Duration::from_secs(10);

impl CaClient {
    /// A connection of its own, so that a CA that moved is found at once.
    pub(crate) async fn connect(&self) -> Result<Channel, RequestError> {
        self.connect_to(None).await
    }

    /// The same to one replica of the CA, which proves itself by the name in the URL as all do.
    pub(crate) async fn connect_to(&self, replica: Option<SocketAddr>) -> Result<Channel, RequestError> {
        let url = |what: String| RequestError::Url { url: self.url.clone(), what };
        if !self.url.starts_with("https://") {
            return Err(url("it is not https".to_owned()));
        }
        let bundle = self.roots.read()?;
        let mut tls = ClientTlsConfig::new().trust_anchors(bundle.anchors().iter().cloned());
        let mut at = self.url.clone();
        if let Some(replica) = replica {
            let host = self.url.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
            let host = host.ok_or_else(|| url("it has no host".to_owned()))?;
            tls = tls.domain_name(host.trim_start_matches('[').trim_end_matches(']'));
            at = format!("https://{replica}");
        }
        Endpoint::from_shared(at)
            .and_then(|endpoint| endpoint.tls_config(tls))
            .map_err(|error| url(innermost(&error)))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .connect()
            .await
            .map_err(|error| self.no_connection(&error))
    }

    /// What this node can show, the best first.
    pub(crate) fn shown(&self) -> Result<Vec<Shown>, RequestError> {
        let path = || self.credentials.token_file().to_owned();
        self.credentials.read().map_err(|source| RequestError::File { path: path(), source })
    }

    pub(crate) fn no_token(&self) -> RequestError {
        RequestError::Token { path: self.credentials.token_file().to_owned() }
    }

    /// A request that shows a token.
    pub(crate) fn authorised<T>(&self, message: T, shown: &Shown) -> Result<Request<T>, RequestError> {
        let wrong = || RequestError::Token { path: shown.from.clone() };
        let token = shown.secret.trim();
        if token.is_empty() {
            return Err(wrong());
        }
        let mut bearer = MetadataValue::try_from(format!("Bearer {token}")).map_err(|_| wrong())?;
        bearer.set_sensitive(true);
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", bearer);
        Ok(request)
    }

    pub(crate) async fn ready(&self, grpc: &mut Grpc<Channel>) -> Result<(), RequestError> {
        let gone = |error| RequestError::Unreachable { url: self.url.clone(), what: innermost(&error) };
        grpc.ready().await.map_err(gone)
    }

    /// Tells a certificate that is not accepted and a wrong clock from a CA that is not there.
    fn no_connection(&self, error: &(dyn std::error::Error + 'static)) -> RequestError {
        let url = self.url.clone();
        match tls_error(error) {
            Some(rustls::Error::InvalidCertificate(why)) => match why {
                CertificateError::NotValidYet => {
                    RequestError::ClockSkew { url, what: "not valid yet".to_owned() }
                }
                CertificateError::Expired => RequestError::ClockSkew { url, what: "expired".to_owned() },
                CertificateError::NotValidYetContext { time, not_before } => {
                    let early = not_before.as_secs().saturating_sub(time.as_secs());
                    RequestError::ClockSkew { url, what: format!("valid only in {}", roughly(early)) }
                }
                CertificateError::ExpiredContext { time, not_after } => {
                    let late = time.as_secs().saturating_sub(not_after.as_secs());
                    RequestError::ClockSkew { url, what: format!("expired since {}", roughly(late)) }
                }
                other => {
                    let root = self.roots.file().to_owned();
                    RequestError::NotTrusted { url, root, what: other.to_string() }
                }
            },
            _ => RequestError::Unreachable { url, what: innermost(error) },
        }
    }

    pub(crate) fn explain(&self, status: &Status) -> RequestError {
        let (url, what) = (self.url.clone(), sentence(status));
        match status.code() {
            Code::Unauthenticated => RequestError::Unauthenticated { url, what },
            Code::ResourceExhausted | Code::FailedPrecondition => RequestError::NotNow { url, what },
            Code::Unimplemented => RequestError::NoStream { url, what },
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
                RequestError::Unreachable { url, what }
            }
            code => RequestError::Failed { url, code, what },
        }
    }
}

/// Where the replica is that leads, if one that does not says so.
pub(crate) fn leader(status: &Status) -> Option<SocketAddr> {
    status.metadata().get(LEADER)?.to_str().ok()?.parse().ok()
}

/// What a CA says, as far as it is worth repeating.
pub(super) fn sentence(status: &Status) -> String {
    status.message().chars().take(300).collect()
}

/// The TLS error among the causes of an error, if that is what it was. An `io::Error` does not name what
/// it wraps as its source, so it is opened.
fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(tls) = wrapped.and_then(|w| w.downcast_ref::<rustls::Error>()) {
            return Some(tls);
        }
        cause = error.source();
    }
    None
}

/// The innermost cause of an error: what a person can act on.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// A time for people; coarse, so that the sentence does not change with each second.
pub(crate) fn roughly(seconds: u64) -> String {
    match seconds {
        0..120 => "less than two minutes".to_owned(),
        120..7200 => format!("{} minutes", seconds / 60),
        _ => format!("{} hours", seconds / 3600),
    }
}
