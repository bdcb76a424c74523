//! `cargo xtask layout`: writes agent/layout.ld, by which the linker puts next to each other what an agent runs while
//! connections come, move bytes and go: a small part of its code, of which the linker by itself leaves nearly every function
//! in a page of its own (docs/performance.md has the figures).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::bench;
use crate::install::{self, say};
use crate::test::{self, metadata, target_directory};

/// What callgrind has written.
mod profile;
/// Which names are worth a line, and the lines.
mod script;

use script::Symbol;

/// Runs the task. The file serves every later build: it has names of modules and functions, not addresses. Once in a
/// while is enough, after much has moved and before a release.
///
/// # Errors
/// When the release does not build, a load does not run under callgrind, or the file cannot be written.
pub(crate) fn run() -> Result<()> {
    test::able()?;
    install::debian(install::BENCH.iter().chain(&install::PROFILE))?;
    let lark = test::lark(true)?;
    let directory = target_directory()?.join("layout");
    if directory.exists() {
        fs::remove_dir_all(&directory)
            .with_context(|| format!("{} cannot be replaced", directory.display()))?;
    }
    fs::create_dir_all(&directory).with_context(|| format!("{} cannot be made", directory.display()))?;
    let profiles = bench::profiled(&under_callgrind(&lark, &directory)?, &directory)?;

    let mut executed = BTreeSet::new();
    for file in &profiles {
        let text = fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
        executed.extend(profile::executed(&String::from_utf8_lossy(&text)));
    }
    let symbols = symbols(&lark)?;
    let warm = script::warm(&symbols, &executed);
    ensure!(!warm.lines.is_empty(), "of what was executed nothing is a symbol of {}", lark.display());
    let file = metadata()?.workspace_root.join("agent/layout.ld");
    fs::write(&file, script::text(&warm.lines))
        .with_context(|| format!("{} cannot be written", file.display()))?;
    say(&format!(
        "{}: {} lines for {} KiB, in which are {} of the {} KiB that were executed",
        file.display(),
        warm.lines.len(),
        warm.bytes >> 10,
        warm.executed_there >> 10,
        warm.executed >> 10,
    ));
    Ok(())
}

