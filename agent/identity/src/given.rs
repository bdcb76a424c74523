//! A CA that somebody else keeps in two files: read when it starts, and again when either changes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use crate::ca::{Ca, CaError};
use crate::token::{self, Hash};

/// How often the files are looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The two files.
#[derive(Debug)]
pub struct GivenFiles {
    certificate: PathBuf,
    key: PathBuf,
    /// What was last seen, so that nothing is looked at or told twice.
    seen: Option<Hash>,
}

impl GivenFiles {
    /// Takes the CA from its files.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn open(certificate: &Path, key: &Path) -> Result<(Self, Ca), CaError> {
        let mut files = Self { certificate: certificate.to_owned(), key: key.to_owned(), seen: None };
        files.seen = files.fingerprint();
        let ca = Ca::load(certificate, key)?;
        Ok((files, ca))
    }

    fn fingerprint(&self) -> Option<Hash> {
        let mut both = Zeroizing::new(std::fs::read_to_string(&self.certificate).ok()?);
        let key = Zeroizing::new(std::fs::read_to_string(&self.key).ok()?);
        both.push_str(&key);
        Some(token::hash(&both))
    }

    /// The CA, if the files changed since they were last looked at. A pair of which one half is written is
    /// an error, told once; the next look finds the other half.
    pub fn changed(&mut self) -> Option<Result<Ca, CaError>> {
        let now = self.fingerprint();
        if now == self.seen {
            return None;
        }
        self.seen = now;
        Some(Ca::load(&self.certificate, &self.key))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::SystemTime;

    use lark_core::identity::TrustDomain;

    use super::*;

    #[test]
    fn half_of_a_pair_is_told_once_and_the_whole_is_taken() {
        let home = tempfile::tempdir().unwrap();
        let (certificate, key) = (home.path().join("c.pem"), home.path().join("c.key"));
        let put = |ca: &Ca, with_key: bool| {
            let (chain, secret) = ca.secrets();
            std::fs::write(&certificate, chain).unwrap();
            if with_key {
                std::fs::write(&key, secret.as_bytes()).unwrap();
                std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
            }
        };
        let make = || Ca::create(&TrustDomain::new("d").unwrap(), SystemTime::now()).unwrap().0;
        let (one, two) = (make(), make());
        put(&one, true);
        let (mut files, ca) = GivenFiles::open(&certificate, &key).unwrap();
        assert_eq!(ca.root_id(), one.root_id());
        assert!(files.changed().is_none());
        put(&two, false);
        let error = files.changed().unwrap().unwrap_err().to_string();
        assert!(error.contains("the key is not the certificate's"), "{error}");
        assert!(files.changed().is_none());
        put(&two, true);
        assert_eq!(files.changed().unwrap().unwrap().root_id(), two.root_id());
        std::fs::remove_file(&key).unwrap();
        assert!(matches!(files.changed(), Some(Err(CaError::File { .. }))));
        assert!(files.changed().is_none());
    }
}
