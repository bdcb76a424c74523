use super::source::code;
use super::{Finding, Tree};

const FOLDER: &str = "ebpf/programs/src/";

/// Attributes of aya-ebpf that make a function a program.
const PROGRAMS: [&str; 9] = [
    "#[cgroup_skb",
    "#[cgroup_sock(",
    "#[cgroup_sock]",
    "#[cgroup_sock_addr",
    "#[cgroup_sockopt",
    "#[classifier",
    "#[kprobe",
    "#[sk_lookup",
    "#[sock_ops",
];

/// One program a file, maps in maps.rs, and no program in a file that others share.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust() {
        let Some(name) = file.path.strip_prefix(FOLDER) else { continue };
        let code = code(&file.text);
        let mut programs = 0;
        for (number, line) in (1..).zip(code.lines().map(str::trim_start)) {
            if PROGRAMS.iter().any(|attribute| line.starts_with(attribute)) {
                programs += 1;
                if programs == 2 {
                    findings.push(file.finding(number, "a second program: one a file"));
                }
            }
            if line.starts_with("#[map") && name != "maps.rs" {
                findings.push(file.finding(number, "a map outside maps.rs"));
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
    fn second_programs_and_scattered_maps_are_found() {
        let tree = tree([
            (
                "ebpf/programs/src/connect4.rs",
                "#[cgroup_sock_addr(connect4)]\nfn a() {}\n#[sock_ops]\nfn b() {}",
            ),
            ("ebpf/programs/src/name.rs", "#[map]\nstatic FLOWS: u8 = 0;"),
            ("ebpf/programs/src/maps.rs", "#[map]\nstatic POD: u8 = 0;"),
        ]);
        assert_eq!(places(&check(&tree)), ["ebpf/programs/src/connect4.rs:3", "ebpf/programs/src/name.rs:1"]);
    }
}