/// A program that runs agents under callgrind, which is told when to look, and everything else as it is.
fn under_callgrind(lark: &Path, directory: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let (program, out) = (directory.join("lark"), directory.join(bench::PROFILES));
    let (lark, out, log) = (lark.display(), out.display(), directory.join("valgrind").display().to_string());
    ensure!(
        !format!("{lark}{log}").contains(['\'', '%']),
        "the target directory has a quote or a percent sign in its name, which callgrind takes for something else: {log}"
    );
    let script = format!(
        "#!/bin/sh\n\
        [ \"$1\" = agent ] || exec '{lark}' \"$@\"\n\
        exec valgrind --tool=callgrind --demangle=no --instr-atstart=no --log-file='{log}.%p' \
        --callgrind-out-file='{out}.%p' '{lark}' \"$@\"\n",
    );
    fs::write(&program, script)
        .and_then(|()| fs::set_permissions(&program, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("{} cannot be written", program.display()))?;
    Ok(program)
}

/// The functions of a program with their sizes, by nm(1).
fn symbols(program: &Path) -> Result<Vec<Symbol>> {
    let output = Command::new("nm").args(["--print-size", "--defined-only"]).arg(program).output()?;
    ensure!(output.status.success(), "nm: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(script::symbol).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program with two functions that are named as Rust names them, linked by that file; its symbols by objdump(1).
    fn linked(file: &Path, flags: &[String]) -> String {
        let directory = tempfile::tempdir().unwrap();
        let (source, program) = (directory.path().join("two.c"), directory.path().join("two"));
        let functions =
            "void _ZN1a4warm17h0123456789abcdefE(void) {}\nvoid _ZN1a4cold17h0123456789abcdefE(void) {}\n";
        fs::write(&source, format!("{functions}int main(void) {{ return 0; }}\n")).unwrap();
        let mut cc = Command::new("cc");
        cc.args(flags).arg("-ffunction-sections").arg(format!("-T{}", file.display()));
        let output = cc.arg("-o").arg(&program).arg(&source).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(Command::new(&program).status().unwrap().success());
        let output = Command::new("objdump").arg("--syms").arg(&program).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Where a symbol lies.
    fn section<'a>(symbols: &'a str, name: &str) -> Option<&'a str> {
        let fields = |line: &'a str| line.split_ascii_whitespace().collect::<Vec<_>>();
        let line = symbols.lines().map(fields).find(|fields| fields.last() == Some(&name))?;
        line.into_iter().find(|field| field.starts_with('.'))
    }

    /// The system's linker, and the one that rustc brings along, its own choice on x86-64.
    fn linkers() -> [Vec<String>; 2] {
        let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().unwrap();
        let sysroot = String::from_utf8(sysroot.stdout).unwrap();
        let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let brought = format!("-B{}/lib/rustlib/{host}/bin/gcc-ld", sysroot.trim());
        [Vec::new(), vec![brought, "-fuse-ld=lld".to_owned()]]
    }

    /// What a line of the file names.
    fn pattern(line: &str) -> Option<&str> {
        line.trim().strip_prefix("*(.text.")?.strip_suffix(')')
    }

    #[test]
    fn linkers_put_what_a_file_names_into_a_part_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("layout.ld");
        fs::write(&file, script::text(&["_ZN1a4warm*".to_owned()])).unwrap();
        for flags in linkers() {
            let symbols = linked(&file, &flags);
            let of = |name| section(&symbols, name);
            assert_eq!(of("_ZN1a4warm17h0123456789abcdefE"), Some(".text.warm"), "{flags:?}");
            assert_eq!(of("_ZN1a4cold17h0123456789abcdefE"), Some(".text"), "{flags:?}");
            assert_eq!(of("main"), Some(".text"), "{flags:?}");
        }
    }

    #[test]
    fn linkers_take_the_committed_file_which_is_as_it_was_written() {
        let file = metadata().unwrap().workspace_root.join("agent/layout.ld");
        for flags in linkers() {
            assert_eq!(section(&linked(&file, &flags), "main"), Some(".text"), "{flags:?}");
        }
        let text = fs::read_to_string(file).unwrap();
        let names: Vec<String> = text.lines().filter_map(pattern).map(str::to_owned).collect();
        assert_eq!(text, script::text(&names));
        assert!(
            names.iter().any(|name| name.starts_with("_ZN11lark_tunnel")),
            "the tunnel is what runs most"
        );
    }
    /// Whether a name is what a pattern with stars stands for.
    fn is_named(name: &str, pattern: &str) -> bool {
        let (start, rest) = pattern.split_once('*').unwrap_or((pattern, ""));
        let Some(mut left) = name.strip_prefix(start) else { return false };
        rest.split('*').all(|part| match left.split_once(part) {
            Some((_, after)) => {
                left = after;
                true
            }
            None => false,
        })
    }

    #[test]
    fn most_of_what_the_committed_file_names_is_in_a_binary() {
        let lark = lark_testbed::lark_binary().unwrap();
        let names: Vec<String> = symbols(&lark).unwrap().into_iter().map(|symbol| symbol.name).collect();
        let text = fs::read_to_string(metadata().unwrap().workspace_root.join("agent/layout.ld")).unwrap();
        let patterns: Vec<&str> = text.lines().filter_map(pattern).collect();
        let is_there = |pattern: &&&str| names.iter().any(|name| is_named(name, pattern));
        let found = patterns.iter().filter(is_there).count();
        // Some are only in releases, where more is inlined into fewer.
        assert!(
            found * 4 >= patterns.len() * 3,
            "of {} names in agent/layout.ld {} has {found}: `cargo xtask layout` writes it anew",
            patterns.len(),
            lark.display()
        );
    }
}
