//! The roots of a mesh with their keys, on disk and in memory, while one takes the place of another.
//!
//! What is to be done follows from the state alone ([`lark_core::rotation`]), and the state is on disk
//! before anything follows from it: a controller that was killed goes on where it was. Keys come before
//! the state that needs them and go after the one that does not.

mod disk;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use lark_core::identity::TrustDomain;
use lark_core::rotation::{NodeFacts, Phase, RootId, RotationRefused, State, Step, step};
use rustls::pki_types::CertificateDer;

use crate::ca::{Ca, CaError, SignError, to_pem};
use disk::Disk;

/// Why the roots cannot be used or changed.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A CA's files are wrong.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The state is none.
    #[error(
        "{path} is not the state of a CA ({what}): restore it from a backup; without it nobody knows which root is trusted"
    )]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A root's file is gone.
    #[error(
        "{path} is missing while {state} names root {}: restore it from a backup; to begin with a new CA remove the directory, and bring the new root to every agent", .root.short()
    )]
    Missing {
        /// What is gone.
        path: PathBuf,
        /// The file that names it.
        state: PathBuf,
        /// Which root.
        root: RootId,
    },
    /// There is a CA already.
    #[error("{path} has a CA already, with root {}; it is left as it is", .root.short())]
    Exists {
        /// The directory.
        path: PathBuf,
        /// Its root.
        root: RootId,
    },
    /// The roots are somebody else's.
    #[error(
        "the CA is given by --ca-cert and --ca-key: replace these two files, and the rotation begins by itself"
    )]
    Given,
    /// It makes no sense now.
    #[error(transparent)]
    Refused(#[from] RotationRefused),
}

/// What came of a CA that was given anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// It is the one in use.
    Same,
    /// It hangs from the same root and issues from now on.
    Swapped,
    /// It hangs from another root: a rotation to it has begun.
    Begun,
    /// It hangs from another root, and a rotation is under way: its turn comes when that has ended.
    Waits,
}

/// What nodes are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// Which change of phase it belongs to.
    pub epoch: u64,
    /// Roots to trust.
    pub roots: Vec<CertificateDer<'static>>,
    /// The root from which certificates are to hang.
    pub issuer: RootId,
}

/// The roots of a mesh.
#[derive(Debug)]
pub struct Authority {
    disk: Disk,
    /// Whether the CA comes from files of somebody else's.
    given: bool,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    /// Those whose keys are here.
    cas: BTreeMap<RootId, Arc<Ca>>,
    roots: BTreeMap<RootId, CertificateDer<'static>>,
    /// A CA of another root that was given while a rotation was under way.
    waiting: Option<Arc<Ca>>,
}

