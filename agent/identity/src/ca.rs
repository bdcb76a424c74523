//! The certificate authority itself.

use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use lark_core::constants::SVID_LIFE;
use lark_core::identity::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

/// Largest CSR that is looked at, in bytes of PEM.
pub const CSR_MAX: usize = 16 * 1024;
/// How far back a leaf's validity begins, so that a clock a little behind takes it.
const BACKDATED: Duration = Duration::from_secs(120);
const ROOT_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Why the CA cannot start.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file could not be read or written.
    #[error("CA file {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Certificate or key cannot be used.
    #[error("CA certificate {certificate} and key {key} cannot be used: {what}")]
    Unusable {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        what: String,
    },
    /// Making one failed.
    #[error("a CA could not be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// Why a certificate is not issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The CSR is too large.
    #[error("the CSR has {0} bytes, more than {CSR_MAX}")]
    TooLarge(usize),
    /// The CSR cannot be read, or its signature is wrong.
    #[error("the CSR is not usable: {0}")]
    Csr(String),
    /// Its key is of a kind that is not taken.
    #[error("the CSR's key must be P-256 or P-384")]
    KeyKind,
    /// Signing failed.
    #[error("signing failed: {0}")]
    Sign(String),
}

/// A CA with its key.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    chain: Vec<CertificateDer<'static>>,
    chain_pem: Vec<String>,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

impl Ca {
    /// Makes a self-signed root for a trust domain.
    ///
    /// # Errors
    /// When key or certificate cannot be made.
    pub fn create(domain: &TrustDomain, now: SystemTime) -> Result<(Self, Zeroizing<String>), CaError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::OrganizationName, "Lark");
        params.distinguished_name.push(DnType::CommonName, format!("Lark root of {domain}"));
        params.not_before = (now - BACKDATED).into();
        params.not_after = (now + ROOT_LIFE).into();
        let certificate = params.self_signed(&key)?;
        let secret = Zeroizing::new(key.serialize_pem());
        let chain_pem = vec![certificate.pem()];
        let chain = vec![certificate.der().clone()];
        Ok((Self { issuer: Issuer::new(params, key), chain, chain_pem }, secret))
    }

    /// Takes the CA from files: the certificate (with its chain up to the root, if it is an
    /// intermediate) and the key.
    ///
    /// # Errors
    /// When a file cannot be read, or both do not belong together.
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
            .map_err(|e| unusable(format!("the certificate is no CA's: {e}")))?;
        let chain_pem = chain.iter().map(to_pem).collect();
        Ok(Self { issuer, chain, chain_pem })
    }

    /// The CA kept in a directory, made there at the first start; the key's file can be read by its
    /// owner only.
    ///
    /// # Errors
    /// When files cannot be read or written.
    pub fn open(directory: &Path, domain: &TrustDomain, now: SystemTime) -> Result<Self, CaError> {
        let (certificate, key) = (directory.join("ca.pem"), directory.join("ca.key"));
        if certificate.exists() || key.exists() {
            return Self::load(&certificate, &key);
        }
        std::fs::create_dir_all(directory)
            .map_err(|source| CaError::File { path: directory.to_owned(), source })?;
        let (ca, secret) = Self::create(domain, now)?;
        write(&key, secret.as_bytes(), 0o600)?;
        write(&certificate, ca.chain_pem.concat().as_bytes(), 0o644)?;
        Ok(ca)
    }

    /// The root as PEM.
    pub fn root_pem(&self) -> &str {
        self.chain_pem.last().map_or("", String::as_str)
    }

    /// The certificates above a leaf, root last.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// Issues a certificate for `id`: names come from here alone, the CSR gives the public key and
    /// proves its possession. Leaf first, root last.
    ///
    /// # Errors
    /// When the CSR is not acceptable.
    pub fn sign(
        &self,
        csr: &str,
        id: &SpiffeId,
        life: Duration,
        now: SystemTime,
    ) -> Result<Vec<String>, SignError> {
        if csr.len() > CSR_MAX {
            return Err(SignError::TooLarge(csr.len()));
        }
        // Checks the CSR's own signature too.
        let request =
            CertificateSigningRequestParams::from_pem(csr).map_err(|e| SignError::Csr(e.to_string()))?;
        let algorithm = rcgen::PublicKeyData::algorithm(&request.public_key);
        if *algorithm != rcgen::PKCS_ECDSA_P256_SHA256 && *algorithm != rcgen::PKCS_ECDSA_P384_SHA384 {
            return Err(SignError::KeyKind);
        }
        let failed = |e: rcgen::Error| SignError::Sign(e.to_string());
        let uri = rcgen::string::Ia5String::try_from(id.as_str()).map_err(failed)?;
        let mut params = leaf_params(life.min(SVID_LIFE), now);
        params.subject_alt_names = vec![SanType::URI(uri)];
        let leaf = params.signed_by(&request.public_key, &self.issuer).map_err(failed)?;
        Ok(std::iter::once(leaf.pem()).chain(self.chain_pem.iter().cloned()).collect())
    }

    /// A certificate and key for the CA's own TLS listener. PEM of the chain, PEM of the key.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn serving(
        &self,
        names: &[String],
        life: Duration,
        now: SystemTime,
    ) -> Result<(String, Zeroizing<String>), CaError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = leaf_params(life, now);
        params.subject_alt_names = names
            .iter()
            .map(|name| match name.parse::<IpAddr>() {
                Ok(ip) => Ok(SanType::IpAddress(ip)),
                Err(_) => rcgen::string::Ia5String::try_from(name.as_str()).map(SanType::DnsName),
            })
            .collect::<Result<_, _>>()?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params.signed_by(&key, &self.issuer)?;
        let intermediates = self.chain_pem.len().saturating_sub(1);
        let chain = std::iter::once(leaf.pem()).chain(self.chain_pem.iter().take(intermediates).cloned());
        Ok((chain.collect(), Zeroizing::new(key.serialize_pem())))
    }
}

fn leaf_params(life: Duration, now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + life).into();
    params
}

fn public_key(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, String> {
    use x509_parser::prelude::FromDer;
    x509_parser::certificate::X509Certificate::from_der(certificate)
        .map(|(_, c)| c.public_key().raw.to_vec())
        .map_err(|e| e.to_string())
}

fn to_pem(certificate: &CertificateDer<'_>) -> String {
    let body = data_encoding::BASE64.encode(certificate);
    let lines: Vec<&str> =
        body.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// Writes a file that appears complete or not at all.
fn write(path: &Path, contents: &[u8], mode: u32) -> Result<(), CaError> {
    let failed = |source| CaError::File { path: path.to_owned(), source };
    let draft = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&draft)
        .map_err(failed)?;
    file.write_all(contents).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&draft, path).map_err(failed)
}

#[cfg(test)]
mod tests;
