//! The certificate authority itself.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use lark_core::constants::SVID_LIFE;
use lark_core::identity::{SpiffeId, TrustDomain};
use lark_core::rotation::RootId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use zeroize::Zeroizing;

use crate::svid::{TrustBundle, root_id};
use crate::verify::{Usage, validity, verify_chain};

mod files;

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
    /// The key lies open.
    #[error(
        "CA key {path} has mode {mode:03o}, so that everybody on this machine may read it; do `chmod 600 {path}`"
    )]
    Open {
        /// The key's file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A name that no TLS client could ask for.
    #[error("{0:?} is no host name or IP address that a certificate could be made for")]
    Name(String),
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
    /// It asks for names that it may not have.
    #[error(
        "the CSR asks for {0} beside the identity; names come from discovery: leave them out of it, or name the identity alone"
    )]
    Names(String),
    /// Its key is of a kind that is not taken.
    #[error("the CSR's key must be P-256 or P-384")]
    KeyKind,
    /// The root that is to issue has no key here.
    #[error(
        "root {} is to issue and its key is not here: its files were replaced while the controller was down; put them back, or wait for the rotation to go on", .0.short()
    )]
    NoIssuer(RootId),
    /// The CA itself is not valid any more.
    #[error("the CA's certificate expired {since_seconds} s ago, or the controller's clock is wrong")]
    Expired {
        /// How long ago.
        since_seconds: u64,
    },
    /// Signing failed.
    #[error("signing failed: {0}")]
    Sign(String),
}

/// A CA with its key.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    chain: Vec<CertificateDer<'static>>,
    chain_pem: Vec<String>,
    /// The first end of life in the chain.
    not_after: SystemTime,
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
        let ca = Self::assemble(Issuer::new(params, key), chain, chain_pem)
            .map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
        Ok((ca, secret))
    }

    fn assemble(
        issuer: Issuer<'static, KeyPair>,
        chain: Vec<CertificateDer<'static>>,
        chain_pem: Vec<String>,
    ) -> Result<Self, String> {
        let ends = chain.iter().map(|c| validity(c).map(|(_, not_after, _)| not_after));
        let ends = ends.collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
        let not_after = ends.into_iter().min().ok_or("there is no certificate")?;
        Ok(Self { issuer, chain, chain_pem, not_after })
    }

    /// Issues a certificate to nobody and proves it against the chain's last, as agents will: what
    /// could not work is found at the start.
    fn try_out(&self, now: SystemTime) -> Result<(), String> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|e| e.to_string())?;
        let csr = CertificateParams::default().serialize_request(&key).and_then(|csr| csr.pem());
        let nobody = "spiffe://lark.invalid/ns/nobody/sa/nobody".parse::<SpiffeId>();
        let (csr, nobody) = (csr.map_err(|e| e.to_string())?, nobody.map_err(|e| e.to_string())?);
        let leaf = self.leaf(&csr, &nobody, Duration::from_secs(60), now).map_err(|e| e.to_string())?;
        let root = self.chain.last().cloned().into_iter().collect();
        let bundle = TrustBundle::new(root).map_err(|e| e.to_string())?;
        let last = self.chain.len().saturating_sub(1);
        let between = self.chain.get(..last).unwrap_or_default();
        verify_chain(leaf.der(), between, &bundle, now, Usage::Server)
            .map(|_| ())
            .map_err(|e| format!("a certificate that it issues does not verify: {e}"))
    }

    /// The name of the root at the end of its chain.
    pub fn root_id(&self) -> Option<RootId> {
        self.chain.last().map(root_id)
    }

    /// When it ends: the first end of life in its chain.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Its chain and its key as PEM, to be kept.
    pub(crate) fn secrets(&self) -> (String, Zeroizing<String>) {
        (self.chain_pem.concat(), Zeroizing::new(self.issuer.key().serialize_pem()))
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
        let leaf = self.leaf(csr, id, life, now)?;
        Ok(std::iter::once(leaf.pem()).chain(self.chain_pem.iter().cloned()).collect())
    }

    fn leaf(
        &self,
        csr: &str,
        id: &SpiffeId,
        life: Duration,
        now: SystemTime,
    ) -> Result<rcgen::Certificate, SignError> {
        if let Ok(since) = now.duration_since(self.not_after) {
            return Err(SignError::Expired { since_seconds: since.as_secs() });
        }
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
        // Agents of other meshes name the identity itself.
        let foreign = request.params.subject_alt_names.iter().find(|name| !is_identity(name, id));
        if let Some(foreign) = foreign {
            return Err(SignError::Names(format!("{foreign:?}").chars().take(200).collect()));
        }
        if matches!(request.params.is_ca, IsCa::Ca(_)) {
            return Err(SignError::Names("the powers of a CA".to_owned()));
        }
        let uri = rcgen::string::Ia5String::try_from(id.as_str()).map_err(failed)?;
        let mut params = self.leaf_params(life.min(SVID_LIFE), now);
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.signed_by(&request.public_key, &self.issuer).map_err(failed)
    }

    /// A certificate and key for the CA's own TLS listener, for these host names and addresses. The
    /// key is PKCS#8 DER.
    ///
    /// # Errors
    /// When a name is none, or it cannot be made.
    pub fn serving(
        &self,
        names: &[String],
        life: Duration,
        now: SystemTime,
    ) -> Result<(Vec<CertificateDer<'static>>, Zeroizing<Vec<u8>>), CaError> {
        let key = Zeroizing::new(KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?);
        let mut params = self.leaf_params(life, now);
        params.subject_alt_names = names.iter().map(|name| host(name)).collect::<Result<_, _>>()?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params.signed_by(&*key, &self.issuer)?;
        // Whoever connects has the root.
        let between = self.chain.len().saturating_sub(1);
        let chain = std::iter::once(leaf.der().clone()).chain(self.chain.iter().take(between).cloned());
        Ok((chain.collect(), Zeroizing::new(key.serialize_der())))
    }

    fn leaf_params(&self, life: Duration, now: SystemTime) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = (now - BACKDATED).into();
        // A leaf that outlived its CA would be refused without anybody seeing why.
        params.not_after = (now + life).min(self.not_after).into();
        params
    }
}

fn host(name: &str) -> Result<SanType, CaError> {
    let wrong = || CaError::Name(name.to_owned());
    if let Ok(ip) = name.parse::<IpAddr>() {
        return if ip.is_unspecified() { Err(wrong()) } else { Ok(SanType::IpAddress(ip)) };
    }
    ServerName::try_from(name).map_err(|_| wrong())?;
    rcgen::string::Ia5String::try_from(name).map(SanType::DnsName).map_err(|_| wrong())
}

fn is_identity(name: &SanType, id: &SpiffeId) -> bool {
    matches!(name, SanType::URI(uri) if uri.as_str() == id.as_str())
}

pub(crate) fn to_pem(certificate: &CertificateDer<'_>) -> String {
    let body = data_encoding::BASE64.encode(certificate);
    let lines: Vec<&str> =
        body.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests;
