//! The image's files: a tar archive in which nothing depends on when and by whom it was made.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use tar::{Builder, EntryType, Header};

/// Where the binary is in the image.
pub(super) const BINARY: &str = "/usr/bin/lark";

/// Directories over which something is mounted, since the root is read-only.
const MOUNTED: [&str; 5] = ["etc/lark/", "proc/", "run/lark/", "sys/", "var/lib/lark/"];

/// The layer of a binary: it and the libraries that it loads, where it looks for them.
///
/// # Errors
/// When a file cannot be read, or a library is not found.
pub(super) fn of(binary: &Path) -> anyhow::Result<Vec<u8>> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("{} cannot be read", path.display()));
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    files.insert(inside(Path::new(BINARY)), read(binary)?);
    for library in libraries(binary)? {
        files.insert(inside(&library), read(&library)?);
    }
    // Without it the C library asks no name server.
    files.insert("etc/nsswitch.conf".to_owned(), b"hosts: files dns\n".to_vec());
    archive(&files)
}

fn inside(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches('/').to_owned()
}

fn archive(files: &BTreeMap<String, Vec<u8>>) -> anyhow::Result<Vec<u8>> {
    let mut directories: BTreeSet<String> = MOUNTED.iter().flat_map(|path| above(path)).collect();
    directories.extend(files.keys().flat_map(|path| above(path)));
    let mut archive = Builder::new(Vec::new());
    for directory in &directories {
        append(&mut archive, directory, EntryType::Directory, &[])?;
    }
    for (path, content) in files {
        append(&mut archive, path, EntryType::Regular, content)?;
    }
    Ok(archive.into_inner()?)
}

/// The directories above a path, each with its slash.
fn above(path: &str) -> Vec<String> {
    path.match_indices('/').filter_map(|(at, _)| path.get(..=at)).map(str::to_owned).collect()
}

fn append(archive: &mut Builder<Vec<u8>>, path: &str, kind: EntryType, content: &[u8]) -> anyhow::Result<()> {
    let mut header = Header::new_ustar();
    header.set_path(path).with_context(|| format!("{path} is too long for a tar archive"))?;
    header.set_entry_type(kind);
    // All that is not a text is a program or a library.
    header.set_mode(if path.ends_with(".conf") { 0o644 } else { 0o755 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(u64::try_from(content.len())?);
    header.set_cksum();
    archive.append(&header, content)?;
    Ok(())
}

/// The shared libraries of a binary, the loader among them, as ldd finds them.
fn libraries(binary: &Path) -> anyhow::Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd").arg(binary).output().context("ldd cannot be run")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let is_static = text.contains("statically linked") || text.contains("not a dynamic executable");
    ensure!(output.status.success() || is_static, "ldd cannot read {}", binary.display());
    parse(&text)
}

fn parse(text: &str) -> anyhow::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for line in text.lines().map(str::trim) {
        ensure!(!line.ends_with("not found"), "a library is missing on this machine: {line}");
        let target = line.split_once("=> ").map_or(line, |(_, target)| target);
        // `linux-vdso` is the kernel's and has no path.
        if target.starts_with('/') {
            found.extend(target.split_ascii_whitespace().next().map(PathBuf::from));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_what_ldd_says() {
        let text = "\tlinux-vdso.so.1 (0x00007ffc)\n\
                    \tlibgcc_s.so.1 => /lib/x86_64-linux-gnu/libgcc_s.so.1 (0x00007f)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib/x86_64-linux-gnu/libgcc_s.so.1",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(parse(text).unwrap(), expected.map(PathBuf::from).into());
        assert_eq!(parse("\tstatically linked\n").unwrap(), BTreeSet::new());
        let missing = parse("\tlibx.so => not found\n").unwrap_err().to_string();
        assert!(missing.contains("libx.so"), "{missing}");
    }

    #[test]
    fn an_archive_has_every_directory_before_what_is_in_it_and_no_time_of_its_making() {
        let files = BTreeMap::from([("usr/bin/lark".to_owned(), vec![1, 2, 3])]);
        let bytes = archive(&files).unwrap();
        let mut read = tar::Archive::new(bytes.as_slice());
        let mut seen = BTreeSet::new();
        for entry in read.entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.mtime().unwrap(), header.uid().unwrap(), header.gid().unwrap()), (0, 0, 0));
            let path = entry.path().unwrap().to_string_lossy().into_owned();
            let parent = path.trim_end_matches('/').rsplit_once('/').map(|(parent, _)| format!("{parent}/"));
            assert!(parent.is_none_or(|parent| seen.contains(&parent)), "{path}");
            seen.insert(path);
        }
        assert!(seen.contains("usr/bin/lark") && seen.contains("run/lark/"));
    }
}
