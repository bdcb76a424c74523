//! Who carries the records of tunnels.

use lark_sys::ktls::{self, Offer};

use crate::cli::Ktls;

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
