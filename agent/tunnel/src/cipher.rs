//! Which ciphers tunnels are encrypted with, and which first.

use std::sync::Arc;

use rustls::SupportedCipherSuite;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::crypto::aws_lc_rs::default_provider;

pub use lark_sys::ktls::Cipher;

/// All of them, the one that is fastest on this CPU first. AES-128-GCM before AES-256-GCM, which takes a third more for
/// sealing and opening and is for whoever's rules find 128 bits too few.
pub fn by_speed() -> Vec<Cipher> {
    let mut all = Cipher::ALL.to_vec();
    if !has_aes() {
        all.rotate_right(1);
    }
    all
}

const fn suite(cipher: Cipher) -> SupportedCipherSuite {
    match cipher {
        Cipher::Aes128Gcm => TLS13_AES_128_GCM_SHA256,
        Cipher::Aes256Gcm => TLS13_AES_256_GCM_SHA384,
        Cipher::Chacha20Poly1305 => TLS13_CHACHA20_POLY1305_SHA256,
    }
}

/// Whether the CPU has instructions for AES and for the product that GCM needs.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// The cryptography of tunnels with those ciphers and no others. The dialling end's order counts; made once and shared.
pub fn provider(ciphers: &[Cipher]) -> Arc<CryptoProvider> {
    let cipher_suites = ciphers.iter().map(|cipher| suite(*cipher)).collect();
    Arc::new(CryptoProvider { cipher_suites, ..default_provider() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_post_quantum_exchange_comes_first_and_classic_ones_are_taken() {
        let groups: Vec<_> = provider(&by_speed()).kx_groups.iter().map(|group| group.name()).collect();
        assert_eq!(groups.first(), Some(&rustls::NamedGroup::X25519MLKEM768));
        assert!(groups.contains(&rustls::NamedGroup::X25519));
        assert!(groups.contains(&rustls::NamedGroup::secp256r1));
    }

    #[test]
    fn no_cipher_but_those_asked_for_is_there_and_in_their_order() {
        let wanted = [Cipher::Chacha20Poly1305, Cipher::Aes256Gcm];
        let found: Vec<_> = provider(&wanted).cipher_suites.iter().map(|suite| suite.suite()).collect();
        let named = rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256;
        assert_eq!(found, [named, rustls::CipherSuite::TLS13_AES_256_GCM_SHA384]);
        assert_eq!(by_speed().len(), 3);
    }
}
