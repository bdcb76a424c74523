use super::source::{code, has_word};
use super::{File, Finding, Tree};

/// Where unsafe code may be.
const PLACES: [&str; 5] =
    ["agent/bpf/src/", "agent/sys/src/", "ebpf/", "tests/kernel/", "tests/testbed/src/"];

/// Unsafe code stands in few places and says why it is sound; crates without forbid it.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust() {
        let allowed = PLACES.iter().any(|place| file.path.starts_with(place));
        for number in unsafe_lines(&file.text) {
            if !allowed {
                findings.push(file.finding(number, "unsafe code is not expected here"));
            } else if !has_reason(&file.text, number) {
                findings.push(file.finding(number, "no `SAFETY:` comment above this unsafe code"));
            }
        }
        if !allowed && is_agent_crate(file) && !file.text.contains("#![forbid(unsafe_code)]") {
            findings.push(file.finding(0, "lacks #![forbid(unsafe_code)]"));
        }
    }
    findings
}

fn is_agent_crate(file: &File) -> bool {
    file.path.starts_with("agent/") && file.path.ends_with("src/lib.rs")
}

/// Lines with an unsafe block or implementation. Unsafe functions state a contract instead, and
/// unsafe attributes name a symbol.
fn unsafe_lines(text: &str) -> Vec<usize> {
    let code = code(text);
    (1..)
        .zip(code.lines())
        .filter(|(_, line)| {
            has_word(line, "unsafe")
                && !line.contains("unsafe fn")
                && !line.contains("unsafe extern")
                && !line.contains("unsafe(")
        })
        .map(|(number, _)| number)
        .collect()
}

/// Looks above, over the rest of a statement that begins on earlier lines.
fn has_reason(text: &str, number: usize) -> bool {
    let lines: Vec<&str> = text.lines().take(number).collect();
    lines.iter().rev().take(12).any(|line| line.contains("SAFETY:"))
}

#[cfg(test)]
mod tests {
    use super::super::{places, tree};
    use super::check;

    #[test]
    fn unsafe_code_elsewhere_or_without_reason_is_found() {
        let tree = tree([
            ("agent/core/src/lib.rs", "#![forbid(unsafe_code)]\nfn f() { unsafe { g() } }"),
            ("agent/tunnel/src/lib.rs", "fn f() {}"),
            ("ebpf/programs/src/maps.rs", "fn f() {\n    unsafe { g() }\n}"),
        ]);
        assert_eq!(
            places(&check(&tree)),
            ["agent/core/src/lib.rs:2", "agent/tunnel/src/lib.rs:0", "ebpf/programs/src/maps.rs:2"]
        );
    }

    #[test]
    fn unsafe_code_with_its_reason_passes() {
        let text =
            "fn f() {\n    // SAFETY: g has no precondition.\n    unsafe { g() }\n}\n#[unsafe(no_mangle)]";
        assert_eq!(check(&tree([("agent/sys/src/netns.rs", text)])), []);
    }
}
