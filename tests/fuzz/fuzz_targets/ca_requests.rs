//! Requests to the CA, as bytes of the protocol. What is issued names what was authorised, whatever is asked.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use lark_core::identity::{SpiffeId, TrustDomain};
use lark_identity::ca::Ca;
use lark_identity::protocol::IstioCertificateRequest;
use libfuzzer_sys::fuzz_target;
use prost::Message;

static CA: LazyLock<Ca> = LazyLock::new(|| {
    let domain = TrustDomain::new("cluster.local").expect("a domain");
    Ca::create(&domain, SystemTime::now()).expect("a CA").0
});

static AUTHORISED: LazyLock<SpiffeId> =
    LazyLock::new(|| "spiffe://cluster.local/ns/shop/sa/web".parse().expect("an identity"));

fuzz_target!(|bytes: &[u8]| {
    let Ok(request) = IstioCertificateRequest::decode(bytes) else { return };
    if let Some(identity) = request.identity().and_then(|text| text.parse::<SpiffeId>().ok()) {
        assert_eq!(request.identity(), Some(identity.as_str()));
    }
    let life = Duration::from_secs(u64::try_from(request.validity_duration).unwrap_or(0));
    if let Ok(chain) = CA.sign(&request.csr, &AUTHORISED, life, SystemTime::now()) {
        assert!(chain.len() >= 2, "a leaf and its root");
    }
});
