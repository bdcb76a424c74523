//! One of several controllers: what they share is in the cluster's API, and this does the reading and writing around
//! the decisions of [`lark_core::replica`].
//!
//! Invariants: nothing follows from a change of the CA before it is in the Secret; it is written over exactly what was
//! read; and what was read issues for a limited time only, so that a replica that hears nothing stops before the others
//! count on it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use lark_core::identity::TrustDomain;
use lark_core::replica::{self as core, Act, Does, Elector, Terms, does};
use lark_core::rotation::{NodeFacts, State};
use lark_discovery::kubernetes::{Access, ConnectError, Files, Found, Held, Shared, SharedError};
use lark_identity::authority::{Authority, AuthorityError, Keyring, KeyringError, Offered};
use lark_identity::ca::{Ca, CaError};
use lark_identity::nodes::{Nodes, Serves};
use tokio::sync::Mutex as Turn;

/// The Secret with the CA's roots, keys and state.
const SECRET: &str = "lark-roots";
/// The Lease of whoever leads.
const LEASE: &str = "lark-controller";
/// The key of the roots in the ConfigMap.
const ROOT: &str = "root.pem";

/// Why the CA in the cluster cannot be used or changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReplicaError {
    /// There is no way to the API.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The API did not do it.
    #[error(transparent)]
    Shared(#[from] SharedError),
    /// What is in the Secret is not usable.
    #[error(
        "Secret {SECRET} is not usable: {0}. Restore it from a backup; without it nobody knows which root is trusted"
    )]
    Kept(#[from] KeyringError),
    /// The Secret is gone, and agents may trust a root of it.
    #[error(
        "Secret {SECRET} is missing while ConfigMap {0} names a root that agents may trust: restore the Secret from a backup, or name the CA's own Secret by --ca-secret; to begin with a new CA delete the ConfigMap too, and start the agents anew"
    )]
    Lost(String),
    /// The given CA is not there.
    #[error(
        "Secret {0} is missing: make it with tls.crt (the chain up to the root) and tls.key, or leave --ca-secret away for a CA of Lark's own"
    )]
    NoGiven(String),
    /// The given CA cannot be used.
    #[error("the CA in Secret {name} cannot be used: {what}")]
    Given {
        /// The Secret.
        name: String,
        /// Why.
        what: String,
    },
    /// It makes no sense now, or no CA can be made.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The CA is somebody else's.
    #[error("the CA is that of Secret {0}: replace it there, and the rotation begins by itself")]
    NotOurs(String),
    /// Another replica leads.
    #[error("another replica leads: {0}")]
    NotLeading(String),
}

impl From<CaError> for ReplicaError {
    fn from(error: CaError) -> Self {
        Self::Authority(error.into())
    }
}

/// What makes a replica.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) namespace: String,
    /// Its name; no other replica has it.
    pub(super) name: String,
    /// Where agents reach it itself.
    pub(super) address: Option<SocketAddr>,
    /// The Secret of a CA of somebody else's.
    pub(super) given: Option<String>,
    /// The ConfigMap with the roots for first contact.
    pub(super) published: String,
    pub(super) terms: Terms,
    pub(super) domain: TrustDomain,
}

/// What was read last. Held while anything is written.
#[derive(Default)]
struct Kept {
    found: Option<Found<Files>>,
    given: Option<(String, Arc<Ca>)>,
    /// Since when this process knows of the present change of phase.
    changed: Option<(u64, Instant)>,
}

pub(super) struct Replica {
    api: Shared,
    settings: Settings,
    began: Instant,
    elector: Mutex<Elector>,
    kept: Turn<Kept>,
    authority: OnceLock<Arc<Authority>>,
    /// It stops, and takes the Lease no more.
    leaving: AtomicBool,
    /// Errors that were told, by what was tried: each once until it changes.
    told: Mutex<std::collections::BTreeMap<&'static str, String>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Replica {
    /// Waits until there is a CA, and makes it if this replica leads and there never was one.
    pub(super) async fn start(
        access: &Access,
        settings: Settings,
    ) -> Result<(Arc<Self>, Arc<Authority>), ReplicaError> {
        let api = Shared::new(access, &settings.namespace, settings.terms.every() * 2).await?;
        let elector = Mutex::new(Elector::new(settings.name.clone(), settings.terms));
        let replica = Self {
            api,
            settings,
            began: Instant::now(),
            elector,
            kept: Turn::default(),
            authority: OnceLock::new(),
            leaving: AtomicBool::new(false),
            told: Mutex::default(),
        };
        loop {
            replica.seek().await;
            match replica.look().await {
                Err(error @ (ReplicaError::Lost(_) | ReplicaError::Kept(_))) => return Err(error),
                result => replica.tell("looking at the CA in the cluster", result),
            }
            if let Some(authority) = replica.authority.get() {
                let authority = authority.clone();
                return Ok((Arc::new(replica), authority));
            }
            tokio::time::sleep(replica.settings.terms.every()).await;
        }
    }

