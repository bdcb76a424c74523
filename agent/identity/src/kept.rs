//! Files that must be there after a power cut: whole, with their mode, or not at all.

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Writes a file that appears complete, with its mode, or not at all.
///
/// # Errors
/// When the system does not do it; what was there before is there still.
pub(crate) fn write(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    // One left behind by a crash may have another mode: it is never written into.
    remove(Path::new(&draft))?;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
    file.write_all(contents)?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    sync_directory(path)
}

/// Removes a file, if it is there.
///
/// # Errors
/// When the system does not do it.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_directory(path),
    }
}

/// Makes a directory that its owner alone can look into, and those above it.
///
/// # Errors
/// When the system does not do it.
pub(crate) fn directory(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The names of a directory survive a power cut only so.
fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_draft_left_by_a_crash_does_not_lend_a_key_its_mode() {
        let home = tempfile::tempdir().unwrap();
        let (path, draft) = (home.path().join("key"), home.path().join("key.new"));
        std::fs::write(&draft, "half").unwrap();
        std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o666)).unwrap();
        write(&path, b"whole", 0o600).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!((mode & 0o777, draft.exists()), (0o600, false));
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
    }
}
