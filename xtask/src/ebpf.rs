//! `cargo xtask ebpf`: builds the object that is committed, so that users need plain stable Rust only.
//!
//! The same sources and compiler give the same bytes on every machine: the build happens at a fixed
//! path, because paths of packages are part of what rustc hashes.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

/// The last bpf-linker that brings LLVM along with the Rust toolchain.
const LINKER: &str = "0.10.3";
/// Where the sources are copied to; see the module.
const BUILD: &str = "/tmp/lark-ebpf-build";
const OBJECT: &str = "agent/bpf/object/lark.bpf.o";
const RECORD: &str = "agent/bpf/object/lark.bpf.toml";
/// What the object is made from; agent/bpf/build.rs has the same list.
const SOURCES: [&str; 5] = [
    "ebpf/abi/Cargo.toml",
    "ebpf/abi/src",
    "ebpf/programs/Cargo.toml",
    "ebpf/programs/Cargo.lock",
    "ebpf/programs/src",
];

/// Builds the object; with `check`, only compares it with the committed one.
pub(crate) fn run(check: bool) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has no parent")?;
    install()?;
    let sources = hash(root, &SOURCES)?;
    let compiler = version("/usr/bin/rustc")?;
    let recorded = fs::read_to_string(root.join(RECORD)).unwrap_or_default();
    if check {
        ensure!(
            recorded.contains(&format!("compiler = \"{compiler}\"")),
            "this machine's compiler is {compiler}, the committed object was made by another ({RECORD}); run `cargo xtask ebpf` and commit what it writes"
        );
    }
    let object = build(root)?;
    let hash = hex(&Sha256::digest(&object));
    let record = format!(
        "# Written by `cargo xtask ebpf`; agent/bpf/build.rs fails the build when the sources have changed since.\n\
         sources = \"{sources}\"\nobject = \"{hash}\"\ncompiler = \"{compiler}\"\nlinker = \"bpf-linker {LINKER}\"\n"
    );
    let committed = fs::read(root.join(OBJECT)).unwrap_or_default();
    if check {
        ensure!(
            recorded == record,
            "{RECORD} is not current; run `cargo xtask ebpf` and commit what it writes"
        );
        ensure!(
            committed == object,
            "{OBJECT} is not what its sources give; run `cargo xtask ebpf` and commit what it writes"
        );
        say("the committed object is what its sources give");
        return Ok(());
    }
    fs::create_dir_all(root.join(OBJECT).parent().context("the object has no directory")?)?;
    fs::write(root.join(OBJECT), &object)?;
    fs::write(root.join(RECORD), record)?;
    say(&format!("{OBJECT}: {} bytes, sha256 {hash}", object.len()));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "what a task did is for whoever called it")]
fn say(what: &str) {
    println!("ebpf: {what}");
}

