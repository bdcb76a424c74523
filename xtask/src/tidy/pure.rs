use super::source::code;
use super::{Finding, Tree};

/// What has a clock, a side effect or chance in it. Values of time (`Duration`, `SystemTime` as an
/// argument) are fine: it is asking for the time that is not.
const IMPURE: [&str; 22] = [
    "Instant",
    "SystemTime::now",
    ".elapsed()",
    "std::env",
    "std::fs",
    "std::io",
    "std::os",
    "std::process",
    "std::thread",
    "std::sync::Mutex",
    "std::sync::mpsc",
    "thread_local!",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "ToSocketAddrs",
    "println!",
    "eprintln!",
    "async fn",
    "tokio::",
    "RandomState",
    "static mut",
];

const PURE: [&str; 2] = ["agent/core/src/", "ebpf/abi/src/"];

/// Pure crates decide and do nothing else.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust().filter(|file| PURE.iter().any(|folder| file.path.starts_with(folder))) {
        for (number, line) in (1..).zip(code(&file.text).lines()) {
            for word in IMPURE.iter().filter(|word| line.contains(**word)) {
                findings
                    .push(file.finding(number, format!("`{word}` in a pure crate: take it as an argument")));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::{places, tree};
    use super::check;

    #[test]
    fn a_clock_or_io_in_a_pure_crate_is_found() {
        let tree = tree([
            ("agent/core/src/pool.rs", "use std::time::Duration;\nlet now = std::time::Instant::now();"),
            ("agent/core/src/route.rs", "// std::fs\nfn f(now: SystemTime) {}\nuse std::fs::File;"),
            ("agent/tunnel/src/lib.rs", "use std::fs::File;"),
        ]);
        assert_eq!(places(&check(&tree)), ["agent/core/src/pool.rs:2", "agent/core/src/route.rs:3"]);
    }
}
