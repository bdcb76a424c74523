//! The CA API's messages, `istio.v1.auth.IstioCertificateService` (Istio's `ca.proto`): one unary
//! call that sends a CSR and gets a chain.

/// The stream between agents and their controller, which is Lark's own.
pub mod node;

/// Path of the one method.
pub const CREATE_CERTIFICATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
/// Name of the service.
pub const SERVICE: &str = "istio.v1.auth.IstioCertificateService";
/// Key in the request's metadata under which an agent names the identity that it asks for.
pub const IMPERSONATED_IDENTITY: &str = "ImpersonatedIdentity";
/// Largest message of either direction, in bytes.
pub const MESSAGE_MAX: usize = 64 * 1024;

/// What an agent asks.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IstioCertificateRequest {
    /// PEM of a PKCS#10 request.
    #[prost(string, tag = "1")]
    pub csr: String,
    /// Wanted life in seconds.
    #[prost(int64, tag = "3")]
    pub validity_duration: i64,
    /// Holds [`IMPERSONATED_IDENTITY`].
    #[prost(message, optional, tag = "4")]
    pub metadata: Option<prost_types::Struct>,
}

/// What it gets.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IstioCertificateResponse {
    /// PEM certificates, leaf first, root last.
    #[prost(string, repeated, tag = "1")]
    pub cert_chain: Vec<String>,
}

impl IstioCertificateRequest {
    /// A request for an identity.
    pub fn new(csr: String, life: std::time::Duration, identity: &str) -> Self {
        let value =
            prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(identity.to_owned())) };
        let fields = [(IMPERSONATED_IDENTITY.to_owned(), value)].into();
        Self {
            csr,
            validity_duration: i64::try_from(life.as_secs()).unwrap_or(i64::MAX),
            metadata: Some(prost_types::Struct { fields }),
        }
    }

    /// The identity that it names.
    pub fn identity(&self) -> Option<&str> {
        match self.metadata.as_ref()?.fields.get(IMPERSONATED_IDENTITY)?.kind.as_ref()? {
            prost_types::value::Kind::StringValue(text) => Some(text),
            _ => None,
        }
    }
}
