//! Fields of a log line, without `fmt`, by which each costs a thousand instructions.

use std::fmt::Write;

/// Appends `name=`.
pub fn name(line: &mut String, name: &str) {
    // Asked of each of a line's two dozen: without a call where the first letter says no.
    let name = if name.starts_with('r') { name.strip_prefix("r#").unwrap_or(name) } else { name };
    line.reserve(name.len() + 1);
    line.push_str(name);
    line.push('=');
}

/// Appends `name="value"` as `Debug` would have it. Most texts have nothing to escape and are written as they are, where
/// `str` looks at each character.
pub fn text(line: &mut String, name: &str, value: &str) {
    self::name(line, name);
    if !is_plain(value) {
        // A String takes everything.
        let _ = write!(line, "{value:?}");
        return;
    }
    line.reserve(value.len() + 2);
    line.push('"');
    line.push_str(value);
    line.push('"');
}

/// Whether a text in quotes is the text as it is. Beside ASCII these are what [`crate::observe::Secured`] says.
fn is_plain(text: &str) -> bool {
    let is_ascii = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    // All of it in any case: sixteen at once, without a branch.
    let ascii = text.bytes().fold(true, |all, byte| all & is_ascii(byte));
    let is_sign = |c: char| u8::try_from(c).map_or(matches!(c, '√' | '✗' | '⊘'), is_ascii);
    ascii || text.chars().all(is_sign)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Secured;

    #[test]
    fn what_is_plain_is_written_as_debug_would() {
        for c in '\0'..=char::MAX {
            let value = format!("a{c}b");
            let mut line = String::new();
            text(&mut line, "r#type", &value);
            assert_eq!(line, format!("type={value:?}"));
        }
        for secured in
            [Secured::Mtls, Secured::SameNode, Secured::Direct, Secured::Plaintext, Secured::Denied]
        {
            assert!(is_plain(secured.sign()), "{}", secured.sign());
        }
        assert!(!is_plain("\"") && !is_plain("\\") && is_plain(""));
    }
}
