use std::collections::{BTreeMap, BTreeSet};

/// A function of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Symbol {
    pub(crate) name: String,
    pub(crate) bytes: u64,
}

/// A line of `nm --print-size`: address, size, kind, name.
pub(crate) fn symbol(line: &str) -> Option<Symbol> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let &[_, size, "t" | "T" | "w" | "W", name] = fields.as_slice() else { return None };
    Some(Symbol { name: name.to_owned(), bytes: u64::from_str_radix(size, 16).ok()? })
}

/// What is put together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Warm {
    /// Patterns for names, in their order.
    pub(crate) lines: Vec<String>,
    /// Of all functions that a line is about.
    pub(crate) bytes: u64,
    /// Of those that were executed.
    pub(crate) executed_there: u64,
    /// Of all of Rust that were executed.
    pub(crate) executed: u64,
}

/// A module, a type or a function, and what is inside of it.
#[derive(Debug, Default)]
struct Part {
    bytes: u64,
    executed: u64,
    parts: BTreeMap<String, Part>,
}

/// Modules and functions of which at least half was executed, by size: the largest that are so. A module that is warm
/// takes along what is added to it later. Instances of one generic function differ in nothing but the hash, so they are
/// warm or cold together.
pub(crate) fn warm(symbols: &[Symbol], executed: &BTreeSet<String>) -> Warm {
    let mut all = Part::default();
    for symbol in symbols {
        let executed = if executed.contains(&symbol.name) { symbol.bytes } else { 0 };
        let path = path(&symbol.name);
        all.executed += if path.is_empty() { 0 } else { executed };
        let mut part = &mut all;
        for name in path {
            part = part.parts.entry(name).or_default();
            part.bytes += symbol.bytes;
            part.executed += executed;
        }
    }
    let mut warm = Warm { executed: all.executed, ..Warm::default() };
    all.parts.iter().for_each(|(name, part)| gather(part, name, &mut warm));
    warm
}

fn gather(part: &Part, name: &str, warm: &mut Warm) {
    if part.executed == 0 {
        return;
    }
    if part.executed * 2 >= part.bytes {
        // Behind it come what is inside, the hash, and a number if there are several.
        warm.lines.push(format!("{name}*"));
        warm.bytes += part.bytes;
        warm.executed_there += part.executed;
        return;
    }
    part.parts.iter().for_each(|(inner, part)| gather(part, &format!("{name}{inner}"), warm));
}

/// A symbol's name in parts that mean something by themselves. Rust's are `_ZN`, then each name with its length before
/// it, then a hash, which is another one with each compiler and left out. Those of the standard library are of the newer
/// kind (`_R`, RFC 2603), which has the hash of a crate inside and its modules in no order that a pattern could follow, so each
/// of them is one part; once Rust names our own so, they have to be taken apart here. C and assembly have none: they lie
/// together by themselves, as one library.
fn path(name: &str) -> Vec<String> {
    if name.starts_with("_R") {
        return vec![without_hashes(name.split_once('.').map_or(name, |(name, _)| name))];
    }
    let Some(mut rest) = name.strip_prefix("_ZN") else { return Vec::new() };
    let mut path: Vec<String> = Vec::new();
    while let Some((part, after)) = counted(rest) {
        if is_hash(part) && after.starts_with('E') {
            break;
        }
        path.push(part.to_owned());
        rest = after;
    }
    // The crate is where a path begins; what only begins like others has nothing in common with them.
    if let Some(first) = path.first_mut() {
        first.insert_str(0, "_ZN");
    }
    path
}

/// Whether this is `17h` and sixteen hexadecimal digits.
fn is_hash(part: &str) -> bool {
    part.strip_prefix("17h")
        .is_some_and(|hash| hash.len() == 16 && hash.chars().all(|c| c.is_ascii_hexdigit()))
}

/// `4core3ptr` as `4core` and the rest.
fn counted(text: &str) -> Option<(&str, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let length: usize = text.get(..digits)?.parse().ok()?;
    text.split_at_checked(digits.checked_add(length)?)
}

/// Crates without their hashes: `Cs`, the hash, `_`.
fn without_hashes(name: &str) -> String {
    let mut without = String::new();
    let mut rest = name;
    while let Some((before, after)) = rest.split_once("Cs") {
        without.push_str(before);
        without.push_str("Cs");
        rest = match after.split_once('_') {
            Some((hash, after)) if !hash.is_empty() && hash.chars().all(|c| c.is_ascii_alphanumeric()) => {
                without.push_str("*_");
                after
            }
            _ => after,
        };
    }
    without + rest
}

