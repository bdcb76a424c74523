use super::*;
use crate::svid::TrustBundle;
use crate::verify::{Usage, VerifyError, spiffe_id, verify_chain};

fn id() -> SpiffeId {
    "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()
}

fn domain() -> TrustDomain {
    TrustDomain::new("cluster.local").unwrap()
}

fn csr(names: Vec<SanType>) -> String {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = names;
    params.serialize_request(&key).unwrap().pem().unwrap()
}

fn der(pem: &[String]) -> Vec<CertificateDer<'static>> {
    pem.iter().map(|p| CertificateDer::from_pem_slice(p.as_bytes()).unwrap()).collect()
}

#[test]
fn a_leaf_names_the_authorised_identity_whatever_the_csr_says() {
    let now = SystemTime::now();
    let (ca, _) = Ca::create(&domain(), now).unwrap();
    let evil = "spiffe://cluster.local/ns/kube-system/sa/admin".try_into().unwrap();
    let chain = der(&ca.sign(&csr(vec![SanType::URI(evil)]), &id(), SVID_LIFE, now).unwrap());
    assert_eq!(spiffe_id(&chain[0]), Ok(id()));
    let bundle = TrustBundle::from_pem(ca.root_pem().as_bytes()).unwrap();
    for usage in [Usage::Client, Usage::Server] {
        assert_eq!(verify_chain(&chain[0], &[], &bundle, now, usage), Ok(id()));
    }
    let late = now + SVID_LIFE + Duration::from_secs(10);
    assert!(matches!(
        verify_chain(&chain[0], &[], &bundle, late, Usage::Client),
        Err(VerifyError::Expired { since_seconds: 8..=12 })
    ));
    let early = now - Duration::from_secs(3600);
    assert!(matches!(
        verify_chain(&chain[0], &[], &bundle, early, Usage::Client),
        Err(VerifyError::NotYetValid { .. } | VerifyError::Chain(_))
    ));
    let (other, _) = Ca::create(&domain(), now).unwrap();
    let foreign = TrustBundle::from_pem(other.root_pem().as_bytes()).unwrap();
    assert!(matches!(verify_chain(&chain[0], &[], &foreign, now, Usage::Client), Err(VerifyError::Chain(_))));
}

#[test]
fn unusable_csrs_are_refused() {
    let now = SystemTime::now();
    let (ca, _) = Ca::create(&domain(), now).unwrap();
    let refused = |csr: &str| ca.sign(csr, &id(), SVID_LIFE, now).unwrap_err();
    assert!(matches!(refused(&"x".repeat(CSR_MAX + 1)), SignError::TooLarge(_)));
    assert!(matches!(refused("nonsense"), SignError::Csr(_)));
    // One bit of the signature changed.
    let good = csr(vec![]);
    let mut bytes = data_encoding::BASE64
        .decode(good.lines().filter(|l| !l.starts_with("-----")).collect::<String>().as_bytes())
        .unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    let bad = format!(
        "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
        data_encoding::BASE64.encode(&bytes)
    );
    assert!(matches!(refused(&bad), SignError::Csr(_)));
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let request = CertificateParams::default().serialize_request(&ed25519).unwrap().pem().unwrap();
    assert_eq!(refused(&request), SignError::KeyKind);
}

#[test]
fn a_ca_is_made_once_and_kept_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    let first = Ca::open(home.path(), &domain(), SystemTime::now()).unwrap();
    let second = Ca::open(home.path(), &domain(), SystemTime::now()).unwrap();
    assert_eq!(first.root_pem(), second.root_pem());
    let mode = std::fs::metadata(home.path().join("ca.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Half of a CA is an error, never a reason for a new one.
    std::fs::remove_file(home.path().join("ca.pem")).unwrap();
    assert!(matches!(Ca::open(home.path(), &domain(), SystemTime::now()), Err(CaError::File { .. })));
    let (_, other) = Ca::create(&domain(), SystemTime::now()).unwrap();
    std::fs::write(home.path().join("ca.pem"), first.root_pem()).unwrap();
    std::fs::write(home.path().join("ca.key"), other.as_bytes()).unwrap();
    let error = Ca::open(home.path(), &domain(), SystemTime::now()).unwrap_err();
    assert!(error.to_string().contains("the key is not the certificate's"), "{error}");
}
