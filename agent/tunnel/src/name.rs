//! The TLS server name of an identity: one listener of a node serves all its workloads, so the
//! dialling end says which one it wants. A hash, because a SPIFFE ID is no host name, and so that the
//! wire does not show it.

use aws_lc_rs::digest;
use lark_core::constants::SNI_SUFFIX;
use lark_core::identity::SpiffeId;

/// Lower-case base32 of SHA-256 of the ID (52 characters, so one DNS label), under
/// [`SNI_SUFFIX`].
pub fn server_name(id: &SpiffeId) -> String {
    let hash = digest::digest(&digest::SHA256, id.as_str().as_bytes());
    let label = data_encoding::BASE32_NOPAD.encode(hash.as_ref()).to_ascii_lowercase();
    format!("{label}.{SNI_SUFFIX}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_name_is_a_valid_dns_name_and_tells_identities_apart() {
        let name = |account: &str| {
            super::server_name(&format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap())
        };
        assert_eq!(name("web").split('.').next().unwrap().len(), 52);
        assert_ne!(name("web"), name("web.a"));
        assert!(rustls::pki_types::DnsName::try_from(name("web")).is_ok());
    }

    #[test]
    fn names_stay_the_same_from_version_to_version() {
        // Computed by other means (hashlib, base64): agents of two versions must agree.
        assert_eq!(
            super::server_name(&"spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()),
            "axgvdf6rpbrigiais4mrh4ruw3l6fqkq27dg2seax7i64u7vwuea.svid.lark.mesh"
        );
    }
}
