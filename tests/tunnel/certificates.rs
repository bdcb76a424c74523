//! Odd certificates, from a CA that signs whatever it is asked for. Each is shown by either end.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lark_core::reason::Reason;
use lark_identity::{Svid, SvidStore, TrustBundle};
use lark_tunnel::{End, HandshakeError, ServeError};
use rcgen::string::Ia5String;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::ends::{Client, DAY, echo, id, node, on_worker, quick};

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    bundle: TrustBundle,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap();
        let bundle = TrustBundle::new(vec![root.der().clone()]).unwrap();
        Self { issuer: Issuer::new(params, key), bundle }
    }

    /// A certificate that the store takes for `account`'s, whatever it says.
    pub(crate) fn store(&self, account: &str, change: impl FnOnce(&mut CertificateParams)) -> SvidStore {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![uri(id(account).as_str())];
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let certified = CertifiedKey::new(vec![certificate.der().clone()], any_ecdsa_type(&secret).unwrap());
        let now = SystemTime::now();
        let store = SvidStore::new(self.bundle.clone(), Arc::new(SystemTime::now));
        store.put(Svid {
            id: id(account),
            certified: Arc::new(certified),
            not_before: now - DAY,
            not_after: now + DAY,
            serial: "1".to_owned(),
            root: self.bundle.ids()[0],
        });
        store
    }
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

pub(crate) fn dns(text: &str) -> SanType {
    SanType::DnsName(Ia5String::try_from(text).unwrap())
}

type Change = fn(&mut CertificateParams);

/// What is odd, and what must be said about it by the client and by the server that meets it.
const ODD: &[(&str, Change, &str, &str)] = &[
    (
        "two URIs",
        |p| p.subject_alt_names.push(uri("spiffe://cluster.local/ns/shop/sa/other")),
        "2 URIs",
        "2 URIs",
    ),
    ("the same URI twice", |p| p.subject_alt_names.extend(p.subject_alt_names.clone()), "2 URIs", "2 URIs"),
    ("no URI", |p| p.subject_alt_names = vec![dns("db.shop")], "0 URIs", "0 URIs"),
    ("no names", |p| p.subject_alt_names.clear(), "0 URIs", "0 URIs"),
    (
        "another trust domain",
        |p| p.subject_alt_names = vec![uri("spiffe://elsewhere/ns/shop/sa/db")],
        "the peer proved spiffe://elsewhere/ns/shop/sa/db",
        "is of trust domain elsewhere, expected cluster.local",
    ),
    (
        "no canonical identity",
        |p| p.subject_alt_names = vec![uri("spiffe://cluster.local/ns/shop/sa/db/")],
        "no identity",
        "no identity",
    ),
    (
        "a zero byte",
        |p| p.subject_alt_names = vec![uri("spiffe://cluster.local/ns/shop/sa/db\0")],
        "no identity",
        "no identity",
    ),
    (
        "a CA's certificate",
        |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
        "not chain to an accepted root or is not for this use",
        "not chain to an accepted root or is not for this use",
    ),
    (
        "another use",
        |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning],
        "is not for this use",
        "is not for this use",
    ),
    (
        "not valid yet",
        |p| p.not_before = (SystemTime::now() + Duration::from_secs(3600)).into(),
        "the clocks",
        "the clocks",
    ),
    (
        "expired",
        |p| p.not_after = (SystemTime::now() - Duration::from_secs(3600)).into(),
        "expired",
        "expired",
    ),
];

#[test]
fn odd_certificates_of_a_server_are_refused_by_name() {
    on_worker(async {
        let authority = Authority::new();
        for (what, change, expected, _) in ODD {
            let node = node(authority.store("db", change), echo().await, quick()).await;
            let client = Client::new(authority.store("web", |_| ()), node.address, quick()).await;
            let (mut socket, _, ended) = client.connect().await;
            let error = socket.read(&mut [0; 1]).await.expect_err(what);
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{what}");
            let refusal = ended.await.unwrap().refusal.unwrap();
            assert!(refusal.detail.contains(expected), "{what}: {refusal}");
            let mismatch = *what == "another trust domain";
            let reason = if mismatch { Reason::PeerIdentityMismatch } else { Reason::TunnelHandshake };
            assert_eq!(refusal.reason, reason, "{what}");
        }
    });
}

#[test]
fn odd_certificates_of_a_client_are_refused_by_name() {
    on_worker(async {
        let authority = Authority::new();
        for (what, change, _, expected) in ODD {
            let mut node = node(authority.store("db", |_| ()), echo().await, quick()).await;
            let client = Client::new(authority.store("web", change), node.address, quick()).await;
            let (_socket, _, ended) = client.connect().await;
            assert_eq!(ended.await.unwrap().refusal.unwrap().reason, Reason::TunnelHandshake, "{what}");
            match node.error().await {
                ServeError::Handshake { why: HandshakeError::Certificate(why), .. } => {
                    assert!(why.to_string().contains(expected), "{what}: {why}");
                }
                other => panic!("{what}: {other}"),
            }
        }
    });
}

/// X509-SVID allows other kinds of names beside the URI; they mean nothing.
#[test]
fn a_dns_name_beside_the_uri_is_tolerated() {
    on_worker(async {
        let authority = Authority::new();
        let with_dns = |p: &mut CertificateParams| p.subject_alt_names.push(dns("somebody.else"));
        let node = node(authority.store("db", with_dns), echo().await, quick()).await;
        let client = Client::new(authority.store("web", with_dns), node.address, quick()).await;
        let (mut socket, _, ended) = client.connect().await;
        socket.write_all(b"x").await.unwrap();
        socket.read_exact(&mut [0; 1]).await.unwrap();
        drop(socket);
        assert_eq!(ended.await.unwrap().how, End::Clean);
    });
}