    /// Logs an error when it is new.
    fn tell(&self, what: &'static str, result: Result<(), ReplicaError>) {
        let mut told = locked(&self.told);
        match result {
            // Whoever was quicker is read at the next look.
            Ok(()) | Err(ReplicaError::Shared(SharedError::Conflict { .. })) => {
                if told.remove(what).is_some() {
                    tracing::info!("{what} works again");
                }
            }
            Err(error) => {
                let sentence = error.to_string();
                if told.get(what) != Some(&sentence) {
                    tracing::error!(%error, "{what} failed; it is tried again");
                    told.insert(what, sentence);
                }
            }
        }
    }

    pub(super) fn leads(&self) -> bool {
        locked(&self.elector).leads(self.began.elapsed())
    }

    /// Who leads, for people.
    pub(super) fn leader(&self) -> Option<String> {
        locked(&self.elector).holder().map(|(name, _)| name.to_owned())
    }

    /// Whether this one keeps the agents' streams.
    pub(super) fn serves(&self) -> Serves {
        let elector = locked(&self.elector);
        if elector.leads(self.began.elapsed()) {
            return Serves::Leads;
        }
        let holder = elector.holder().filter(|(name, _)| *name != self.settings.name);
        Serves::Elsewhere(holder.and_then(|(_, address)| address?.parse().ok()))
    }

    /// Looks at the Lease, and takes or renews it if it may.
    async fn seek(&self) {
        if self.leaving.load(Ordering::SeqCst) {
            return;
        }
        let result = self.try_seek().await;
        self.tell("holding the Lease", result);
    }

    async fn try_seek(&self) -> Result<(), ReplicaError> {
        let led = self.leads();
        let found = self.api.lease(LEASE).await?;
        let asked = self.began.elapsed();
        let act = locked(&self.elector).act(found.as_ref().map(|found| found.value.clone()), asked);
        let (transitions, acquires) = match act {
            Act::Wait => return Ok(()),
            Act::Create => (0, true),
            Act::Update { transitions, acquires, .. } => (transitions, acquires),
        };
        let address = self.settings.address.map(|address| address.to_string());
        let held = Held {
            holder: Some(&self.settings.name),
            address: address.as_deref(),
            duration: self.settings.terms.duration(),
            transitions,
            acquires,
        };
        self.api.put_lease(LEASE, found.as_ref(), held).await?;
        locked(&self.elector).accepted(asked);
        if !led {
            tracing::info!(replica = self.settings.name, "this replica leads");
        }
        Ok(())
    }

    /// Gives the Lease up, so that another takes it at once.
    pub(super) async fn release(&self) {
        self.leaving.store(true, Ordering::SeqCst);
        if !self.leads() {
            return;
        }
        locked(&self.elector).released();
        let given_up = async {
            let found = self.api.lease(LEASE).await?;
            let Some(found) = found.filter(|f| f.value.holder.as_deref() == Some(&self.settings.name)) else {
                return Ok(());
            };
            let transitions = found.value.transitions;
            let duration = self.settings.terms.duration();
            let held = Held { holder: None, address: None, duration, transitions, acquires: false };
            self.api.put_lease(LEASE, Some(&found), held).await.map(drop)
        };
        let result: Result<(), SharedError> = given_up.await;
        self.tell("giving the Lease up", result.map_err(Into::into));
    }

