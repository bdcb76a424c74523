//! What is asked of all nodes at once.

use serde::{Deserialize, Serialize};

/// What a node answered to a question that all were asked, or why there is nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAnswer<T> {
    /// The node.
    pub node: String,
    /// What its agent said.
    #[serde(default = "nothing", skip_serializing_if = "Option::is_none")]
    pub answer: Option<T>,
    /// Why it said nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

fn nothing<T>() -> Option<T> {
    None
}

impl<T> NodeAnswer<T> {
    /// Of a node that gave an answer or has a reason for none.
    pub fn new(node: &str, said: Result<T, String>) -> Self {
        let node = node.to_owned();
        match said {
            Ok(answer) => Self { node, answer: Some(answer), missing: None },
            Err(why) => Self { node, answer: None, missing: Some(why) },
        }
    }
}
