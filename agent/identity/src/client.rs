//! Asking a CA over the network.

mod connect;
mod error;

pub(crate) use connect::{leader, roughly};
pub use error::RequestError;

use std::time::Duration;

use lark_core::identity::SpiffeId;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

use crate::credential::Credentials;
use crate::protocol::{
    CREATE_CERTIFICATE, HELD, IstioCertificateRequest, IstioCertificateResponse, MESSAGE_MAX, held_header,
};
use crate::roots::RootFiles;

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(10);

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

/// A CA by its URL. Roots and tokens are read at each request, so that both may be replaced.
#[derive(Debug, Clone)]
pub struct CaClient {
    /// `https://HOST:PORT`.
    pub url: String,
    /// The roots that its TLS certificate must lead to.
    pub roots: RootFiles,
    /// What this node shows.
    pub credentials: Credentials,
}

impl Issuer for CaClient {
    async fn issue(
        &self,
        csr: String,
        identity: &SpiffeId,
        life: Duration,
    ) -> Result<Vec<String>, RequestError> {
        let asking = async {
            let channel = self.connect().await?;
            let mut refused = self.no_token();
            for shown in self.shown()? {
                let message = IstioCertificateRequest::new(csr.clone(), life, identity.as_str());
                let mut request = self.authorised(message, &shown)?;
                let mut held = self.roots.taken_up().unwrap_or_default();
                // The operator's file may have replaced what was taken up.
                let trusted = self.roots.read()?;
                held.roots.retain(|root| trusted.ids().contains(root));
                if let Ok(held) = MetadataValue::try_from(held_header(&held)) {
                    request.metadata_mut().insert(HELD, held);
                }
                match self.create(channel.clone(), request, identity).await {
                    // A credential that was revoked or is over: perhaps there is another token.
                    Err(error @ RequestError::Unauthenticated { .. }) => refused = error,
                    answer => return answer,
                }
            }
            Err(refused)
        };
        // Around everything: the connector's own time-out does not cover the handshakes.
        tokio::time::timeout(TIMEOUT, asking).await.unwrap_or_else(|_| {
            let what = format!("it gave no answer in {} s", TIMEOUT.as_secs());
            Err(RequestError::Unreachable { url: self.url.clone(), what })
        })
    }
}

impl CaClient {
    async fn create(
        &self,
        channel: Channel,
        request: Request<IstioCertificateRequest>,
        identity: &SpiffeId,
    ) -> Result<Vec<String>, RequestError> {
        let mut grpc = Grpc::new(channel).max_decoding_message_size(MESSAGE_MAX);
        self.ready(&mut grpc).await?;
        let codec = ProstCodec::<IstioCertificateRequest, IstioCertificateResponse>::default();
        let path = PathAndQuery::from_static(CREATE_CERTIFICATE);
        let response = grpc.unary(request, path, codec).await.map_err(|status| match status.code() {
            Code::PermissionDenied => RequestError::Denied {
                url: self.url.clone(),
                identity: identity.clone(),
                what: connect::sentence(&status),
            },
            _ => self.explain(&status),
        })?;
        Ok(response.into_inner().cert_chain)
    }
}
