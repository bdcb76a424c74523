//! An identity with its certificate and key, and the roots that are accepted.

use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest;
use lark_core::identity::SpiffeId;
use lark_core::rotation::RootId;
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
    /// The root that it hangs from.
    pub root: RootId,
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
    ids: Vec<RootId>,
}

/// The name of a root: SHA-256 of its certificate.
pub fn root_id(certificate: &CertificateDer<'_>) -> RootId {
    let mut sha256 = [0; 32];
    let hash = digest::digest(&digest::SHA256, certificate);
    sha256.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
    RootId::new(sha256)
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
        let ids = certificates.iter().map(root_id).collect();
        Ok(Self { certificates, anchors, ids })
    }

    /// The names of the roots.
    pub fn ids(&self) -> &[RootId] {
        &self.ids
    }

    /// The name of the root that an anchor was made from. A root that was issued again for its key makes the same
    /// anchor as before: then it is the one that was sent along, as CAs do.
    pub fn id_of(&self, anchor: &TrustAnchor<'_>, sent: &[CertificateDer<'_>]) -> Option<RootId> {
        let all = self.anchors.iter().zip(self.certificates.iter().zip(&self.ids));
        let mut same = all.filter(|(own, _)| *own == anchor).map(|(_, root)| root);
        let named = same.clone().find(|(certificate, _)| sent.contains(certificate));
        named.or_else(|| same.next()).map(|(_, id)| *id)
    }

    /// The roots as PEM, one after the other.
    pub fn to_pem(&self) -> String {
        self.certificates.iter().map(crate::ca::to_pem).collect()
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
