//! The chain and the one SPIFFE ID of a certificate (SPIFFE X509-SVID, sections 2 and 5): chain,
//! times and key usage by webpki, then exactly one URI among the subject alternative names, in the
//! canonical form. Other kinds of names beside it are allowed by the standard and mean nothing here.

use std::time::{Duration, SystemTime};

use lark_core::explain::Certificate;
use lark_core::identity::{IdentityError, SpiffeId};
use lark_core::rotation::RootId;
use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::KeyUsage;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::svid::TrustBundle;

/// What a certificate is to be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// By the end that dials.
    Client,
    /// By the end that accepts.
    Server,
}

/// Why a certificate proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// It is not yet valid.
    #[error(
        "the certificate is valid only in {in_seconds} s: the clocks of this node and of whoever issued it differ, or it was made for later"
    )]
    NotYetValid {
        /// How long until it is.
        in_seconds: u64,
    },
    /// It has expired.
    #[error("the certificate expired {since_seconds} s ago: it was not renewed, or the clocks differ")]
    Expired {
        /// How long ago.
        since_seconds: u64,
    },
    /// It does not lead to an accepted root, or may not be used so.
    #[error("the certificate does not chain to an accepted root or is not for this use: {0}")]
    Chain(webpki::Error),
    /// It cannot be read.
    #[error("the certificate cannot be read: {0}")]
    Malformed(String),
    /// It has none or several URIs.
    #[error("the certificate has {0} URIs among its names, an SVID has exactly one")]
    UriCount(usize),
    /// Its URI is no identity.
    #[error("the certificate's URI is no identity: {0}")]
    Identity(#[from] IdentityError),
    /// It is of another trust domain.
    #[error("the certificate is of trust domain {found}, expected {expected}")]
    TrustDomain {
        /// The accepted one.
        expected: String,
        /// The certificate's.
        found: String,
    },
    /// It proves somebody else.
    #[error("expected {expected}, the peer proved {found}")]
    Mismatch {
        /// Who was expected.
        expected: SpiffeId,
        /// Who was proved.
        found: SpiffeId,
    },
}

impl VerifyError {
    /// Which check failed, in one word.
    pub const fn cause(&self) -> Certificate {
        match self {
            Self::NotYetValid { .. } => Certificate::NotYetValid,
            Self::Expired { .. } => Certificate::Expired,
            Self::Chain(_) => Certificate::NoChain,
            Self::Malformed(_) => Certificate::Malformed,
            Self::UriCount(_) => Certificate::UriCount,
            Self::Identity(_) => Certificate::NoIdentity,
            Self::TrustDomain { .. } => Certificate::TrustDomain,
            Self::Mismatch { .. } => Certificate::OtherIdentity,
        }
    }
}

/// Proves a chain at a time and returns whose it is.
///
/// # Errors
/// Each says which check failed.
pub fn verify_chain(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    now: SystemTime,
    usage: Usage,
) -> Result<SpiffeId, VerifyError> {
    verify_path(leaf, intermediates, bundle, now, usage).map(|(id, _)| id)
}

/// As [`verify_chain`], with the root that the chain led to, by [`TrustBundle::id_of`].
///
/// # Errors
/// Each says which check failed.
pub fn verify_path(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    now: SystemTime,
    usage: Usage,
) -> Result<(SpiffeId, RootId), VerifyError> {
    let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let end_entity = webpki::EndEntityCert::try_from(leaf).map_err(VerifyError::Chain)?;
    let key_usage = match usage {
        Usage::Client => KeyUsage::client_auth(),
        Usage::Server => KeyUsage::server_auth(),
    };
    let path = end_entity
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            bundle.anchors(),
            intermediates,
            UnixTime::since_unix_epoch(since_epoch),
            key_usage,
            None,
            None,
        )
        .map_err(|error| explain(error, since_epoch))?;
    let unknown = VerifyError::Chain(webpki::Error::UnknownIssuer);
    let root = bundle.id_of(path.anchor(), intermediates).ok_or(unknown)?;
    Ok((spiffe_id(leaf)?, root))
}

fn explain(error: webpki::Error, now: Duration) -> VerifyError {
    match error {
        webpki::Error::CertExpired { not_after, .. } => {
            VerifyError::Expired { since_seconds: now.as_secs().saturating_sub(not_after.as_secs()) }
        }
        webpki::Error::CertNotValidYet { not_before, .. } => {
            VerifyError::NotYetValid { in_seconds: not_before.as_secs().saturating_sub(now.as_secs()) }
        }
        other => VerifyError::Chain(other),
    }
}

/// The one identity that a certificate names, without proving the certificate.
///
/// # Errors
/// When there is not exactly one, in canonical form.
pub fn spiffe_id(leaf: &CertificateDer<'_>) -> Result<SpiffeId, VerifyError> {
    let malformed = |what: String| VerifyError::Malformed(what);
    let (rest, certificate) =
        x509_parser::certificate::X509Certificate::from_der(leaf).map_err(|e| malformed(e.to_string()))?;
    if !rest.is_empty() {
        return Err(malformed("bytes after its end".to_owned()));
    }
    let names = certificate.subject_alternative_name().map_err(|e| malformed(e.to_string()))?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect();
    match uris.as_slice() {
        [uri] => Ok(uri.parse()?),
        other => Err(VerifyError::UriCount(other.len())),
    }
}

/// Validity and serial number of a certificate.
///
/// # Errors
/// When it cannot be read.
pub fn validity(leaf: &CertificateDer<'_>) -> Result<(SystemTime, SystemTime, String), VerifyError> {
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(leaf)
        .map_err(|e| VerifyError::Malformed(e.to_string()))?;
    let time = |t: x509_parser::time::ASN1Time| {
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(t.timestamp()).unwrap_or(0))
    };
    let validity = certificate.validity();
    let serial = data_encoding::HEXLOWER.encode(certificate.raw_serial());
    Ok((time(validity.not_before), time(validity.not_after), serial))
}
