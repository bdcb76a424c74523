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
        let chain = CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| unusable(format!("the certificate is not PEM: {e}")))?;
        let first = chain.first().ok_or_else(|| unusable("there is no certificate".to_owned()))?;
        let pair =
            KeyPair::from_pem(&secret).map_err(|e| unusable(format!("the key cannot be read: {e}")))?;
        if public_key(first).map_err(&unusable)? != rcgen::PublicKeyData::subject_public_key_info(&pair) {
            return Err(unusable("the key is not the certificate's".to_owned()));
        }
        let issuer = Issuer::from_ca_cert_der(first, pair)
            .map_err(|e| unusable(format!("the certificate cannot be used: {e}")))?;
        let chain_pem = chain.iter().map(to_pem).collect();
        let ca = Self::assemble(issuer, chain, chain_pem).map_err(&unusable)?;
        ca.try_out(SystemTime::now()).map_err(unusable)?;
        Ok(ca)
    }
}

fn public_key(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, String> {
    use x509_parser::prelude::FromDer;
    x509_parser::certificate::X509Certificate::from_der(certificate)
        .map(|(_, c)| c.public_key().raw.to_vec())
        .map_err(|e| e.to_string())
}
