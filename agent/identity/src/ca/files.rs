//! A CA from PEM files of its certificate and key.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::SystemTime;

use rcgen::{Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

use super::{Ca, CaError, to_pem};

/// Mode bits that let others than owner and group at a key.
const OTHERS: u32 = 0o007;

impl Ca {
    /// Takes the CA from files: the certificate (with its chain up to the root, if it is an
    /// intermediate) and the key, which others than its owner and group must not be able to read.
    ///
    /// # Errors
    /// When a file cannot be read, both do not belong together, or they are no CA's.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, CaError> {
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|source| CaError::File { path: path.to_owned(), source })
        };
        let unusable = |what: String| CaError::Unusable {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            what,
        };
        let pem = read(certificate)?;
        let mode = std::fs::metadata(key)
            .map_err(|source| CaError::File { path: key.to_owned(), source })?
            .permissions()
            .mode();
        if mode & OTHERS != 0 {
            return Err(CaError::Open { path: key.to_owned(), mode: mode & 0o777 });
        }
        let secret = Zeroizing::new(read(key)?);
        Self::from_pem(&pem, &secret).map_err(unusable)
    }

    /// Takes the CA from PEM: the certificate with its chain up to the root, and the key.
    ///
    /// # Errors
    /// With what is wrong, when both do not belong together, or they are no CA's.
    pub fn from_pem(pem: &str, secret: &str) -> Result<Self, String> {
        Self::from_chain(certificates(pem)?, secret)
    }

    /// Takes the CA from a Secret of type `kubernetes.io/tls` as cert-manager fills it: `root` is its `ca.crt`, which
    /// ends the chain of `pem` if that does not lead up to a root by itself.
    ///
    /// # Errors
    /// As for [`Ca::from_pem`].
    pub fn from_secret(pem: &str, secret: &str, root: Option<&str>) -> Result<Self, String> {
        let mut chain = certificates(pem)?;
        let mut more = root.map(certificates).transpose()?.unwrap_or_default();
        while let Some(last) = chain.last() {
            let (subject, issuer) = names(last)?;
            let mut next = None;
            for (at, other) in more.iter().enumerate() {
                if subject != issuer && names(other)?.0 == issuer {
                    next = Some(at);
                }
            }
            match next {
                Some(at) => chain.push(more.swap_remove(at)),
                None => break,
            }
        }
        Self::from_chain(chain, secret)
    }

    fn from_chain(chain: Vec<CertificateDer<'static>>, secret: &str) -> Result<Self, String> {
        let first = chain.first().ok_or_else(|| "there is no certificate".to_owned())?;
        let pair = KeyPair::from_pem(secret).map_err(|e| format!("the key cannot be read: {e}"))?;
        if public_key(first)? != rcgen::PublicKeyData::subject_public_key_info(&pair) {
            return Err("the key is not the certificate's".to_owned());
        }
        let issuer = Issuer::from_ca_cert_der(first, pair)
            .map_err(|e| format!("the certificate cannot be used: {e}"))?;
        let chain_pem = chain.iter().map(to_pem).collect();
        let ca = Self::assemble(issuer, chain, chain_pem)?;
        ca.try_out(SystemTime::now())?;
        Ok(ca)
    }
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>();
    all.map_err(|e| format!("the certificate is not PEM: {e}"))
}

/// Subject and issuer, as they are encoded.
fn names(certificate: &CertificateDer<'_>) -> Result<(Vec<u8>, Vec<u8>), String> {
    use x509_parser::prelude::FromDer;
    x509_parser::certificate::X509Certificate::from_der(certificate)
        .map(|(_, c)| (c.subject().as_raw().to_vec(), c.issuer().as_raw().to_vec()))
        .map_err(|e| e.to_string())
}

fn public_key(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, String> {
    use x509_parser::prelude::FromDer;
    x509_parser::certificate::X509Certificate::from_der(certificate)
        .map(|(_, c)| c.public_key().raw.to_vec())
        .map_err(|e| e.to_string())
}
