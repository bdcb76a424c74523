//! Where roots and the state of their rotation are kept.
//!
//! `state.json` names the roots; `roots/NAME.pem` has a root's chain and `roots/NAME.key` its key, NAME
//! being the first digits of its hash; `root.pem` has what is trusted, for agents.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lark_core::rotation::{RootId, State};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::keyring::{certificate_name, key_name, keys};
use super::{AuthorityError, Keyring};
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
        self.directory.join("roots").join(certificate_name(root))
    }

    fn key_path(&self, root: RootId) -> PathBuf {
        self.directory.join("roots").join(key_name(root))
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

    /// What a state names, with the keys that are here or given.
    pub(super) fn read(&self, state: State, given: Option<&Arc<Ca>>) -> Result<Keyring, AuthorityError> {
        let mut keyring =
            Keyring { state, cas: BTreeMap::new(), roots: BTreeMap::new(), own: BTreeSet::new() };
        for root in keyring.state.phase.roots() {
            let kept = self.load(root)?;
            if kept.is_some() {
                keyring.own.insert(root);
            }
            match (given.filter(|ca| ca.root_id() == Some(root)), kept) {
                (Some(ca), _) => drop(keyring.cas.insert(root, ca.clone())),
                (None, Some(ca)) => drop(keyring.cas.insert(root, Arc::new(ca))),
                // The key of a root that goes is gone already.
                (None, None) if given.is_some() || keys(&keyring.state).all(|key| key != root) => {}
                (None, None) => return Err(self.missing(root)),
            }
            keyring.roots.insert(root, self.root(root)?);
        }
        Ok(keyring)
    }

    /// Keeps all of it: keys before the state that needs them.
    pub(super) fn save(&self, keyring: &Keyring) -> Result<(), AuthorityError> {
        for (root, ca) in &keyring.cas {
            if keyring.own.contains(root) {
                if !self.key_path(*root).exists() {
                    self.keep(ca)?;
                }
            } else if !self.certificate_path(*root).exists() {
                self.keep_chain(ca, &ca.secrets().0)?;
            }
        }
        self.save_state(&keyring.state)
    }

    fn save_state(&self, state: &State) -> Result<(), AuthorityError> {
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
