//! Where roots and the state of their rotation are kept.
//!
//! `state.json` names the roots; `roots/NAME.pem` has a root's chain and `roots/NAME.key` its key, NAME
//! being the first digits of its hash; `root.pem` has what is trusted, for agents.

use std::path::{Path, PathBuf};

use lark_core::rotation::{Phase, RootId, State};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::AuthorityError;
use crate::ca::Ca;
use crate::kept;
use crate::svid::root_id;

#[derive(Debug)]
pub(super) struct Disk {
    directory: PathBuf,
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> AuthorityError {
    let path = path.to_owned();
    |source| AuthorityError::File { path, source }
}

/// The roots whose keys a state needs.
pub(super) fn keys(state: &State) -> impl Iterator<Item = RootId> + use<> {
    let goes = match state.phase {
        Phase::Retire { goes, .. } => Some(goes),
        _ => None,
    };
    state.phase.roots().into_iter().filter(move |root| Some(*root) != goes)
}

impl Disk {
    pub(super) fn at(directory: &Path) -> Result<Self, AuthorityError> {
        let disk = Self { directory: directory.to_owned() };
        let roots = directory.join("roots");
        std::fs::create_dir_all(directory).map_err(failed(directory))?;
        kept::directory(&roots).map_err(failed(&roots))?;
        Ok(disk)
    }

    fn state_path(&self) -> PathBuf {
        self.directory.join("state.json")
    }

    pub(super) fn published(&self) -> PathBuf {
        self.directory.join("root.pem")
    }

    fn certificate_path(&self, root: RootId) -> PathBuf {
        self.directory.join("roots").join(format!("{}.pem", root.short()))
    }

    fn key_path(&self, root: RootId) -> PathBuf {
        self.directory.join("roots").join(format!("{}.key", root.short()))
    }

    pub(super) fn state(&self) -> Result<Option<State>, AuthorityError> {
        let path = self.state_path();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return self.none(),
            Err(error) => return Err(failed(&path)(error)),
        };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|error| AuthorityError::State { path, what: error.to_string() })
    }

    /// No state: no root may be there either, or one was lost. A key without a state is what is left of a
    /// first start that was cut off: nobody ever trusted its root, since it was not published.
    fn none(&self) -> Result<Option<State>, AuthorityError> {
        let published = self.published();
        match published.exists() {
            true => Err(AuthorityError::State {
                path: self.state_path(),
                what: format!("it is missing while {} is there", published.display()),
            }),
            false => Ok(None),
        }
    }

    pub(super) fn save(&self, state: &State) -> Result<(), AuthorityError> {
        let path = self.state_path();
        let text = serde_json::to_string_pretty(state)
            .map_err(|error| AuthorityError::State { path: path.clone(), what: error.to_string() })?;
        kept::write(&path, text.as_bytes(), 0o644).map_err(failed(&path))
    }

    /// Keeps a CA with its key.
    pub(super) fn keep(&self, ca: &Ca) -> Result<(), AuthorityError> {
        let key = self.key_path(super::id_of(ca)?);
        let (chain, secret) = ca.secrets();
        kept::write(&key, secret.as_bytes(), 0o600).map_err(failed(&key))?;
        self.keep_chain(ca, &chain)
    }

    /// Keeps a CA without its key.
    pub(super) fn keep_root(&self, ca: &Ca) -> Result<(), AuthorityError> {
        self.keep_chain(ca, &ca.secrets().0)
    }

    fn keep_chain(&self, ca: &Ca, chain: &str) -> Result<(), AuthorityError> {
        let path = self.certificate_path(super::id_of(ca)?);
        kept::write(&path, chain.as_bytes(), 0o644).map_err(failed(&path))
    }

    /// A root's CA, if its key is here.
    pub(super) fn load(&self, root: RootId) -> Result<Option<Ca>, AuthorityError> {
        let key = self.key_path(root);
        if !key.exists() {
            return Ok(None);
        }
        Ok(Some(Ca::load(&self.certificate_path(root), &key)?))
    }

    pub(super) fn missing(&self, root: RootId) -> AuthorityError {
        AuthorityError::Missing { path: self.key_path(root), state: self.state_path(), root }
    }

    /// A root's certificate.
    pub(super) fn root(&self, root: RootId) -> Result<CertificateDer<'static>, AuthorityError> {
        let path = self.certificate_path(root);
        let missing = || AuthorityError::Missing { path: path.clone(), state: self.state_path(), root };
        let pem = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(missing()),
            read => read.map_err(failed(&path))?,
        };
        let last = CertificateDer::pem_slice_iter(&pem).last().and_then(Result::ok);
        last.filter(|certificate| root_id(certificate) == root).ok_or_else(missing)
    }

    /// Writes what is trusted for agents, if it is not there.
    pub(super) fn publish(&self, pem: &str) -> Result<(), AuthorityError> {
        let path = self.published();
        if std::fs::read_to_string(&path).is_ok_and(|now| now == pem) {
            return Ok(());
        }
        kept::write(&path, pem.as_bytes(), 0o644).map_err(failed(&path))
    }

    /// Removes keys and roots that the state does not name.
    pub(super) fn sweep(&self, state: &State) -> Result<(), AuthorityError> {
        let mut needed: Vec<PathBuf> = keys(state).map(|root| self.key_path(root)).collect();
        needed.extend(state.phase.roots().into_iter().map(|root| self.certificate_path(root)));
        let roots = self.directory.join("roots");
        for entry in std::fs::read_dir(&roots).map_err(failed(&roots))? {
            let path = entry.map_err(failed(&roots))?.path();
            if !needed.contains(&path) {
                kept::remove(&path).map_err(failed(&path))?;
            }
        }
        Ok(())
    }
}
