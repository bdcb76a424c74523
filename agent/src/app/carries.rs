//! What the records of tunnels are sealed with, and who carries them.

use lark_sys::ktls::{self, Offer};
use lark_tunnel::cipher::{Cipher, by_speed};

use crate::cli::{self, Ktls};

/// The ciphers that tunnels may use.
pub(super) fn ciphers(named: Option<&[cli::Cipher]>) -> Vec<Cipher> {
    let Some(named) = named else { return by_speed() };
    let cipher = |named: &cli::Cipher| match named {
        cli::Cipher::Aes128Gcm => Cipher::Aes128Gcm,
        cli::Cipher::Aes256Gcm => Cipher::Aes256Gcm,
        cli::Cipher::Chacha20Poly1305 => Cipher::Chacha20Poly1305,
    };
    named.iter().map(cipher).collect()
}

/// What was found at start.
pub(super) struct Carries {
    /// What the kernel takes, if it is to.
    pub(super) offer: Option<Offer>,
    /// The same for people.
    pub(super) told: String,
}

impl Carries {
    /// Asks the kernel, if it is to be asked.
    pub(super) fn find(wanted: Ktls) -> Self {
        if wanted == Ktls::Off {
            return Self { offer: None, told: "in the agent".to_owned() };
        }
        match ktls::probe() {
            Ok(offer) => {
                let told = offer.to_string();
                tracing::info!(records = told, "the kernel carries TLS");
                Self { offer: Some(offer), told }
            }
            Err(why) => {
                tracing::info!(%why, "the kernel carries no TLS, so the agent does");
                Self { offer: None, told: format!("in the agent: {why}") }
            }
        }
    }
}