/// Seconds since the epoch of Unix.
fn seconds(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Makes a CA in a directory that has none.
///
/// # Errors
/// When it has one, or it cannot be written.
pub fn init(directory: &Path, domain: &TrustDomain, now: SystemTime) -> Result<Authority, AuthorityError> {
    let disk = Disk::at(directory)?;
    if let Some(state) = disk.state()? {
        let root = state.plan().issuer;
        return Err(AuthorityError::Exists { path: directory.to_owned(), root });
    }
    Authority::open(directory, domain, None, now)
}

impl Authority {
    /// Takes the roots from a directory. The CA is made there at the first start, or is the given one.
    ///
    /// # Errors
    /// When files cannot be read or written, or what the state names is gone: then nothing is made anew,
    /// since that would cut off every agent that trusts the old root.
    pub fn open(
        directory: &Path,
        domain: &TrustDomain,
        given: Option<Ca>,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let disk = Disk::at(directory)?;
        let is_given = given.is_some();
        let given = given.map(Arc::new);
        let state = match (disk.state()?, &given) {
            (Some(state), _) => state,
            (None, Some(ca)) => {
                disk.keep_root(ca)?;
                State::steady(id_of(ca)?, seconds(now))
            }
            (None, None) => {
                let (ca, _) = Ca::create(domain, now)?;
                disk.keep(&ca)?;
                State::steady(id_of(&ca)?, seconds(now))
            }
        };
        disk.save(&state)?;
        let mut inner = Inner { state, cas: BTreeMap::new(), roots: BTreeMap::new(), waiting: None };
        for root in inner.state.phase.roots() {
            let mine = given.as_ref().filter(|ca| ca.root_id() == Some(root));
            match (mine, disk.load(root)?) {
                (Some(ca), _) => drop(inner.cas.insert(root, ca.clone())),
                (None, Some(ca)) => drop(inner.cas.insert(root, Arc::new(ca))),
                // The key of a root that goes is gone already.
                (None, None) if is_given || disk::keys(&inner.state).all(|key| key != root) => {}
                (None, None) => return Err(disk.missing(root)),
            }
            let certificate = disk.root(root)?;
            inner.roots.insert(root, certificate);
        }
        let authority = Self { disk, given: is_given, inner: Mutex::new(inner) };
        if let Some(ca) = given {
            authority.offer_shared(ca, now)?;
        }
        authority.tidy()?;
        Ok(authority)
    }

    fn locked(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the rotation is.
    pub fn state(&self) -> State {
        self.locked().state.clone()
    }

    /// The CA that issues now.
    ///
    /// # Errors
    /// When its key is not here.
    pub fn issuer(&self) -> Result<Arc<Ca>, SignError> {
        let inner = self.locked();
        let issuer = inner.state.plan().issuer;
        inner.cas.get(&issuer).cloned().ok_or(SignError::NoIssuer(issuer))
    }

    /// The CA that vouches for the controller's own listener. If the root that every node holds has no
    /// key here, another has to do.
    pub fn serving(&self) -> Option<Arc<Ca>> {
        let inner = self.locked();
        let plan = inner.state.plan();
        let any = || inner.cas.values().next();
        inner.cas.get(&plan.serves).or_else(|| inner.cas.get(&plan.issuer)).or_else(any).cloned()
    }

    /// A root's CA, if its key is here.
    pub fn ca(&self, root: RootId) -> Option<Arc<Ca>> {
        self.locked().cas.get(&root).cloned()
    }

    /// What nodes are to be told.
    pub fn trust(&self) -> Trust {
        let inner = self.locked();
        let plan = inner.state.plan();
        let roots = plan.trusted.iter().filter_map(|id| inner.roots.get(id).cloned()).collect();
        Trust { epoch: inner.state.epoch, roots, issuer: plan.issuer }
    }

    /// The accepted roots as PEM.
    pub fn trusted_pem(&self) -> String {
        self.trust().roots.iter().map(to_pem).collect()
    }

    /// The file with the accepted roots.
    pub fn published(&self) -> PathBuf {
        self.disk.published()
    }

    /// A new root is made and its rotation begins.
    ///
    /// # Errors
    /// When one is under way, the CA is somebody else's, or files cannot be written.
    pub fn rotate(&self, domain: &TrustDomain, now: SystemTime) -> Result<State, AuthorityError> {
        if self.given {
            return Err(AuthorityError::Given);
        }
        let mut inner = self.locked();
        if !matches!(inner.state.phase, Phase::Steady { .. }) {
            return Err(RotationRefused::UnderWay(inner.state.phase.label()).into());
        }
        let (ca, _) = Ca::create(domain, now)?;
        self.disk.keep(&ca)?;
        self.begin(&mut inner, Arc::new(ca), now)
    }

    /// Files of a CA changed.
    ///
    /// # Errors
    /// When files cannot be written.
    pub fn offer(&self, ca: Ca, now: SystemTime) -> Result<Offered, AuthorityError> {
        self.offer_shared(Arc::new(ca), now)
    }

    fn offer_shared(&self, ca: Arc<Ca>, now: SystemTime) -> Result<Offered, AuthorityError> {
        let root = id_of(&ca)?;
        let mut inner = self.locked();
        if let Some(known) = inner.cas.get(&root) {
            let same = known.chain() == ca.chain();
            inner.cas.insert(root, ca);
            inner.waiting = None;
            return Ok(if same { Offered::Same } else { Offered::Swapped });
        }
        if inner.roots.contains_key(&root) {
            // Its key was not here: now it is.
            inner.cas.insert(root, ca);
            return Ok(Offered::Swapped);
        }
        let Phase::Steady { root: old } = inner.state.phase else {
            inner.waiting = Some(ca);
            return Ok(Offered::Waits);
        };
        // Its files are gone: what every node trusts must last until nobody needs it.
        if let Some(superseded) = inner.cas.get(&old) {
            self.disk.keep(superseded)?;
        }
        self.disk.keep_root(&ca)?;
        self.begin(&mut inner, ca, now)?;
        Ok(Offered::Begun)
    }

    fn begin(&self, inner: &mut Inner, ca: Arc<Ca>, now: SystemTime) -> Result<State, AuthorityError> {
        let root = id_of(&ca)?;
        let next = inner.state.begin(root, seconds(now))?;
        if let Some(certificate) = ca.chain().last() {
            inner.roots.insert(root, certificate.clone());
        }
        inner.cas.insert(root, ca);
        self.change(inner, next)
    }

    /// The rotation is taken back.
    ///
    /// # Errors
    /// When there is none, it is too late, or files cannot be written.
    pub fn abort(&self, now: SystemTime) -> Result<State, AuthorityError> {
        let mut inner = self.locked();
        let next = inner.state.abort(seconds(now))?;
        inner.waiting = None;
        self.change(&mut inner, next)
    }

    /// The rotation goes on without those nodes, for as long as they stay silent.
    ///
    /// # Errors
    /// When there is none, or files cannot be written.
    pub fn without(&self, nodes: impl IntoIterator<Item = String>) -> Result<State, AuthorityError> {
        let mut inner = self.locked();
        let next = inner.state.without(nodes)?;
        self.change(&mut inner, next)
    }

    /// Begins the next phase, if it may begin. Returns it then.
    ///
    /// # Errors
    /// When files cannot be written; the phase has then not begun.
    pub fn advance(&self, nodes: &[NodeFacts], now: SystemTime) -> Result<Option<State>, AuthorityError> {
        let mut inner = self.locked();
        if let Step::Next(next) = step(&inner.state, nodes, seconds(now)) {
            return self.change(&mut inner, next).map(Some);
        }
        let steady = matches!(inner.state.phase, Phase::Steady { .. });
        match inner.waiting.take_if(|_| steady) {
            Some(ca) => {
                drop(inner);
                self.offer_shared(ca, now).map(|offered| (offered == Offered::Begun).then(|| self.state()))
            }
            None => Ok(None),
        }
    }

    fn change(&self, inner: &mut Inner, next: State) -> Result<State, AuthorityError> {
        self.disk.save(&next)?;
        inner.state = next.clone();
        let named = next.phase.roots();
        inner.roots.retain(|root, _| named.contains(root));
        let keys: Vec<RootId> = disk::keys(&next).collect();
        inner.cas.retain(|root, _| keys.contains(root));
        Ok(next)
    }

    /// Brings the other files in line with the state: the roots that are published, and keys and roots
    /// that are not needed any more. To be called after each change, and again if it failed.
    ///
    /// # Errors
    /// When files cannot be written or removed.
    pub fn tidy(&self) -> Result<(), AuthorityError> {
        let state = self.state();
        self.disk.publish(&self.trusted_pem())?;
        self.disk.sweep(&state)
    }
}

fn id_of(ca: &Ca) -> Result<RootId, CaError> {
    ca.root_id().ok_or(CaError::Make(rcgen::Error::CouldNotParseCertificate))
}

#[cfg(test)]
mod tests;
