//! Pure: a picture of the table, each row with its own scale.
use serde_json::Value;

/// Draws it.
pub(crate) fn draw(_result: &Value, _caption: &str) -> String {
    String::new()
}