    /// Reads what is shared, and does what [`does`] says.
    async fn look(&self) -> Result<(), ReplicaError> {
        let mut kept = self.kept.lock().await;
        let given = self.look_at_given(&mut kept).await;
        let asked = Instant::now();
        let found = self.api.secret(SECRET).await?;
        let what = match (&found, &kept.found) {
            (None, _) => core::Found::Nothing,
            (Some(now), Some(before)) if now.version() == before.version() => core::Found::Same,
            (Some(_), _) => core::Found::Other,
        };
        let mut replica =
            core::Replica { leads: self.leads(), holds: self.authority.get().is_some(), published: false };
        if does(what, replica) == Does::Make && self.settings.given.is_none() {
            replica.published = self.api.config_map(&self.settings.published).await?.is_some();
        }
        match does(what, replica) {
            Does::Confirm => self.confirm(&mut kept, asked),
            Does::Take => {
                let files = found.as_ref().map(|found| &found.value);
                let before = self.authority.get().map(|authority| authority.keyring());
                let given = kept.given.as_ref().map(|(_, ca)| ca);
                let keyring = Keyring::decode(files.unwrap_or(&Files::new()), given, before.as_deref())?;
                if before.is_some_and(|before| before.state().epoch != keyring.state().epoch) {
                    tracing::info!(
                        phase = keyring.state().phase.label(),
                        epoch = keyring.state().epoch,
                        "another replica changed the CA"
                    );
                }
                kept.found = found;
                self.hold(keyring);
                self.confirm(&mut kept, asked);
            }
            Does::Make => {
                let now = SystemTime::now();
                let keyring = match (&self.settings.given, &kept.given) {
                    (None, _) => Keyring::make(&self.settings.domain, now)?,
                    (Some(_), Some((_, ca))) => Keyring::given(ca.clone(), now)?,
                    (Some(_), None) => return given,
                };
                self.write(&mut kept, None, keyring).await?;
                tracing::info!(secret = SECRET, "a CA is made and kept in the cluster");
            }
            Does::PutBack => {
                if let Some(authority) = self.authority.get() {
                    tracing::warn!(secret = SECRET, "the CA's Secret was deleted; it is put back");
                    self.write(&mut kept, None, Keyring::clone(&authority.keyring())).await?;
                }
            }
            Does::Wait => tracing::debug!("there is no CA yet; the replica that leads makes it"),
            Does::Refuse => return Err(ReplicaError::Lost(self.settings.published.clone())),
        }
        if self.leads() {
            self.begin_given(&mut kept).await?;
            self.publish().await?;
        }
        // That the CA of somebody else's cannot be read stops nothing, and is told.
        given
    }

    /// Reads the CA of somebody else's, if it changed.
    async fn look_at_given(&self, kept: &mut Kept) -> Result<(), ReplicaError> {
        let Some(name) = &self.settings.given else { return Ok(()) };
        let found = self.api.secret(name).await?.ok_or_else(|| ReplicaError::NoGiven(name.clone()))?;
        if kept.given.as_ref().is_some_and(|(version, _)| version == found.version()) {
            return Ok(());
        }
        let wrong = |what: String| ReplicaError::Given { name: name.clone(), what };
        let text = |key: &str| match found.value.get(key) {
            Some(bytes) => std::str::from_utf8(bytes).map(Some).map_err(|e| wrong(format!("{key}: {e}"))),
            None => Ok(None),
        };
        let need = |key: &str| text(key)?.ok_or_else(|| wrong(format!("it has no {key}")));
        let ca = Ca::from_secret(need("tls.crt")?, need("tls.key")?, text("ca.crt")?).map_err(wrong)?;
        let ca = Arc::new(ca);
        if let Some(authority) = self.authority.get()
            && let (next, Offered::Swapped) = authority.keyring().offer(ca.clone(), SystemTime::now())?
        {
            tracing::info!(secret = name, "the CA is replaced by another of the same root");
            authority.install(next);
        }
        kept.given = Some((found.version().to_owned(), ca));
        Ok(())
    }

    /// Begins a rotation to the CA of somebody else's, if that has another root.
    async fn begin_given(&self, kept: &mut Kept) -> Result<(), ReplicaError> {
        let (Some((_, ca)), Some(authority)) = (&kept.given, self.authority.get()) else { return Ok(()) };
        match authority.keyring().offer(ca.clone(), SystemTime::now())? {
            (next, Offered::Begun) => {
                let over = kept.found.clone();
                self.write(kept, over.as_ref(), next).await?;
                super::rotation::said(&authority.state());
                Ok(())
            }
            // That a rotation was taken back is said with the phase, and by `lark ca status`.
            _ => Ok(()),
        }
    }

    fn hold(&self, keyring: Keyring) {
        match self.authority.get() {
            Some(authority) => authority.install(keyring),
            None => drop(self.authority.set(Arc::new(Authority::new(keyring)))),
        }
    }

    /// What is held counts, by what was asked for at `asked`.
    fn confirm(&self, kept: &mut Kept, asked: Instant) {
        let Some(authority) = self.authority.get() else { return };
        authority.confirm(asked + self.settings.terms.fresh());
        let epoch = authority.state().epoch;
        if kept.changed.is_none_or(|(known, _)| known != epoch) {
            kept.changed = Some((epoch, Instant::now()));
        }
    }

    async fn write(
        &self,
        kept: &mut Kept,
        over: Option<&Found<Files>>,
        next: Keyring,
    ) -> Result<(), ReplicaError> {
        let files = next.encode()?.into_iter().map(|(name, text)| (name, text.as_bytes().to_vec())).collect();
        let asked = Instant::now();
        let written = self.api.put_secret(SECRET, over, files).await?;
        kept.found = Some(written);
        self.hold(next);
        self.confirm(kept, asked);
        Ok(())
    }

