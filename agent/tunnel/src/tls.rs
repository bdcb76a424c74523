//! TLS configurations and the certificate verifiers: TLS 1.3 only, ALPN h2, X25519MLKEM768 first,
//! no resumption, no tickets, no early data.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lark_core::identity::{SpiffeId, TrustDomain};
use lark_identity::SvidStore;
use lark_identity::svid::{Svid, TrustBundle};
use lark_identity::verify::{Usage, VerifyError, verify_chain};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError, ServerConfig,
    SignatureScheme, sign,
};

/// HTTP/2, as HBONE has it.
pub const ALPN: &[u8] = b"h2";

/// The dialling end's configuration for one pair of identities. The roots are those that the store
/// accepts now, and times are its clock's.
///
/// # Errors
/// When the cryptography cannot do TLS 1.3, which it can.
pub fn client(
    provider: &Arc<CryptoProvider>,
    own: &Svid,
    svids: &SvidStore,
    expected: &SpiffeId,
) -> Result<ClientConfig, rustls::Error> {
    let verifier = PeerVerifier {
        expected: Expected::Exactly(expected.clone()),
        bundle: svids.bundle(),
        provider: provider.clone(),
    };
    let mut config =
        ClientConfig::builder_with_details(provider.clone(), Arc::new(StoreClock(svids.clone())))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(sign::SingleCertAndKey::from(own.certified.clone())));
    config.resumption = Resumption::disabled();
    // Records are carried by `record.rs`.
    config.enable_secret_extraction = true;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// The accepting end's configuration for one of the node's identities: takes any identity of `domain`. Roots and clock as for [`client`].
///
/// # Errors
/// When the cryptography cannot do TLS 1.3, which it can.
pub fn server(
    provider: &Arc<CryptoProvider>,
    own: &Svid,
    svids: &SvidStore,
    domain: TrustDomain,
) -> Result<ServerConfig, rustls::Error> {
    let verifier = PeerVerifier {
        expected: Expected::AnyOf(domain),
        bundle: svids.bundle(),
        provider: provider.clone(),
    };
    let mut config =
        ServerConfig::builder_with_details(provider.clone(), Arc::new(StoreClock(svids.clone())))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(sign::SingleCertAndKey::from(own.certified.clone())));
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.max_early_data_size = 0;
    config.enable_secret_extraction = true;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// The store's clock as rustls wants it.
#[derive(Debug)]
struct StoreClock(SvidStore);

impl TimeProvider for StoreClock {
    fn current_time(&self) -> Option<UnixTime> {
        let since = self.0.now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(UnixTime::since_unix_epoch(since))
    }
}

#[derive(Debug)]
enum Expected {
    Exactly(SpiffeId),
    AnyOf(TrustDomain),
}

#[derive(Debug)]
struct PeerVerifier {
    expected: Expected,
    bundle: Arc<TrustBundle>,
    provider: Arc<CryptoProvider>,
}

impl PeerVerifier {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: Usage,
    ) -> Result<(), rustls::Error> {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        self.identify(leaf, intermediates, time, usage).map_err(|why| as_tls(why, now).into())
    }

    fn identify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: SystemTime,
        usage: Usage,
    ) -> Result<(), VerifyError> {
        let found = verify_chain(leaf, intermediates, &self.bundle, now, usage)?;
        match &self.expected {
            Expected::Exactly(expected) if *expected != found => {
                Err(VerifyError::Mismatch { expected: expected.clone(), found })
            }
            Expected::AnyOf(domain) if domain.as_str() != found.trust_domain() => {
                Err(VerifyError::TrustDomain {
                    expected: domain.to_string(),
                    found: found.trust_domain().to_owned(),
                })
            }
            _ => Ok(()),
        }
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

const NO_TLS12: rustls::Error = rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered);

impl ServerCertVerifier for PeerVerifier {
    /// The server name is only how the listener finds the identity; what counts is the certificate.
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now, Usage::Server).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(NO_TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now, Usage::Client).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(NO_TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

/// Our verdict in rustls's words, so that the alert tells the peer what it may know: that a clock or a
/// root is in question, or nothing.
fn as_tls(why: VerifyError, time: UnixTime) -> CertificateError {
    let now = time.as_secs();
    let at = |seconds: u64| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    match why {
        VerifyError::Expired { since_seconds } => {
            CertificateError::ExpiredContext { time, not_after: at(now.saturating_sub(since_seconds)) }
        }
        VerifyError::NotYetValid { in_seconds } => {
            CertificateError::NotValidYetContext { time, not_before: at(now.saturating_add(in_seconds)) }
        }
        // A root of the same name with another key is as unknown as one of another name.
        VerifyError::Chain(webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey) => {
            CertificateError::UnknownIssuer
        }
        other => CertificateError::Other(OtherError(Arc::new(other))),
    }
}

/// What our own verifier said, if that is what a TLS error is about.
pub(crate) fn verify_error(error: &rustls::Error) -> Option<VerifyError> {
    let rustls::Error::InvalidCertificate(error) = error else { return None };
    match error {
        CertificateError::ExpiredContext { time, not_after } => {
            let since_seconds = time.as_secs().saturating_sub(not_after.as_secs());
            Some(VerifyError::Expired { since_seconds })
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            let in_seconds = not_before.as_secs().saturating_sub(time.as_secs());
            Some(VerifyError::NotYetValid { in_seconds })
        }
        CertificateError::UnknownIssuer => Some(VerifyError::Chain(webpki::Error::UnknownIssuer)),
        CertificateError::Other(OtherError(inner)) => inner.downcast_ref().cloned(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_survive_the_way_through_rustls() {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_000_000));
        let found: SpiffeId = "spiffe://d/ns/a/sa/b".parse().unwrap();
        for why in [
            VerifyError::Expired { since_seconds: 17 },
            VerifyError::NotYetValid { in_seconds: 18 },
            VerifyError::Chain(webpki::Error::UnknownIssuer),
            VerifyError::Chain(webpki::Error::CaUsedAsEndEntity),
            VerifyError::UriCount(2),
            VerifyError::Mismatch { expected: found.clone(), found },
        ] {
            let error = rustls::Error::from(as_tls(why.clone(), now));
            assert_eq!(verify_error(&error), Some(why));
        }
        assert_eq!(verify_error(&rustls::Error::HandshakeNotComplete), None);
    }
}
