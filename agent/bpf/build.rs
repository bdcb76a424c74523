//! Fails the build when the committed object is not made from the sources beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// The same list as in xtask/src/ebpf.rs.
const SOURCES: [&str; 5] = [
    "ebpf/abi/Cargo.toml",
    "ebpf/abi/src",
    "ebpf/programs/Cargo.toml",
    "ebpf/programs/Cargo.lock",
    "ebpf/programs/src",
];

fn main() -> Result<(), String> {
    check(&PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").map_err(|e| e.to_string())?))
}

/// Whether the object of the package in that directory is made from the sources beside it; tried by a test of
/// xtask's.
pub(crate) fn check(own: &Path) -> Result<(), String> {
    let root = own.join("../..");
    let mut all = BTreeMap::new();
    for source in SOURCES {
        collect(&root, Path::new(source), &mut all)?;
    }
    let mut hasher = Sha256::new();
    for (name, contents) in all {
        hasher.update(name.as_bytes());
        hasher.update([0]);
        hasher.update(Sha256::digest(&contents));
    }
    let found: String = hasher.finalize().iter().map(|b| format!("{b:02x}")).collect();
    let record = own.join("object/lark.bpf.toml");
    let record = std::fs::read_to_string(&record).map_err(|e| format!("{}: {e}", record.display()))?;
    if record.contains(&format!("sources = \"{found}\"")) {
        Ok(())
    } else {
        Err("the eBPF object is stale: its sources have changed since it was built; run `cargo xtask ebpf` and commit what it writes".to_owned())
    }
}

fn collect(root: &Path, relative: &Path, all: &mut BTreeMap<String, Vec<u8>>) -> Result<(), String> {
    let path = root.join(relative);
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    if path.is_file() {
        // Where it changes with line endings or moved files, the hash does too.
        let mut out = String::from("cargo::rerun-if-changed=");
        out.push_str(&path.to_string_lossy());
        emit(&out);
        all.insert(relative.to_string_lossy().into_owned(), std::fs::read(&path).map_err(failed)?);
        return Ok(());
    }
    for entry in std::fs::read_dir(&path).map_err(failed)? {
        collect(root, &relative.join(entry.map_err(failed)?.file_name()), all)?;
    }
    Ok(())
}

fn emit(line: &str) {
    println!("{line}");
}
