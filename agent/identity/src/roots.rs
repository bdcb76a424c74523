//! The roots that an agent trusts, from files.
//!
//! The file that an operator gives is where an agent begins. What the controller tells it on its stream
//! later counts more and is kept beside it, so that a restart in the middle of a rotation, or long after
//! one, does not lock it out. If the operator's file changes, that counts again, until the controller
//! says otherwise.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lark_core::rotation::{RootId, SILENT};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::ca::to_pem;
use crate::store::SvidStore;
use crate::svid::{BundleError, TrustBundle};
use crate::{credential, kept, token};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Why there are no roots.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// The operator's file cannot be read.
    #[error("the root certificates {path} cannot be read: {source}; the controller writes them as root.pem")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It holds no usable roots.
    #[error("root certificates {path}: {source}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: BundleError,
    },
    /// What was learned cannot be kept.
    #[error(
        "the roots that the controller tells cannot be kept in {path}: {source}; is --state-dir writable?"
    )]
    Keep {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The operator's file, and the one in which is kept what the controller said.
#[derive(Debug, Clone)]
pub struct RootFiles {
    file: PathBuf,
    learned: Option<PathBuf>,
    taken_up: Arc<Mutex<Option<(TakenUp, Instant)>>>,
}

/// What was taken up of what the controller said: its last change of phase, and the roots that are trusted since.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TakenUp {
    /// Which change of phase.
    pub epoch: u64,
    /// The roots.
    pub roots: Vec<RootId>,
}

/// What the controller said.
#[derive(Debug, Serialize, Deserialize)]
struct Learned {
    /// SHA-256 of the operator's file at that time.
    file_sha256: String,
    /// PEM.
    roots: String,
}

fn fingerprint(file: &str) -> String {
    data_encoding::HEXLOWER.encode(&token::hash(file))
}

impl RootFiles {
    /// A file that is all there is: nobody tells other roots.
    pub fn file_only(file: PathBuf) -> Self {
        Self { file, learned: None, taken_up: Arc::default() }
    }

    /// A file to begin with, and one in which is kept what the controller says.
    pub fn learning(file: PathBuf, learned: PathBuf) -> Self {
        Self { file, learned: Some(learned), taken_up: Arc::default() }
    }

    /// What the controller said is taken up: it is trusted.
    pub fn took_up(&self, taken_up: TakenUp) {
        *self.taken_up.lock().unwrap_or_else(PoisonError::into_inner) = Some((taken_up, Instant::now()));
    }

    /// What was taken up last of what the controller said, since this process began. Without roots if that was so long
    /// ago that the controller takes this node for silent: whoever gets a certificate during a rotation is heard.
    pub fn taken_up(&self) -> Option<TakenUp> {
        let (mut taken_up, at) = self.taken_up.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        if at.elapsed() >= SILENT {
            taken_up.roots.clear();
        }
        Some(taken_up)
    }

    /// The operator's file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The roots to trust now. Blocks for two files' reading.
    ///
    /// # Errors
    /// When the operator's file cannot be read or used.
    pub fn read(&self) -> Result<TrustBundle, RootsError> {
        let path = || self.file.clone();
        let file = std::fs::read_to_string(&self.file)
            .map_err(|source| RootsError::File { path: path(), source })?;
        // What is broken was not written by us, and the operator's file is there.
        if let Some(learned) = self.learned().filter(|learned| learned.file_sha256 == fingerprint(&file))
            && let Ok(bundle) = TrustBundle::from_pem(learned.roots.as_bytes())
        {
            return Ok(bundle);
        }
        TrustBundle::from_pem(file.as_bytes()).map_err(|source| RootsError::Unusable { path: path(), source })
    }

    fn learned(&self) -> Option<Learned> {
        serde_json::from_slice(&std::fs::read(self.learned.as_ref()?).ok()?).ok()
    }

    /// Keeps what the controller says.
    ///
    /// # Errors
    /// When it cannot be written: then it must not be trusted either, for a restart would forget it.
    pub fn learn(&self, roots: &[CertificateDer<'static>]) -> Result<(), RootsError> {
        let Some(path) = &self.learned else { return Ok(()) };
        // What is trusted already needs no writing.
        if self.read().is_ok_and(|now| now.certificates() == roots) {
            return Ok(());
        }
        let failed = |source| RootsError::Keep { path: path.clone(), source };
        let file = std::fs::read_to_string(&self.file)
            .map_err(|source| RootsError::File { path: self.file.clone(), source })?;
        let learned = Learned { file_sha256: fingerprint(&file), roots: roots.iter().map(to_pem).collect() };
        let text = serde_json::to_string_pretty(&learned).map_err(|e| failed(e.into()))?;
        credential::parent(path).map_err(failed)?;
        kept::write(path, text.as_bytes(), 0o644).map_err(failed)
    }

    /// Keeps a store's roots those of the files, for ever. To be dropped at will.
    pub async fn follow(self, store: SvidStore) {
        let mut said = String::new();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            // Nothing may come between reading and setting: the stream sets roots too.
            match self.read() {
                Ok(bundle) if bundle.certificates() != store.bundle().certificates() => {
                    tracing::info!(path = %self.file.display(), roots = bundle.certificates().len(), "root certificates changed");
                    store.set_bundle(bundle);
                    said.clear();
                }
                Ok(_) => said.clear(),
                Err(error) if error.to_string() == said => {}
                Err(error) => {
                    said = error.to_string();
                    tracing::warn!(%error, "root certificates not usable; those from before stay");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use lark_core::identity::TrustDomain;

    use super::*;
    use crate::ca::Ca;

    #[test]
    fn what_was_learned_outlives_a_restart_until_the_operators_file_changes() {
        let home = tempfile::tempdir().unwrap();
        let domain = TrustDomain::new("cluster.local").unwrap();
        let make = || Ca::create(&domain, SystemTime::now()).unwrap().0.chain()[0].clone();
        let (one, two, three) = (make(), make(), make());
        let file = home.path().join("root.pem");
        let files = || RootFiles::learning(file.clone(), home.path().join("state/roots.json"));
        let trusted = || files().read().unwrap().certificates().to_vec();
        assert!(matches!(files().read(), Err(RootsError::File { .. })));
        std::fs::write(&file, to_pem(&one)).unwrap();
        assert_eq!(trusted(), std::slice::from_ref(&one));
        files().learn(&[two.clone(), one.clone()]).unwrap();
        assert_eq!(trusted(), [two.clone(), one.clone()]);
        files().learn(std::slice::from_ref(&two)).unwrap();
        assert_eq!(
            trusted(),
            std::slice::from_ref(&two),
            "the old root is not trusted for being in the file"
        );
        std::fs::write(&file, to_pem(&three)).unwrap();
        assert_eq!(trusted(), [three]);
        std::fs::write(home.path().join("state/roots.json"), "{").unwrap();
        std::fs::write(&file, "nothing").unwrap();
        assert!(matches!(files().read(), Err(RootsError::Unusable { .. })));
        // Without a place to keep it nothing is learned.
        std::fs::create_dir_all(home.path().join("state/roots.json.new/x")).unwrap();
        assert!(matches!(files().learn(&[two]), Err(RootsError::Keep { .. })));
    }
}
