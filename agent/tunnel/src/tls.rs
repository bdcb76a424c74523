//! TLS configurations and the certificate verifiers: TLS 1.3 only, ALPN h2, X25519MLKEM768 first,
//! no resumption, no tickets, no early data.

use std::sync::Arc;
use std::time::SystemTime;

use lark_core::identity::{SpiffeId, TrustDomain};
use lark_identity::svid::{Svid, TrustBundle};
use lark_identity::verify::{Usage, VerifyError, verify_chain};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError, ServerConfig,
    SignatureScheme, sign,
};

/// HTTP/2, as HBONE has it.
pub const ALPN: &[u8] = b"h2";

/// The cryptography; made once and shared.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The dialling end's configuration for one pair of identities.
///
/// # Errors
/// When the cryptography cannot do TLS 1.3, which it can.
pub fn client(
    provider: &Arc<CryptoProvider>,
    own: &Svid,
    bundle: Arc<TrustBundle>,
    expected: &SpiffeId,
) -> Result<ClientConfig, rustls::Error> {
    let verifier =
        PeerVerifier { expected: Expected::Exactly(expected.clone()), bundle, provider: provider.clone() };
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(sign::SingleCertAndKey::from(own.certified.clone())));
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// The accepting end's configuration for one of the node's identities.
///
/// # Errors
/// When the cryptography cannot do TLS 1.3, which it can.
pub fn server(
    provider: &Arc<CryptoProvider>,
    own: Option<&Svid>,
    bundle: Arc<TrustBundle>,
    domain: TrustDomain,
) -> Result<ServerConfig, rustls::Error> {
    let verifier = PeerVerifier { expected: Expected::AnyOf(domain), bundle, provider: provider.clone() };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier));
    let mut config = match own {
        Some(own) => {
            builder.with_cert_resolver(Arc::new(sign::SingleCertAndKey::from(own.certified.clone())))
        }
        None => builder.with_cert_resolver(Arc::new(NoCertificate)),
    };
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// For a server name that is nobody's: the handshake ends in an alert.
#[derive(Debug)]
struct NoCertificate;

impl rustls::server::ResolvesServerCert for NoCertificate {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<sign::CertifiedKey>> {
        None
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
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(now.as_secs());
        let check = || {
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
        };
        check().map_err(|error| {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
        })
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

/// What our own verifier said, if it is behind a TLS error.
pub(crate) fn verify_error(error: &rustls::Error) -> Option<&VerifyError> {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => inner.downcast_ref(),
        _ => None,
    }
}
