//! What a node shows its CA: the credential that it was given, or until then the token that it joins with.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use zeroize::Zeroizing;

use crate::kept;

/// The node's token and the place of its credential. Both are read at each use, so that either may be
/// replaced, and an agent that takes over has what the old one had.
#[derive(Debug, Clone)]
pub struct Credentials {
    token: PathBuf,
    kept: Option<PathBuf>,
    /// One that could not be written to disk.
    unwritten: Arc<Mutex<Option<Zeroizing<String>>>>,
}

/// A secret and where it is from.
pub(crate) struct Shown {
    pub(crate) secret: Zeroizing<String>,
    pub(crate) from: PathBuf,
}

impl Credentials {
    /// A token file that is all there is, as istio-csr wants it.
    pub fn token_only(token: PathBuf) -> Self {
        Self { token, kept: None, unwritten: Arc::default() }
    }

    /// A join token, and the file in which the credential is kept that it is exchanged for.
    pub fn kept_in(token: PathBuf, kept: PathBuf) -> Self {
        Self { token, kept: Some(kept), unwritten: Arc::default() }
    }

    /// The file of the token.
    pub fn token_file(&self) -> &Path {
        &self.token
    }

    /// What to show, the best first: the credential, then the token. Blocks for a file's reading.
    ///
    /// # Errors
    /// When there is neither; with the system's error about the token.
    pub(crate) fn read(&self) -> std::io::Result<Vec<Shown>> {
        let mut all = Vec::new();
        if let Some(kept) = &self.kept {
            let unwritten = self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let written = std::fs::read_to_string(kept).ok().map(Zeroizing::new);
            all.extend(unwritten.or(written).map(|secret| Shown { secret, from: kept.clone() }));
        }
        match std::fs::read_to_string(&self.token) {
            Ok(token) => all.push(Shown { secret: Zeroizing::new(token), from: self.token.clone() }),
            // Nobody needs it once the node has joined.
            Err(_) if !all.is_empty() => {}
            Err(error) => return Err(error),
        }
        Ok(all)
    }

    /// Keeps a credential. What cannot be written is kept in memory.
    ///
    /// # Errors
    /// When it cannot be written: another agent of this node will not have it.
    pub(crate) fn keep(&self, secret: &str) -> std::io::Result<()> {
        let Some(kept) = &self.kept else { return Ok(()) };
        let written = parent(kept).and_then(|()| kept::write(kept, secret.as_bytes(), 0o600));
        let mut unwritten = self.unwritten.lock().unwrap_or_else(PoisonError::into_inner);
        *unwritten = written.is_err().then(|| Zeroizing::new(secret.to_owned()));
        written
    }
}

pub(crate) fn parent(file: &Path) -> std::io::Result<()> {
    file.parent().map_or(Ok(()), kept::directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(credentials: &Credentials) -> Vec<String> {
        credentials.read().unwrap().iter().map(|shown| shown.secret.to_string()).collect()
    }

    #[test]
    fn the_credential_comes_first_and_outlives_the_token_and_a_disk_that_is_full() {
        let home = tempfile::tempdir().unwrap();
        let (token, kept) = (home.path().join("token"), home.path().join("state/credential"));
        let credentials = Credentials::kept_in(token.clone(), kept.clone());
        assert!(credentials.read().is_err());
        std::fs::write(&token, "join").unwrap();
        assert_eq!(secrets(&credentials), ["join"]);
        credentials.keep("one").unwrap();
        assert_eq!(secrets(&credentials), ["one", "join"]);
        std::fs::remove_file(&token).unwrap();
        assert_eq!(secrets(&credentials), ["one"]);
        std::fs::create_dir_all(home.path().join("state/credential.new/x")).unwrap();
        credentials.keep("two").unwrap_err();
        assert_eq!(secrets(&credentials), ["two"]);
        assert_eq!(std::fs::read_to_string(kept).unwrap(), "one");
        assert!(!format!("{credentials:?}").contains("two"), "{credentials:?}");
    }
}
