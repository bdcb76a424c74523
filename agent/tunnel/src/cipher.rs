//! Which ciphers tunnels are encrypted with, and which first.

use std::sync::Arc;

use rustls::SupportedCipherSuite;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::crypto::aws_lc_rs::default_provider;

/// A cipher of TLS 1.3 (RFC 8446, appendix B.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cipher {
    /// TLS_AES_128_GCM_SHA256, which every implementation has.
    Aes128Gcm,
    /// TLS_AES_256_GCM_SHA384, for whose rules 128 bits are too few. Sealing and opening take a third more.
    Aes256Gcm,
    /// TLS_CHACHA20_POLY1305_SHA256: the fastest where the CPU has no instructions for AES.
    Chacha20Poly1305,
}

impl Cipher {
    /// All of them, the one that is fastest on this CPU first.
    pub fn by_speed() -> Vec<Self> {
        let aes = [Self::Aes128Gcm, Self::Aes256Gcm];
        let chacha = [Self::Chacha20Poly1305];
        if has_aes() { [&aes[..], &chacha].concat() } else { [&chacha[..], &aes].concat() }
    }

    const fn suite(self) -> SupportedCipherSuite {
        match self {
            Self::Aes128Gcm => TLS13_AES_128_GCM_SHA256,
            Self::Aes256Gcm => TLS13_AES_256_GCM_SHA384,
            Self::Chacha20Poly1305 => TLS13_CHACHA20_POLY1305_SHA256,
        }
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
    let cipher_suites = ciphers.iter().map(|cipher| cipher.suite()).collect();
    Arc::new(CryptoProvider { cipher_suites, ..default_provider() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_post_quantum_exchange_comes_first_and_classic_ones_are_taken() {
        let groups: Vec<_> =
            provider(&Cipher::by_speed()).kx_groups.iter().map(|group| group.name()).collect();
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
        assert_eq!(Cipher::by_speed().len(), 3);
    }
}
