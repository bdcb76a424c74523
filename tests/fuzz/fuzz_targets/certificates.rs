//! Certificates as a peer may show them. What is accepted has one identity, in its canonical form.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use lark_core::identity::SpiffeId;
use lark_identity::TrustBundle;
use lark_identity::verify::{Usage, spiffe_id, validity, verify_chain};
use libfuzzer_sys::fuzz_target;
use rustls_pki_types::CertificateDer;

/// The root that issued those of the corpus.
static ROOT: LazyLock<TrustBundle> = LazyLock::new(|| {
    let root = CertificateDer::from(include_bytes!("../corpus/certificates/root.der").as_slice());
    TrustBundle::new(vec![root]).expect("the root of the corpus is one")
});

/// A moment in the life of those of the corpus: the middle of 2027.
const NOW: Duration = Duration::from_secs(1_814_400_000);

fuzz_target!(|input: &[u8]| {
    let certificate = CertificateDer::from(input);
    let _ = validity(&certificate);
    let named = spiffe_id(&certificate);
    if let Ok(id) = &named {
        assert_eq!(id.as_str().parse::<SpiffeId>().as_ref(), Ok(id));
    }
    let now = SystemTime::UNIX_EPOCH + NOW;
    for usage in [Usage::Client, Usage::Server] {
        for between in [&[][..], std::slice::from_ref(&certificate)] {
            if let Ok(proved) = verify_chain(&certificate, between, &ROOT, now, usage) {
                assert_eq!(named.as_ref(), Ok(&proved));
            }
        }
    }
});
