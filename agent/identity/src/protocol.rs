//! The CA API's messages, `istio.v1.auth.IstioCertificateService` (Istio's `ca.proto`): one unary
//! call that sends a CSR and gets a chain.

/// The stream between agents and their controller, which is Lark's own.
pub mod node;

use crate::roots::TakenUp;
use lark_core::rotation::RootId;

/// Path of the one method.
pub const CREATE_CERTIFICATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
/// Name of the service.
pub const SERVICE: &str = "istio.v1.auth.IstioCertificateService";
/// Key in the request's metadata under which an agent names the identity that it asks for.
pub const IMPERSONATED_IDENTITY: &str = "ImpersonatedIdentity";
/// Header of a request in which an agent of Lark's says what it has taken up: `EPOCH` or `EPOCH ROOT,ROOT`, roots as
/// SHA-256 in hexadecimal. By it any replica of the controller can tell whether the agent may have certificates.
pub const HELD: &str = "lark-held";
/// Header of a refusal in which a replica of the controller says where the one is that leads: `ADDRESS:PORT`.
pub const LEADER: &str = "lark-leader";
/// Roots that an agent may name.
pub const ROOTS_MAX: usize = 16;
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

/// The value of [`HELD`].
pub(crate) fn held_header(taken_up: &TakenUp) -> String {
    let roots: Vec<String> = taken_up.roots.iter().map(ToString::to_string).collect();
    format!("{} {}", taken_up.epoch, roots.join(","))
}

/// Reads the value of [`HELD`]; `None` if it makes no sense.
pub(crate) fn read_held(text: &str) -> Option<TakenUp> {
    let (epoch, roots) = text.split_once(' ').unwrap_or((text, ""));
    let named = roots.split(',').filter(|root| !root.is_empty());
    if named.clone().count() > ROOTS_MAX {
        return None;
    }
    let roots = named.map(|root| RootId::try_from(root.to_owned()).ok()).collect::<Option<_>>()?;
    Some(TakenUp { epoch: epoch.parse().ok()?, roots })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_says_that_it_holds_is_read_as_it_was_written_and_nothing_else_is() {
        let id = |n| RootId::new([n; 32]);
        for roots in [vec![], vec![id(1)], vec![id(1), id(2)]] {
            let taken_up = TakenUp { epoch: 7, roots };
            assert_eq!(read_held(&held_header(&taken_up)), Some(taken_up));
        }
        assert_eq!(read_held("0"), Some(TakenUp { epoch: 0, roots: Vec::new() }));
        let many = vec![id(1).to_string(); ROOTS_MAX + 1].join(",");
        for odd in ["", "x", "-1", "1 x", "1 01", &format!("1 {many}")] {
            assert_eq!(read_held(odd), None, "{odd}");
        }
    }
}