fn linker_home() -> PathBuf {
    let base = env::var_os("CARGO_HOME")
        .map_or_else(|| PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cargo"), PathBuf::from);
    base.join(format!("lark-bpf-linker-{LINKER}"))
}

/// A compiler with its own sources, and the linker.
fn install() -> Result<()> {
    let sources = Path::new("/usr/bin/rustc").exists()
        && version("/usr/bin/rustc").is_ok()
        && Command::new("/usr/bin/rustc").args(["--print", "sysroot"]).output().is_ok_and(|o| {
            let sysroot = String::from_utf8_lossy(&o.stdout).trim().to_owned();
            Path::new(&sysroot).join("lib/rustlib/src/rust/library/core/Cargo.toml").exists()
        });
    if !sources || !Path::new("/usr/bin/cargo").exists() {
        say("installing Debian's rustc-web, cargo-web and rust-web-src: core is built for BPF from source");
        command(Command::new("apt-get").args(["-qq", "update"]))?;
        command(Command::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args([
            "-qq",
            "install",
            "--yes",
            "--no-install-recommends",
            "rustc-web",
            "cargo-web",
            "rust-web-src",
        ]))?;
    }
    if !linker_home().join("bin/bpf-linker").exists() {
        say(&format!("installing bpf-linker {LINKER}, which takes a minute or two"));
        command(
            Command::new("cargo")
                .args(["install", "--quiet", "--locked", "--version", LINKER, "bpf-linker", "--root"])
                .arg(linker_home())
                // Not the flags of whoever calls this.
                .env_remove("RUSTFLAGS")
                .env_remove("CARGO_ENCODED_RUSTFLAGS"),
        )?;
    }
    Ok(())
}

fn version(rustc: &str) -> Result<String> {
    let output = Command::new(rustc)
        .arg("--version")
        .output()
        .with_context(|| format!("{rustc} cannot be started"))?;
    ensure!(output.status.success(), "{rustc} --version failed");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// A directory with the compiler's own LLVM and nothing else: bpf-linker loads the first libLLVM of
/// `LD_LIBRARY_PATH`, in the order in which the directory lists them, and one that is older than the
/// compiler's cannot read what it wrote.
fn llvm() -> Result<PathBuf> {
    let linked = Command::new("ldd").arg("/usr/bin/rustc").output().context("ldd cannot be started")?;
    ensure!(
        linked.status.success(),
        "ldd /usr/bin/rustc failed: {}",
        String::from_utf8_lossy(&linked.stderr)
    );
    let library = llvm_of(&String::from_utf8(linked.stdout)?)
        .context("/usr/bin/rustc links no libLLVM: it is not Debian's rustc-web, which is what is needed")?;
    let place = Path::new(BUILD).join("llvm");
    let _ = fs::remove_dir_all(&place);
    fs::create_dir_all(&place)?;
    symlink(&library, place.join(library.file_name().context("libLLVM without a name")?))?;
    Ok(place)
}

/// The libLLVM among what ldd says of a program (lines of `name => path (address)`).
fn llvm_of(ldd: &str) -> Option<PathBuf> {
    ldd.lines().find_map(|line| {
        let (name, rest) = line.trim().split_once(" => ")?;
        name.starts_with("libLLVM")
            .then(|| PathBuf::from(rest.split_once(" (").map_or(rest, |(path, _)| path)))
    })
}

fn build(root: &Path) -> Result<Vec<u8>> {
    let place = Path::new(BUILD);
    // Sources only: what was compiled before is used again.
    let _ = fs::remove_dir_all(place.join("ebpf"));
    for source in SOURCES {
        for file in files(&root.join(source))? {
            let relative = file.strip_prefix(root)?;
            let to = place.join(relative);
            fs::create_dir_all(to.parent().context("a source without a directory")?)?;
            fs::copy(&file, to)?;
        }
    }
    fs::write(place.join("Cargo.toml"), workspace(&fs::read_to_string(root.join("Cargo.toml"))?)?)?;
    let cargo_home =
        env::var("CARGO_HOME").unwrap_or_else(|_| format!("{}/.cargo", env::var("HOME").unwrap_or_default()));
    let flags = [
        "-C".to_owned(),
        "linker=bpf-linker".to_owned(),
        "-C".to_owned(),
        "link-arg=--btf".to_owned(),
        "-C".to_owned(),
        "debuginfo=2".to_owned(),
        format!("--remap-path-prefix={BUILD}=/lark"),
        format!("--remap-path-prefix={cargo_home}=/cargo"),
        "--cfg=bpf_target_arch=\"x86_64\"".to_owned(),
    ];
    let path = format!("{}:{}", linker_home().join("bin").display(), env::var("PATH").unwrap_or_default());
    command(
        Command::new("/usr/bin/cargo")
            .args([
                "build",
                "--quiet",
                "--release",
                "--locked",
                "-Z",
                "build-std=core",
                "--target",
                "bpfel-unknown-none",
            ])
            .current_dir(place.join("ebpf/programs"))
            .env("PATH", path)
            .env("RUSTC", "/usr/bin/rustc")
            // Stable's features for BPF are unstable ones; users never build this.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("LD_LIBRARY_PATH", llvm()?)
            .env("CARGO_TARGET_DIR", place.join("target"))
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
            .env_remove("CARGO")
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("RUSTFLAGS"),
    )?;
    Ok(fs::read(place.join("target/bpfel-unknown-none/release/lark-ebpf"))?)
}

/// The root manifest with the shared types as its only member.
fn workspace(manifest: &str) -> Result<String> {
    let (before, rest) = manifest.split_once("members = [").context("the root manifest lists no members")?;
    let (_, after) = rest.split_once(']').context("the list of members has no end")?;
    Ok(format!("{before}members = [\"ebpf/abi\"]{after}"))
}

/// All files of a directory and of those below it, or the file itself.
pub(crate) fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut all = Vec::new();
    for entry in fs::read_dir(path).with_context(|| format!("{} cannot be read", path.display()))? {
        all.extend(files(&entry?.path())?);
    }
    Ok(all)
}

/// SHA-256 over names and contents of sources, files and directories, in the order of their names.
pub(crate) fn hash(root: &Path, sources: &[&str]) -> Result<String> {
    let mut all = BTreeMap::new();
    for source in sources {
        for file in files(&root.join(source))? {
            let name = file.strip_prefix(root)?.to_string_lossy().into_owned();
            all.insert(name, fs::read(&file)?);
        }
    }
    let mut hasher = Sha256::new();
    for (name, contents) in all {
        hasher.update(name.as_bytes());
        hasher.update([0]);
        hasher.update(Sha256::digest(&contents));
    }
    Ok(hex(&hasher.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn command(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?} cannot be started"))?;
    if !status.success() {
        bail!("{command:?} failed with {status}");
    }
    Ok(())
}

/// What fails the build of lark-bpf.
#[cfg(test)]
#[path = "../../agent/bpf/build.rs"]
#[expect(dead_code, reason = "its main is for cargo")]
mod guard;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_is_the_one_that_the_compiler_links() {
        let ldd = "\tlinux-vdso.so.1 (0x00007f6fe22ac000)\n\
                   \tlibrustc_driver-ea0e.so => /lib/x/librustc_driver-ea0e.so (0x00007f6fdc800000)\n\
                   \tlibLLVM.so.22.1 => /lib/x/libLLVM.so.22.1 (0x00007f6fd3600000)\n";
        assert_eq!(llvm_of(ldd), Some(PathBuf::from("/lib/x/libLLVM.so.22.1")));
        assert_eq!(llvm_of("\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f6fdc61e000)\n"), None);
    }

    #[test]
    fn a_build_with_a_stale_object_fails_and_says_what_to_do() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let copy = tempfile::tempdir().unwrap();
        for source in SOURCES.into_iter().chain([RECORD]) {
            for file in files(&root.join(source)).unwrap() {
                let to = copy.path().join(file.strip_prefix(root).unwrap());
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                fs::copy(&file, to).unwrap();
            }
        }
        let package = copy.path().join("agent/bpf");
        assert_eq!(guard::check(&package), Ok(()));
        for source in ["ebpf/programs/src/connect.rs", "ebpf/abi/src/verdict.rs", "ebpf/programs/Cargo.lock"]
        {
            let file = copy.path().join(source);
            let before = fs::read_to_string(&file).unwrap();
            fs::write(&file, before.clone() + "\n").unwrap();
            let stale = guard::check(&package).unwrap_err();
            assert!(stale.contains("stale") && stale.contains("run `cargo xtask ebpf`"), "{source}: {stale}");
            fs::write(&file, before).unwrap();
        }
        fs::write(copy.path().join("ebpf/abi/src/new.rs"), "").unwrap();
        assert!(guard::check(&package).is_err(), "a new file");
    }
}
