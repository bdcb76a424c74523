//! Asking a CA over the network.

use std::path::PathBuf;
use std::time::Duration;

use lark_core::explain::CaRequest;
use lark_core::identity::SpiffeId;
use rustls::CertificateError;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::protocol::{CREATE_CERTIFICATE, IstioCertificateRequest, IstioCertificateResponse, MESSAGE_MAX};

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Why the CA gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// A file could not be read.
    #[error("{what} {path} cannot be read: {source}")]
    File {
        /// What it is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The URL is wrong.
    #[error("CA URL {url}: {what}; it must be of the form https://HOST:PORT")]
    Url {
        /// As given.
        url: String,
        /// What is wrong.
        what: String,
    },
    /// There was no connection.
    #[error("the CA at {url} cannot be reached: {what}; is the controller running, and is that its address?")]
    Unreachable {
        /// The CA.
        url: String,
        /// The innermost cause.
        what: String,
    },
    /// Something answers there that the root file does not vouch for.
    #[error(
        "the TLS certificate of the CA at {url} is not accepted: {what}; is {root} the root of that CA, and is the host in the URL among the controller's --san?"
    )]
    NotTrusted {
        /// The CA.
        url: String,
        /// The file with the accepted roots.
        root: PathBuf,
        /// What is wrong with the certificate.
        what: String,
    },
    /// Its TLS certificate is of another time than this node's clock.
    #[error(
        "the TLS certificate of the CA at {url} is {what} by this node's clock: the clocks differ, set this node's or the controller's right"
    )]
    ClockSkew {
        /// The CA.
        url: String,
        /// `valid only in ...` or `expired since ...`.
        what: String,
    },
    /// The token cannot be sent.
    #[error(
        "the token in {path} is empty or has characters that no header may have; make one with `lark token`"
    )]
    Token {
        /// The file.
        path: PathBuf,
    },
    /// It does not know this node.
    #[error(
        "the CA at {url} does not accept this node's token ({what}); make one with `lark token` and add its hash to the controller's file"
    )]
    Unauthenticated {
        /// The CA.
        url: String,
        /// What it said.
        what: String,
    },
    /// It does not give this identity to this node.
    #[error("the CA at {url} refuses {identity}: {what}")]
    Denied {
        /// The CA.
        url: String,
        /// What was asked for.
        identity: SpiffeId,
        /// What it said.
        what: String,
    },
    /// Something else.
    #[error("the CA at {url} failed with {code}: {what}")]
    Failed {
        /// The CA.
        url: String,
        /// gRPC status.
        code: Code,
        /// What it said.
        what: String,
    },
}

impl RequestError {
    /// What it was, in one word.
    pub const fn cause(&self) -> CaRequest {
        match self {
            Self::File { .. } => CaRequest::FileUnreadable,
            Self::Url { .. } => CaRequest::BadUrl,
            Self::Unreachable { .. } => CaRequest::CaUnreachable,
            Self::NotTrusted { .. } => CaRequest::CaNotTrusted,
            Self::ClockSkew { .. } => CaRequest::ClockSkew,
            Self::Token { .. } => CaRequest::BadToken,
            Self::Unauthenticated { .. } => CaRequest::TokenRefused,
            Self::Denied { .. } => CaRequest::IdentityRefused,
            Self::Failed { .. } => CaRequest::CaFailed,
        }
    }
}

/// Whoever turns a CSR into a chain.
pub trait Issuer: Send + Sync + 'static {
    /// A chain for `identity`, PEM, leaf first, root last.
    fn issue(
        &self,
        csr: String,
        identity: &SpiffeId,
        life: Duration,
    ) -> impl Future<Output = Result<Vec<String>, RequestError>> + Send;
}

/// A CA by its URL. Root and token are read at each request, so that both may be replaced.
#[derive(Debug, Clone)]
pub struct CaClient {
    /// `https://HOST:PORT`.
    pub url: String,
    /// PEM of the roots that its TLS certificate must lead to.
    pub root: PathBuf,
    /// The bearer token of this node.
    pub token: PathBuf,
}

impl Issuer for CaClient {
    async fn issue(
        &self,
        csr: String,
        identity: &SpiffeId,
        life: Duration,
    ) -> Result<Vec<String>, RequestError> {
        // Around everything: the connector's own time-out does not cover the handshakes.
        tokio::time::timeout(TIMEOUT, self.request(csr, identity, life)).await.unwrap_or_else(|_| {
            let what = format!("it gave no answer in {} s", TIMEOUT.as_secs());
            Err(RequestError::Unreachable { url: self.url.clone(), what })
        })
    }
}

impl CaClient {
    async fn request(
        &self,
        csr: String,
        identity: &SpiffeId,
        life: Duration,
    ) -> Result<Vec<String>, RequestError> {
        let read = async |what, path: &PathBuf| {
            tokio::fs::read_to_string(path).await.map_err(|source| RequestError::File {
                what,
                path: path.clone(),
                source,
            })
        };
        let root = read("the CA's root", &self.root).await?;
        let token = zeroize::Zeroizing::new(read("the token", &self.token).await?);
        let url = |what: String| RequestError::Url { url: self.url.clone(), what };
        if !self.url.starts_with("https://") {
            return Err(url("it is not https".to_owned()));
        }
        let channel = Endpoint::from_shared(self.url.clone())
            .and_then(|e| e.tls_config(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(root))))
            .map_err(|e| url(innermost(&e)))?
            .connect_timeout(CONNECT_TIMEOUT)
            .connect()
            .await
            .map_err(|e| self.no_connection(&e))?;
        let mut request = Request::new(IstioCertificateRequest::new(csr, life, identity.as_str()));
        let no_token = || RequestError::Token { path: self.token.clone() };
        if token.trim().is_empty() {
            return Err(no_token());
        }
        let mut bearer =
            MetadataValue::try_from(format!("Bearer {}", token.trim())).map_err(|_| no_token())?;
        bearer.set_sensitive(true);
        request.metadata_mut().insert("authorization", bearer);
        let mut grpc = Grpc::new(channel).max_decoding_message_size(MESSAGE_MAX);
        let failed = |status: Status| self.explain(identity, &status);
        grpc.ready()
            .await
            .map_err(|e| RequestError::Unreachable { url: self.url.clone(), what: innermost(&e) })?;
        let codec = ProstCodec::<IstioCertificateRequest, IstioCertificateResponse>::default();
        let path = PathAndQuery::from_static(CREATE_CERTIFICATE);
        let response = grpc.unary(request, path, codec).await.map_err(failed)?;
        Ok(response.into_inner().cert_chain)
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
                other => RequestError::NotTrusted { url, root: self.root.clone(), what: other.to_string() },
            },
            _ => RequestError::Unreachable { url, what: innermost(error) },
        }
    }

    fn explain(&self, identity: &SpiffeId, status: &Status) -> RequestError {
        let (url, what) = (self.url.clone(), status.message().chars().take(300).collect());
        match status.code() {
            Code::Unauthenticated => RequestError::Unauthenticated { url, what },
            Code::PermissionDenied => RequestError::Denied { url, identity: identity.clone(), what },
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
                RequestError::Unreachable { url, what }
            }
            code => RequestError::Failed { url, code, what },
        }
    }
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
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// A time for people; coarse, so that the sentence does not change with each second.
fn roughly(seconds: u64) -> String {
    match seconds {
        0..120 => "less than two minutes".to_owned(),
        120..7200 => format!("{} minutes", seconds / 60),
        _ => format!("{} hours", seconds / 3600),
    }
}
