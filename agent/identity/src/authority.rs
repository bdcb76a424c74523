//! The roots of a mesh with their keys, while one takes the place of another.
//!
//! What is to be done follows from the state alone ([`lark_core::rotation`]), and the state is kept
//! before anything follows from it: a controller that was killed goes on where it was. [`OnDisk`] keeps it in a
//! directory, keys before the state that needs them and until after the one that does not. Whoever keeps it elsewhere
//! keeps a [`Keyring`] as a whole.

mod disk;
mod keyring;

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use lark_core::identity::TrustDomain;
use lark_core::rotation::{NodeFacts, RootId, RotationRefused, State};
use rustls::pki_types::CertificateDer;

use crate::ca::{Ca, CaError, SignError};
use disk::Disk;
pub use keyring::{Keyring, KeyringError};

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
    /// It hangs from a root that a person went back from: a person has to begin the rotation to it.
    TakenBack,
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

/// The roots of a mesh, in memory: what everybody reads who issues, listens or tells.
#[derive(Debug)]
pub struct Authority {
    keyring: Mutex<Arc<Keyring>>,
    /// Until when this is known to be what counts; `None` where nobody else changes it.
    current_until: Mutex<Option<Instant>>,
}

/// Seconds since the epoch of Unix.
fn seconds(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Authority {
    /// One that holds this, and is not changed by others.
    pub fn new(keyring: Keyring) -> Self {
        Self { keyring: Mutex::new(Arc::new(keyring)), current_until: Mutex::default() }
    }

    /// What it holds.
    pub fn keyring(&self) -> Arc<Keyring> {
        locked(&self.keyring).clone()
    }

    /// What it holds from now on: it has been kept.
    pub fn install(&self, keyring: Keyring) {
        *locked(&self.keyring) = Arc::new(keyring);
    }

    /// What it holds is known to count until then; afterwards it issues nothing, until it is told so again.
    pub fn confirm(&self, until: Instant) {
        *locked(&self.current_until) = Some(until);
    }

    /// Whether what it holds is known to count now.
    pub fn is_current(&self) -> bool {
        locked(&self.current_until).is_none_or(|until| Instant::now() < until)
    }

    /// Where the rotation is.
    pub fn state(&self) -> State {
        self.keyring().state.clone()
    }

    /// The CA that issues now.
    ///
    /// # Errors
    /// When its key is not here.
    pub fn issuer(&self) -> Result<Arc<Ca>, SignError> {
        let keyring = self.keyring();
        let issuer = keyring.state.plan().issuer;
        keyring.cas.get(&issuer).cloned().ok_or(SignError::NoIssuer(issuer))
    }

    /// The CA that vouches for the controller's own listener. If the root that every node holds has no
    /// key here, another has to do.
    pub fn serving(&self) -> Option<Arc<Ca>> {
        let keyring = self.keyring();
        let plan = keyring.state.plan();
        let any = || keyring.cas.values().next();
        keyring.cas.get(&plan.serves).or_else(|| keyring.cas.get(&plan.issuer)).or_else(any).cloned()
    }

    /// A root's CA, if its key is here.
    pub fn ca(&self, root: RootId) -> Option<Arc<Ca>> {
        self.keyring().cas.get(&root).cloned()
    }

    /// What nodes are to be told.
    pub fn trust(&self) -> Trust {
        self.keyring().trust()
    }

    /// The accepted roots as PEM.
    pub fn trusted_pem(&self) -> String {
        self.keyring().trusted_pem()
    }
}

/// The roots of a mesh that one controller keeps in a directory of its own.
#[derive(Debug)]
pub struct OnDisk {
    authority: Arc<Authority>,
    disk: Disk,
    /// The CA of somebody else's as it was given last. Held while anything is written.
    given: Mutex<Option<Arc<Ca>>>,
}

/// What is read is that in memory.
impl Deref for OnDisk {
    type Target = Arc<Authority>;

    fn deref(&self) -> &Self::Target {
        &self.authority
    }
}

/// Makes a CA in a directory that has none.
///
/// # Errors
/// When it has one, or it cannot be written.
pub fn init(directory: &Path, domain: &TrustDomain, now: SystemTime) -> Result<OnDisk, AuthorityError> {
    let disk = Disk::at(directory)?;
    if let Some(state) = disk.state()? {
        let root = state.plan().issuer;
        return Err(AuthorityError::Exists { path: directory.to_owned(), root });
    }
    OnDisk::open(directory, domain, None, now)
}

impl OnDisk {
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
        let given = given.map(Arc::new);
        let keyring = match (disk.state()?, &given) {
            (Some(state), given) => disk.read(state, given.as_ref())?,
            (None, Some(ca)) => Keyring::given(ca.clone(), now)?,
            (None, None) => Keyring::make(domain, now)?,
        };
        disk.save(&keyring)?;
        let authority = Arc::new(Authority::new(keyring));
        let on_disk = Self { authority, disk, given: Mutex::default() };
        if let Some(ca) = given {
            on_disk.offer_shared(ca, now)?;
        }
        on_disk.tidy()?;
        Ok(on_disk)
    }

    /// What it is in memory.
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// The file with the accepted roots.
    pub fn published(&self) -> PathBuf {
        self.disk.published()
    }

    /// A new root is made and its rotation begins; or that to the root of somebody else's CA, if it was taken back.
    ///
    /// # Errors
    /// When one is under way, the CA is somebody else's, or files cannot be written.
    pub fn rotate(&self, domain: &TrustDomain, now: SystemTime) -> Result<State, AuthorityError> {
        let given = locked(&self.given);
        let Some(ca) = &*given else { return self.change(self.keyring().rotate(domain, now)?) };
        match self.keyring().offer_again(ca.clone(), now)? {
            (next, Offered::Begun) => self.change(next),
            _ => Err(AuthorityError::Given),
        }
    }

    /// Files of a CA changed.
    ///
    /// # Errors
    /// When files cannot be written.
    pub fn offer(&self, ca: Ca, now: SystemTime) -> Result<Offered, AuthorityError> {
        self.offer_shared(Arc::new(ca), now)
    }

    fn offer_shared(&self, ca: Arc<Ca>, now: SystemTime) -> Result<Offered, AuthorityError> {
        let mut given = locked(&self.given);
        let (next, offered) = self.keyring().offer(ca.clone(), now)?;
        *given = Some(ca);
        match offered {
            Offered::Same | Offered::Waits | Offered::TakenBack => {}
            // Its key is kept where it comes from.
            Offered::Swapped => self.install(next),
            Offered::Begun => drop(self.change(next)?),
        }
        Ok(offered)
    }

    /// The rotation is taken back. To the CA that is given now none begins by itself, by a restart neither.
    ///
    /// # Errors
    /// When there is none, it is too late, or files cannot be written.
    pub fn abort(&self, now: SystemTime) -> Result<State, AuthorityError> {
        let given = locked(&self.given);
        self.change(self.keyring().abort(given.as_ref().and_then(|ca| ca.root_id()), now)?)
    }

    /// The rotation goes on without those nodes, for as long as they stay silent.
    ///
    /// # Errors
    /// When there is none, or files cannot be written.
    pub fn without(&self, nodes: impl IntoIterator<Item = String>) -> Result<State, AuthorityError> {
        let _turn = locked(&self.given);
        self.change(self.keyring().without(nodes)?)
    }

    /// Begins the next phase, if it may begin. Returns it then.
    ///
    /// # Errors
    /// When files cannot be written; the phase has then not begun.
    pub fn advance(&self, nodes: &[NodeFacts], now: SystemTime) -> Result<Option<State>, AuthorityError> {
        let given = locked(&self.given);
        let keyring = self.keyring();
        if let Some(next) = keyring.advance(nodes, now) {
            return self.change(next).map(Some);
        }
        // One that was given while a rotation was under way: now it is its turn.
        match given.as_ref().map(|ca| keyring.offer(ca.clone(), now)).transpose()? {
            Some((next, Offered::Begun)) => self.change(next).map(Some),
            _ => Ok(None),
        }
    }

    fn change(&self, next: Keyring) -> Result<State, AuthorityError> {
        self.disk.save(&next)?;
        let state = next.state.clone();
        self.install(next);
        Ok(state)
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