    /// Keeps the roots for first contact as they are.
    async fn publish(&self) -> Result<(), ReplicaError> {
        let Some(authority) = self.authority.get() else { return Ok(()) };
        let (name, pem) = (&self.settings.published, authority.trusted_pem());
        let found = self.api.config_map(name).await?;
        let mut texts = found.as_ref().map(|found| found.value.clone()).unwrap_or_default();
        if texts.insert(ROOT.to_owned(), pem.clone()).is_some_and(|before| before == pem) {
            return Ok(());
        }
        self.api.put_config_map(name, found.as_ref(), texts).await?;
        tracing::info!(config_map = name, "the roots for first contact are published");
        Ok(())
    }

    /// Changes the CA as somebody wishes, if this one leads and knows how it is now. `decide` is told what somebody else's
    /// CA is, as far as that could be read.
    async fn change(
        &self,
        decide: impl FnOnce(&Keyring, Option<&Arc<Ca>>) -> Result<Keyring, ReplicaError>,
    ) -> Result<State, ReplicaError> {
        let mut kept = self.kept.lock().await;
        let nobody = || self.leader().unwrap_or_else(|| "nobody is known to".to_owned());
        let authority = self.authority.get().filter(|authority| authority.is_current() && self.leads());
        let authority = authority.ok_or_else(|| ReplicaError::NotLeading(nobody()))?;
        let next = decide(&authority.keyring(), kept.given.as_ref().map(|(_, ca)| ca))?;
        let over = kept.found.clone();
        self.write(&mut kept, over.as_ref(), next).await?;
        Ok(authority.state())
    }

    /// A rotation to a root made here, or to that of somebody else's CA if it was taken back.
    pub(super) async fn rotate(&self) -> Result<State, ReplicaError> {
        let now = SystemTime::now();
        self.change(|keyring, given| match (&self.settings.given, given) {
            (None, _) => Ok(keyring.rotate(&self.settings.domain, now)?),
            (Some(name), given) => match given.map(|ca| keyring.offer_again(ca.clone(), now)).transpose()? {
                Some((next, Offered::Begun)) => Ok(next),
                _ => Err(ReplicaError::NotOurs(name.clone())),
            },
        })
        .await
    }

    /// The rotation taken back. To what is in somebody else's Secret now none begins by itself, whoever leads.
    pub(super) async fn abort(&self) -> Result<State, ReplicaError> {
        self.change(|keyring, given| {
            // Where the Secret cannot be read it has what this rotation is to, as far as anybody knows.
            let comes = || keyring.state().phase.roots().last().copied();
            let given =
                given.and_then(|ca| ca.root_id()).or_else(comes).filter(|_| self.settings.given.is_some());
            Ok(keyring.abort(given, SystemTime::now()).map_err(AuthorityError::from)?)
        })
        .await
    }

    /// The rotation without those nodes, for as long as they stay silent.
    pub(super) async fn without(
        &self,
        nodes: impl IntoIterator<Item = String>,
    ) -> Result<State, ReplicaError> {
        self.change(|keyring, _| Ok(keyring.without(nodes).map_err(AuthorityError::from)?)).await
    }

    /// Begins the next phase, if it may begin: not before the last change has reached every replica that issues.
    pub(super) async fn advance(&self, nodes: &[NodeFacts]) -> Result<Option<State>, ReplicaError> {
        let Some(authority) = self.authority.get().filter(|_| self.leads()) else { return Ok(None) };
        let changed = self.kept.lock().await.changed;
        if changed.is_none_or(|(_, since)| since.elapsed() < self.settings.terms.fresh()) {
            return Ok(None);
        }
        let now = SystemTime::now();
        if authority.keyring().advance(nodes, now).is_none() {
            return Ok(None);
        }
        let mut stays = false;
        let next = self.change(|keyring, _| {
            Ok(keyring.advance(nodes, now).unwrap_or_else(|| {
                stays = true;
                keyring.clone()
            }))
        });
        match next.await {
            Ok(state) => Ok((!stays).then_some(state)),
            // Another one leads, or was quicker.
            Err(ReplicaError::NotLeading(_) | ReplicaError::Shared(SharedError::Conflict { .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Holds the Lease, looks at what is shared and tells `nodes` who leads, for ever. To be dropped at will.
    pub(super) async fn run(&self, nodes: &Nodes) {
        let every = self.settings.terms.every();
        let leading = async {
            loop {
                nodes.serve(self.serves());
                tokio::time::sleep(every).await;
                self.seek().await;
            }
        };
        let looking = async {
            loop {
                tokio::time::sleep(every).await;
                let result = self.look().await;
                self.tell("looking at the CA in the cluster", result);
            }
        };
        tokio::join!(leading, looking);
    }
}

/// The flag's seconds.
pub(super) fn terms(seconds: u32) -> Terms {
    Terms::new(Duration::from_secs(u64::from(seconds)))
}