/// The file for the linker (ld(1), `INSERT`): sections by those names in a part of the code of their own, everything else
/// as it would be without it.
pub(crate) fn text(lines: &[String]) -> String {
    let mut text = String::from(
        "/* Made by `cargo xtask layout`, do not edit: what an agent runs while connections come, move bytes and go lies\n   \
        next to each other. A name that is no longer there does no harm; what is new and not here is only farther away. */\n\
        SECTIONS\n{\n  .text.warm :\n  {\n",
    );
    for line in lines {
        text.push_str("    *(.text.");
        text.push_str(line);
        text.push_str(")\n");
    }
    text.push_str("  }\n}\nINSERT BEFORE .text;\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbols(of: &[(&str, u64)]) -> Vec<Symbol> {
        of.iter().map(|(name, bytes)| Symbol { name: (*name).to_owned(), bytes: *bytes }).collect()
    }

    fn executed(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_line_of_nm_is_a_function_with_its_size() {
        let found = symbol("00000000004aa780 0000000000000010 t _ZN1a1bE");
        assert_eq!(found, symbols(&[("_ZN1a1bE", 16)]).pop());
        assert_eq!(symbol("00000000004aa780 0000000000000010 d table"), None);
        assert_eq!(symbol("00000000004aa780 t without_size"), None);
        assert_eq!(symbol(""), None);
    }

    #[test]
    fn the_largest_part_of_which_half_was_executed_has_the_line() {
        let symbols = symbols(&[
            ("_ZN4lark5proxy3one17h0123456789abcdefE", 50),
            ("_ZN4lark5proxy3two17h0123456789abcdefE", 50),
            ("_ZN4lark3cli3top17h0123456789abcdefE", 900),
            ("_ZN4lark3cli3run17h0123456789abcdefE", 10),
            ("_ZN5tokio2io4read17h0123456789abcdefE", 8),
            ("_ZN5tokio2io4read17hfedcba9876543210E", 80),
            ("_ZN80_$LT$lark..x..Y$u20$as$u20$core..fmt..Debug$GT$3fmt17h0123456789abcdefE", 7),
        ]);
        let executed = executed(&[
            "_ZN4lark5proxy3two17h0123456789abcdefE",
            "_ZN4lark3cli3run17h0123456789abcdefE",
            "_ZN5tokio2io4read17h0123456789abcdefE",
        ]);
        assert_eq!(
            warm(&symbols, &executed),
            Warm {
                lines: vec!["_ZN4lark3cli3run*".to_owned(), "_ZN4lark5proxy*".to_owned()],
                bytes: 110,
                executed_there: 60,
                executed: 68,
            }
        );
    }

    #[test]
    fn what_changes_with_each_compiler_is_no_part_of_a_name_and_c_has_none() {
        let symbols = symbols(&[
            ("_RNvMNtCsjrHSEGnQ3l9_3std4timeNtB2_7Instant7elapsed", 1),
            ("_RNvMNtCsjrHSEGnQ3l9_3std4timeNtB2_7Instant7elapsed.1334", 1),
            ("_ZN4slab3get17h0123456789abcdefE.llvm.77", 1),
            ("aws_lc_0_47_0_gcm_gmult_avx", 1),
            ("_aesni_encrypt8", 1),
        ]);
        let executed = symbols.iter().map(|symbol| symbol.name.clone()).collect();
        let warm = warm(&symbols, &executed);
        assert_eq!(warm.lines, ["_RNvMNtCs*_3std4timeNtB2_7Instant7elapsed*", "_ZN4slab*"]);
        assert_eq!((warm.bytes, warm.executed), (3, 3));
    }

    #[test]
    fn names_of_any_form_are_taken_apart_without_harm() {
        let parts: [(&str, &[&str]); 10] = [
            ("", &[]),
            ("_ZN", &[]),
            ("_ZNSt6vector", &[]),
            ("_ZN9", &[]),
            ("_ZN18446744073709551615x", &[]),
            ("_ZN3é", &[]),
            ("_ZN1a17handle_connectionE", &["_ZN1a", "17handle_connection"]),
            ("_ZN1a17h0123456789abcdef1bE", &["_ZN1a", "17h0123456789abcdef", "1b"]),
            ("_RCs", &["_RCs"]),
            ("_RCs_x", &["_RCs_x"]),
        ];
        for (name, expected) in parts {
            assert_eq!(path(name), expected, "{name}");
        }
    }

    #[test]
    fn the_file_names_sections_and_leaves_the_rest_where_it_is() {
        let text = text(&["_ZN4lark5proxy*".to_owned()]);
        assert!(text.contains("  .text.warm :\n  {\n    *(.text._ZN4lark5proxy*)\n  }\n"), "{text}");
        assert!(text.ends_with("INSERT BEFORE .text;\n"), "{text}");
    }
}
