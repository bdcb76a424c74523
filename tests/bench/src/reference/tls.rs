use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Name in the accepting end's certificate.
pub(crate) const ACCEPTS: &str = "accepts.reference.test";
const DIALS: &str = "dials.reference.test";

/// Writes root.pem, and NAME.pem and NAME.key for both ends.
pub(crate) fn write_keys(directory: &Path) -> Result<()> {
    let mut root = CertificateParams::new(Vec::new())?;
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = CertifiedIssuer::self_signed(root, KeyPair::generate()?)?;
    std::fs::write(directory.join("root.pem"), root.pem())?;
    for name in [ACCEPTS, DIALS] {
        let key = KeyPair::generate()?;
        let leaf = CertificateParams::new([name.to_owned()])?.signed_by(&key, &root)?;
        std::fs::write(directory.join(format!("{name}.pem")), leaf.pem())?;
        std::fs::write(directory.join(format!("{name}.key")), key.serialize_pem())?;
    }
    Ok(())
}

struct Keys {
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Keys {
    fn read(directory: &Path, name: &str) -> Result<Self> {
        let certificate = |file: &str| {
            CertificateDer::from_pem_file(directory.join(file)).with_context(|| format!("read {file}"))
        };
        let mut roots = RootCertStore::empty();
        roots.add(certificate("root.pem")?)?;
        Ok(Self {
            roots: roots.into(),
            chain: vec![certificate(&format!("{name}.pem"))?],
            key: PrivateKeyDer::from_pem_file(directory.join(format!("{name}.key"))).context("read a key")?,
        })
    }
}

pub(crate) fn connector(directory: &Path) -> Result<TlsConnector> {
    let keys = Keys::read(directory, DIALS)?;
    let mut config = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .with_root_certificates(keys.roots)
        .with_client_auth_cert(keys.chain, keys.key)?;
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config).into())
}

pub(crate) fn acceptor(directory: &Path) -> Result<TlsAcceptor> {
    let keys = Keys::read(directory, ACCEPTS)?;
    let clients = WebPkiClientVerifier::builder(keys.roots).build()?;
    let mut config = ServerConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .with_client_cert_verifier(clients)
        .with_single_cert(keys.chain, keys.key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config).into())
}
