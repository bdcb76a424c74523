//! An identity with its certificate and key, and the roots that are accepted.

use std::sync::Arc;
use std::time::SystemTime;

use lark_core::identity::SpiffeId;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, TrustAnchor};
use rustls::sign::CertifiedKey;

/// A workload's certificate and key (SPIFFE X509-SVID).
#[derive(Debug)]
pub struct Svid {
    /// Whom it proves.
    pub id: SpiffeId,
    /// Chain (leaf first, without the root) and key, as rustls wants them.
    pub certified: Arc<CertifiedKey>,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
    /// Serial number in hexadecimal.
    pub serial: String,
}

impl Svid {
    /// Whether it is valid at that time.
    pub fn is_valid(&self, now: SystemTime) -> bool {
        self.not_before <= now && now < self.not_after
    }
}

/// The roots that are accepted for the trust domain.
#[derive(Debug, Clone)]
pub struct TrustBundle {
    certificates: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
}

/// Why a file holds no usable roots.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It is not PEM.
    #[error("the roots are not PEM certificates: {0}")]
    Pem(rustls::pki_types::pem::Error),
    /// It has none.
    #[error("there is no certificate among the roots")]
    Empty,
    /// One cannot be used as a root.
    #[error("certificate {number} of the roots cannot be used as a root: {source}")]
    Anchor {
        /// Which one, from 1.
        number: usize,
        /// What is wrong with it.
        source: webpki::Error,
    },
}

impl TrustBundle {
    /// The roots of a PEM text.
    ///
    /// # Errors
    /// When it holds anything that is no root.
    pub fn from_pem(pem: &[u8]) -> Result<Self, BundleError> {
        let certificates =
            CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(BundleError::Pem)?;
        Self::new(certificates)
    }

    /// These roots.
    ///
    /// # Errors
    /// When one cannot be used, or there is none.
    pub fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, BundleError> {
        if certificates.is_empty() {
            return Err(BundleError::Empty);
        }
        let anchors = certificates
            .iter()
            .enumerate()
            .map(|(i, certificate)| {
                webpki::anchor_from_trusted_cert(certificate)
                    .map(|anchor| anchor.to_owned())
                    .map_err(|source| BundleError::Anchor { number: i + 1, source })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { certificates, anchors })
    }

    /// The roots as certificates.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// The roots as webpki wants them.
    pub fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}
