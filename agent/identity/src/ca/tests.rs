use std::os::unix::fs::PermissionsExt;

use rustls::pki_types::pem::PemObject;

use super::*;
use crate::svid::TrustBundle;
use crate::verify::{Usage, VerifyError, spiffe_id, verify_chain, verify_path};

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
    let own = SanType::URI(id().as_str().try_into().unwrap());
    for names in [vec![], vec![own.clone()]] {
        let chain = der(&ca.sign(&csr(names), &id(), SVID_LIFE, now).unwrap());
        assert_eq!(spiffe_id(&chain[0]), Ok(id()));
    }
    for evil in [
        SanType::URI("spiffe://cluster.local/ns/kube-system/sa/admin".try_into().unwrap()),
        SanType::URI("spiffe://cluster.local/ns/shop/sa/*".try_into().unwrap()),
        SanType::DnsName("*.shop.svc".try_into().unwrap()),
        SanType::IpAddress("10.0.0.1".parse().unwrap()),
    ] {
        let error = ca.sign(&csr(vec![own.clone(), evil]), &id(), SVID_LIFE, now).unwrap_err();
        assert!(matches!(error, SignError::Names(_)), "{error}");
    }
    let chain = der(&ca.sign(&csr(vec![]), &id(), SVID_LIFE, now).unwrap());
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
fn a_leaf_never_outlives_its_ca() {
    let made = SystemTime::now();
    let (ca, _) = Ca::create(&domain(), made).unwrap();
    let near = made + ROOT_LIFE - Duration::from_secs(3600);
    let chain = der(&ca.sign(&csr(vec![]), &id(), SVID_LIFE, near).unwrap());
    assert_eq!(validity(&chain[0]).unwrap().1, ca.not_after);
    let past = made + ROOT_LIFE + Duration::from_secs(5);
    assert!(matches!(ca.sign(&csr(vec![]), &id(), SVID_LIFE, past), Err(SignError::Expired { .. })));
}

#[test]
fn an_intermediate_with_its_chain_is_a_ca_and_a_leaf_is_none() {
    let now = SystemTime::now();
    let (root, _) = Ca::create(&domain(), now).unwrap();
    let home = tempfile::tempdir().unwrap();
    let (certificate, key) = (home.path().join("c.pem"), home.path().join("c.key"));
    let given = |is_ca: IsCa, with_root: bool| {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = is_ca;
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_before = (now - BACKDATED).into();
        params.not_after = (now + Duration::from_secs(3600)).into();
        let pem = params.signed_by(&pair, &root.issuer).unwrap().pem();
        std::fs::write(&certificate, pem + if with_root { root.root_pem() } else { "" }).unwrap();
        std::fs::write(&key, pair.serialize_pem()).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        Ca::load(&certificate, &key)
    };
    let ca = given(IsCa::Ca(BasicConstraints::Constrained(0)), true).unwrap();
    assert_eq!(ca.root_pem(), root.root_pem());
    let chain = der(&ca.sign(&csr(vec![]), &id(), SVID_LIFE, now).unwrap());
    let bundle = TrustBundle::from_pem(root.root_pem().as_bytes()).unwrap();
    assert_eq!(verify_chain(&chain[0], &chain[1..], &bundle, now, Usage::Client), Ok(id()));
    assert!(validity(&chain[0]).unwrap().1 <= now + Duration::from_secs(3600));
    for (is_ca, with_root) in [(IsCa::ExplicitNoCa, true), (IsCa::NoCa, true)] {
        assert!(matches!(given(is_ca, with_root), Err(CaError::Unusable { .. })));
    }
}

#[test]
fn a_root_that_was_issued_again_for_its_key_is_told_from_the_one_before() {
    let now = SystemTime::now();
    let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let issue = |life: Duration| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_after = (now + life).into();
        Ca::from_pem(&params.self_signed(&pair).unwrap().pem(), &pair.serialize_pem()).unwrap()
    };
    let (old, new) = (issue(SVID_LIFE), issue(2 * SVID_LIFE));
    let (a, b) = (old.chain()[0].clone(), new.chain()[0].clone());
    for trusted in [vec![a.clone(), b.clone()], vec![b.clone(), a.clone()]] {
        let bundle = TrustBundle::new(trusted).unwrap();
        assert_eq!(bundle.anchors()[0], bundle.anchors()[1]);
        for ca in [&old, &new] {
            let svid = crate::store::issue_directly(ca, &id(), SVID_LIFE, &bundle, now).unwrap();
            assert_eq!(Some(svid.root), ca.root_id());
            assert_eq!(svid.certified.cert.len(), 1, "peers have both roots");
        }
        // A leaf alone does not say which: one of both it is.
        let leaf = der(&old.sign(&csr(vec![]), &id(), SVID_LIFE, now).unwrap())[0].clone();
        let proved = verify_path(&leaf, &[], &bundle, now, Usage::Client);
        assert_eq!(proved, Ok((id(), bundle.ids()[0])));
    }
    // Where one of them is not trusted, the other one vouches for its leaves.
    let bundle = TrustBundle::new(vec![b]).unwrap();
    let svid = crate::store::issue_directly(&old, &id(), SVID_LIFE, &bundle, now).unwrap();
    assert_eq!(Some(svid.root), new.root_id());
}

#[test]
fn the_serving_certificate_is_for_names_and_addresses_only() {
    let (ca, _) = Ca::create(&domain(), SystemTime::now()).unwrap();
    let names = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
        ca.serving(&names, SVID_LIFE, SystemTime::now()).map(|(chain, _)| chain.len())
    };
    assert_eq!(names(&["controller.lark-system.svc", "10.0.0.1", "fd00::1"]).unwrap(), 1);
    for wrong in ["", "0.0.0.0", "::", "a b", "https://controller", "controller:15012", "exa\u{e4}mple"] {
        assert!(matches!(names(&[wrong]), Err(CaError::Name(_))), "{wrong:?}");
    }
}
