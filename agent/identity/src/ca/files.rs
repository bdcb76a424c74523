//! Where a CA comes from and where it is kept: PEM files of its certificate and key.

use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use lark_core::identity::TrustDomain;
use rcgen::{Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

use super::{Ca, CaError, to_pem};

/// File of the CA's certificate in a data directory.
const CERTIFICATE: &str = "ca.pem";
/// File of its key.
const KEY: &str = "ca.key";
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

    /// The CA kept in a directory, made there at the first start; the key's file can be read by its
    /// owner only.
    ///
    /// # Errors
    /// When files cannot be read or written, or one of the two is gone: then nothing is made anew, since
    /// that would cut off every agent that trusts the old root.
    pub fn open(directory: &Path, domain: &TrustDomain, now: SystemTime) -> Result<Self, CaError> {
        let (certificate, key) = (directory.join(CERTIFICATE), directory.join(KEY));
        match (certificate.exists(), key.exists()) {
            (true, true) => return Self::load(&certificate, &key),
            (true, false) => return Err(CaError::Half { missing: key, present: certificate }),
            (false, true) => return Err(CaError::Half { missing: certificate, present: key }),
            (false, false) => {}
        }
        std::fs::create_dir_all(directory)
            .map_err(|source| CaError::File { path: directory.to_owned(), source })?;
        let (ca, secret) = Self::create(domain, now)?;
        write(&key, secret.as_bytes(), 0o600)?;
        write(&certificate, ca.chain_pem.concat().as_bytes(), 0o644)?;
        Ok(ca)
    }

    /// Writes the root for agents into a directory, as `root.pem`. Returns its path.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn publish_root(&self, directory: &Path) -> Result<PathBuf, CaError> {
        std::fs::create_dir_all(directory)
            .map_err(|source| CaError::File { path: directory.to_owned(), source })?;
        let path = directory.join("root.pem");
        write(&path, self.root_pem().as_bytes(), 0o644)?;
        Ok(path)
    }
}

fn public_key(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, String> {
    use x509_parser::prelude::FromDer;
    x509_parser::certificate::X509Certificate::from_der(certificate)
        .map(|(_, c)| c.public_key().raw.to_vec())
        .map_err(|e| e.to_string())
}

/// Writes a file that appears complete, with its mode, or not at all.
fn write(path: &Path, contents: &[u8], mode: u32) -> Result<(), CaError> {
    let failed = |source| CaError::File { path: path.to_owned(), source };
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    // One left behind by a crash may have another mode: it is never written into.
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft).map_err(failed)?;
    file.write_all(contents).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&draft, path).map_err(failed)?;
    // The name must survive a power cut too.
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(directory).and_then(|d| d.sync_all()).map_err(failed)
}
