//! What the controller asks this agent, for people who ask the whole cluster.

use std::sync::{Arc, OnceLock};

use lark_identity::follow::Answers;

use crate::admin;

/// Answers the controller as the admin socket would, once there is something to tell.
#[derive(Default)]
pub(super) struct Asked(OnceLock<Arc<dyn admin::Source>>);

impl Asked {
    /// From now on there is.
    pub(super) fn answer_from(&self, source: Arc<dyn admin::Source>) {
        // Called once.
        let _ = self.0.set(source);
    }
}

impl Answers for Asked {
    fn answer(&self, path: &str) -> (u16, Vec<u8>) {
        match self.0.get() {
            Some(source) => admin::ask(source.as_ref(), path),
            None => (503, b"the agent is starting".to_vec()),
        }
    }

    fn failing(&self) -> Vec<(String, String)> {
        self.0.get().map(|source| source.failing()).unwrap_or_default()
    }
}
