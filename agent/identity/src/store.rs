//! The SVIDs of a node, kept valid.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use lark_core::constants::SVID_LIFE;
use lark_core::explain::CaRequest;
use lark_core::identity::SpiffeId;
use lark_core::identity::schedule::{Urgency, backoff, renew_at, rest, urgency, warn_at};
use lark_core::rotation::RootId;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::client::{Issuer, RequestError};
use crate::svid::{Svid, TrustBundle};
use crate::verify::{Usage, VerifyError, validity, verify_path};

/// Requests to the CA at once.
const CONCURRENT: usize = 8;

/// Wait after a certificate of another root than the wanted one.
const OTHER_ROOT_PAUSE: Duration = Duration::from_secs(1);

/// The time; injected so that tests can move it.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Why an identity has no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// The CA gave none.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// No key or CSR could be made.
    #[error("a key could not be made: {0}")]
    Key(String),
    /// What the CA gave proves something else than what was asked.
    #[error("the CA's answer is not usable: {0}")]
    Answer(String),
    /// The attempt ended before its time: a defect of Lark's.
    #[error("the request for a certificate broke off: {0}; please report this")]
    BrokeOff(#[from] tokio::task::JoinError),
    /// What the CA gave does not verify.
    #[error("the CA's answer does not verify: {0}")]
    Verify(#[from] VerifyError),
}

impl RenewError {
    /// What it was, in one word that `lark explain` knows.
    pub const fn cause(&self) -> &'static str {
        match self {
            Self::Request(error) => error.cause().label(),
            Self::Key(_) => CaRequest::KeyFailed.label(),
            Self::Answer(_) => CaRequest::AnswerUnusable.label(),
            Self::BrokeOff(_) => CaRequest::BrokeOff.label(),
            // It was made this very moment: only a clock can say that it is of another time.
            Self::Verify(VerifyError::NotYetValid { .. } | VerifyError::Expired { .. }) => {
                CaRequest::ClockSkew.label()
            }
            Self::Verify(error) => error.cause().label(),
        }
    }
}

/// How an identity's certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SvidState {
    /// Asked for, none yet.
    Pending,
    /// Valid.
    Valid,
    /// Valid, but its renewal is late.
    RenewalLate,
    /// Not valid any more.
    Expired,
}

/// One identity for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SvidStatus {
    /// Whose.
    pub id: SpiffeId,
    /// How it is.
    pub state: SvidState,
    /// Valid until, if there is one.
    pub not_after: Option<SystemTime>,
    /// Serial number, if there is one.
    pub serial: Option<String>,
    /// What the last attempt said, if it failed.
    pub last_error: Option<String>,
}

#[derive(Debug, Clone, Default)]
struct Entry {
    svid: Option<Arc<Svid>>,
    last_error: Option<String>,
}

struct Inner {
    entries: ArcSwap<HashMap<SpiffeId, Entry>>,
    bundle: ArcSwap<TrustBundle>,
    wanted: watch::Sender<BTreeSet<SpiffeId>>,
    changed: watch::Sender<u64>,
    /// The root from which certificates are to hang, if somebody says so.
    preferred: watch::Sender<Option<RootId>>,
    /// Requests under way.
    asking: AtomicUsize,
    /// By how many seconds this node's clock is ahead of the controller's.
    skew: Mutex<Option<i64>>,
    clock: Clock,
    /// Of the certificates that are asked for, in seconds.
    life: AtomicU64,
}

/// What a node holds now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holdings {
    /// Roots that it trusts.
    pub roots: Vec<RootId>,
    /// Roots from which its valid certificates hang.
    pub svids: Vec<RootId>,
    /// Whether requests for certificates are under way.
    pub asking: bool,
}

/// The SVIDs of a node. Cheap to clone; reading takes no lock.
#[derive(Clone)]
pub struct SvidStore(Arc<Inner>);

impl std::fmt::Debug for SvidStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SvidStore").field(&self.0.entries.load().len()).finish()
    }
}

impl SvidStore {
    /// An empty store that accepts these roots.
    pub fn new(bundle: TrustBundle, clock: Clock) -> Self {
        Self(Arc::new(Inner {
            entries: ArcSwap::default(),
            bundle: ArcSwap::from_pointee(bundle),
            wanted: watch::Sender::default(),
            changed: watch::Sender::default(),
            preferred: watch::Sender::default(),
            asking: AtomicUsize::new(0),
            skew: Mutex::default(),
            clock,
            life: AtomicU64::new(SVID_LIFE.as_secs()),
        }))
    }

    /// Asks for certificates of this life from now on. The CA may give shorter ones.
    pub fn ask_for(&self, life: Duration) {
        self.0.life.store(life.as_secs(), Ordering::Relaxed);
    }

    /// The time that the store goes by.
    pub fn now(&self) -> SystemTime {
        (self.0.clock)()
    }

    /// The certificate of an identity, valid or not: whoever uses it asks [`Svid::is_valid`].
    pub fn current(&self, id: &SpiffeId) -> Option<Arc<Svid>> {
        self.0.entries.load().get(id)?.svid.clone()
    }

    /// The certificate of an identity if it is valid now.
    pub fn valid(&self, id: &SpiffeId) -> Option<Arc<Svid>> {
        self.current(id).filter(|svid| svid.is_valid(self.now()))
    }

    /// The accepted roots.
    pub fn bundle(&self) -> Arc<TrustBundle> {
        self.0.bundle.load_full()
    }

    /// Replaces the accepted roots.
    pub fn set_bundle(&self, bundle: TrustBundle) {
        self.0.bundle.store(Arc::new(bundle));
        self.notify();
    }

    /// Certificates are to hang from this root: others are replaced now, not at their time.
    pub fn prefer(&self, root: RootId) {
        self.0.preferred.send_if_modified(|preferred| preferred.replace(root) != Some(root));
    }

    /// What this node holds now.
    pub fn holdings(&self) -> Holdings {
        // First of all: what was under way before and is not any more is among the certificates.
        let asking = self.0.asking.load(Ordering::SeqCst) > 0;
        let now = self.now();
        let entries = self.0.entries.load();
        let valid = entries.values().filter_map(|e| e.svid.as_ref()).filter(|svid| svid.is_valid(now));
        let svids: BTreeSet<RootId> = valid.map(|svid| svid.root).collect();
        Holdings { roots: self.bundle().ids().to_vec(), svids: svids.into_iter().collect(), asking }
    }

    /// By how many seconds this node's clock is ahead of the controller's, as far as it is known.
    pub fn clock_skew(&self) -> Option<i64> {
        *self.0.skew.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_clock_skew(&self, ahead: Option<i64>) -> Option<i64> {
        std::mem::replace(&mut *self.0.skew.lock().unwrap_or_else(PoisonError::into_inner), ahead)
    }

    /// Says which identities this node needs from now on. Others are forgotten, with their keys.
    pub fn want(&self, identities: BTreeSet<SpiffeId>) {
        self.0.wanted.send_if_modified(|wanted| {
            let modified = *wanted != identities;
            *wanted = identities;
            modified
        });
    }

    /// Counts up whenever a certificate or the roots change.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// All identities, for people.
    pub fn status(&self) -> Vec<SvidStatus> {
        let now = self.now();
        let entries = self.0.entries.load();
        let mut all: Vec<SvidStatus> = entries
            .iter()
            .map(|(id, entry)| SvidStatus {
                id: id.clone(),
                state: match &entry.svid {
                    None => SvidState::Pending,
                    Some(svid) if !svid.is_valid(now) => SvidState::Expired,
                    Some(svid) if now > warn_at(svid.not_before, svid.not_after) => SvidState::RenewalLate,
                    Some(_) => SvidState::Valid,
                },
                not_after: entry.svid.as_ref().map(|s| s.not_after),
                serial: entry.svid.as_ref().map(|s| s.serial.clone()),
                last_error: entry.last_error.clone(),
            })
            .collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    }

    /// Puts a certificate in, as the renewal loop does.
    pub fn put(&self, svid: Svid) {
        let entry = Entry { svid: Some(Arc::new(svid)), last_error: None };
        self.0.entries.rcu(|entries| {
            let mut next = HashMap::clone(entries);
            if let Some(svid) = &entry.svid {
                next.insert(svid.id.clone(), entry.clone());
            }
            next
        });
        self.notify();
    }

    fn fail(&self, id: &SpiffeId, error: &RenewError) {
        let message = error.to_string();
        self.0.entries.rcu(|entries| {
            let mut next = HashMap::clone(entries);
            next.entry(id.clone()).or_default().last_error = Some(message.clone());
            next
        });
        self.notify();
    }

    fn keep_only(&self, wanted: &BTreeSet<SpiffeId>) {
        self.0.entries.rcu(|entries| {
            let mut next: HashMap<SpiffeId, Entry> = entries
                .iter()
                .filter(|(id, _)| wanted.contains(id))
                .map(|(i, e)| (i.clone(), e.clone()))
                .collect();
            for id in wanted {
                next.entry(id.clone()).or_default();
            }
            next
        });
        self.notify();
    }

    fn notify(&self) {
        self.0.changed.send_modify(|count| *count += 1);
    }

    /// Keeps every wanted identity supplied, for ever. A renewal that fails keeps what is valid and is
    /// tried again, later and later. To be dropped at will.
    pub async fn renew<I: Issuer>(self, issuer: Arc<I>) {
        let mut wanted = self.0.wanted.subscribe();
        let mut preferred = self.0.preferred.subscribe();
        let mut due: BTreeMap<SpiffeId, Due> = BTreeMap::new();
        let mut running = JoinSet::new();
        let mut asking: HashMap<tokio::task::Id, SpiffeId> = HashMap::new();
        loop {
            let now = self.now();
            {
                let set = wanted.borrow_and_update().clone();
                if !due.keys().eq(set.iter()) {
                    due.retain(|id, _| set.contains(id));
                    for id in &set {
                        due.entry(id.clone()).or_insert_with(Due::at_once);
                    }
                    self.keep_only(&set);
                }
            }
            let root = *preferred.borrow_and_update();
            for (id, entry) in &mut due {
                // Of another root than is wanted: at once.
                let svid = root.and_then(|_| self.current(id));
                if svid.is_some_and(|svid| Some(svid.root) != root) {
                    entry.at = None;
                }
                if entry.running || !entry.wait(now).is_zero() {
                    continue;
                }
                if running.len() >= CONCURRENT {
                    break;
                }
                entry.running = true;
                self.0.asking.fetch_add(1, Ordering::SeqCst);
                let (store, issuer, identity) = (self.clone(), issuer.clone(), id.clone());
                let task = running.spawn(async move { store.obtain(issuer.as_ref(), &identity).await });
                asking.insert(task.id(), id.clone());
            }
            // Wakes at least once a second, since the injected clock and timers may disagree.
            let next = due
                .values()
                .filter(|d| !d.running)
                .map(|d| d.wait(now))
                .min()
                .unwrap_or(Duration::from_secs(1));
            let wait = if running.len() >= CONCURRENT { Duration::from_secs(1) } else { next };
            tokio::select! {
                Some(done) = running.join_next_with_id(), if !running.is_empty() => {
                    let (task, result) = match done {
                        Ok((task, result)) => (task, result),
                        Err(error) => (error.id(), Err(error.into())),
                    };
                    if let Some(id) = asking.remove(&task) {
                        self.finish(&mut due, &id, result);
                    }
                    self.0.asking.fetch_sub(1, Ordering::SeqCst);
                    self.notify();
                }
                result = wanted.changed() => if result.is_err() { return },
                result = preferred.changed() => if result.is_err() { return },
                () = tokio::time::sleep(wait.clamp(Duration::from_millis(5), Duration::from_secs(1))) => {}
            }
        }
    }

    fn finish(&self, due: &mut BTreeMap<SpiffeId, Due>, id: &SpiffeId, result: Result<Svid, RenewError>) {
        let Some(entry) = due.get_mut(id) else { return };
        entry.running = false;
        let (now, chance) = (self.now(), chance());
        match result {
            Ok(svid) => {
                tracing::info!(identity = %id, serial = %svid.serial, "certificate obtained");
                let at = renew_at(svid.not_before, svid.not_after, chance);
                // A CA that does not yet issue from the wanted root is not asked in a loop.
                let other = self.0.preferred.borrow().is_some_and(|root| root != svid.root);
                let pause = if other { OTHER_ROOT_PAUSE } else { Duration::ZERO };
                let earliest = Instant::now() + rest(at, svid.not_after, now).max(pause);
                *entry = Due { at: Some(at), earliest, failures: 0, running: false };
                self.put(svid);
            }
            Err(error) => {
                entry.failures += 1;
                entry.earliest = Instant::now() + backoff(entry.failures, chance);
                self.tell(id, &error, entry.failures, now);
                self.fail(id, &error);
            }
        }
    }

    /// As loud as it is urgent: an outage that nobody notices is no reason to wake anybody.
    fn tell(&self, id: &SpiffeId, error: &RenewError, failures: u32, now: SystemTime) {
        let svid = self.current(id);
        let life = svid.as_ref().map(|svid| (svid.not_before, svid.not_after));
        let kept = svid.as_ref().is_some_and(|svid| svid.is_valid(now));
        let left = svid.and_then(|svid| svid.not_after.duration_since(now).ok()).map_or(0, |d| d.as_secs());
        let cause = error.cause();
        match urgency(life, now) {
            Urgency::Calm => {
                tracing::info!(identity = %id, cause, %error, failures, kept, left_seconds = left, "no new certificate from the CA yet; there is time");
            }
            Urgency::Late => {
                tracing::warn!(identity = %id, cause, %error, failures, kept, left_seconds = left, "no certificate from the CA");
            }
            Urgency::Alarm if kept => {
                tracing::error!(identity = %id, cause, %error, failures, left_seconds = left, "no certificate from the CA, and the one in use is about to expire");
            }
            Urgency::Alarm => {
                tracing::error!(identity = %id, cause, %error, failures, "the certificate has expired: connections of this identity are refused");
            }
        }
    }

    /// One new certificate, verified before anybody sees it.
    async fn obtain<I: Issuer>(&self, issuer: &I, id: &SpiffeId) -> Result<Svid, RenewError> {
        let (key, csr) = key_and_csr()?;
        let life = Duration::from_secs(self.0.life.load(Ordering::Relaxed));
        let answer = issuer.issue(csr, id, life).await?;
        accept(&answer, &key, id, &self.bundle(), self.now())
    }
}

/// When an identity is asked for next. What follows from a certificate goes by the clock; pauses go by
/// the machine's own time, so that a clock that is set right does not make them last for hours.
#[derive(Debug, Clone, Copy)]
struct Due {
    /// The moment of renewal; at once if there is none.
    at: Option<SystemTime>,
    /// Not sooner than this, whatever the clock says.
    earliest: Instant,
    failures: u32,
    running: bool,
}

impl Due {
    fn at_once() -> Self {
        Self { at: None, earliest: Instant::now(), failures: 0, running: false }
    }

    fn wait(&self, now: SystemTime) -> Duration {
        let by_clock = self.at.and_then(|at| at.duration_since(now).ok()).unwrap_or_default();
        by_clock.max(self.earliest.saturating_duration_since(Instant::now()))
    }
}

/// A new key, wiped from memory once its last use here is over, and the request to sign it. The request
/// names nobody: who it is for is said beside it, and settled by the CA.
fn key_and_csr() -> Result<(Zeroizing<KeyPair>, String), RenewError> {
    let failed = |e: rcgen::Error| RenewError::Key(e.to_string());
    let key = Zeroizing::new(KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?);
    let csr =
        CertificateParams::default().serialize_request(&*key).and_then(|csr| csr.pem()).map_err(failed)?;
    Ok((key, csr))
}

pub(crate) fn chance() -> u32 {
    let mut bytes = [0; 4];
    // Without randomness renewals are merely less spread.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u32::from_ne_bytes(bytes)
}

/// Turns a CA's answer into an SVID: our key, exactly the identity that was asked for, leading to a
/// root that was accepted before. Roots in the answer are never trusted for being there.
fn accept(
    answer: &[String],
    key: &KeyPair,
    id: &SpiffeId,
    bundle: &TrustBundle,
    now: SystemTime,
) -> Result<Svid, RenewError> {
    let unusable = |what: &str| RenewError::Answer(what.to_owned());
    let mut chain = Vec::new();
    for pem in answer {
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            chain.push(certificate.map_err(|_| unusable("a certificate is not PEM"))?);
        }
    }
    let Some((leaf, rest)) = chain.split_first() else { return Err(unusable("it is empty")) };
    if rest.len() > 8 {
        return Err(unusable("its chain is longer than eight certificates"));
    }
    let proved = |usage| match verify_path(leaf, rest, bundle, now, usage)? {
        (found, root) if found == *id => Ok(root),
        (found, _) => Err(VerifyError::Mismatch { expected: id.clone(), found }),
    };
    let root = proved(Usage::Client)?;
    proved(Usage::Server)?;
    let (not_before, not_after, serial) = validity(leaf)?;
    let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialized_der()));
    let signing = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&secret)
        .map_err(|e| RenewError::Key(e.to_string()))?;
    // The root is known to whoever accepts it, and proves nothing to others.
    let sent = chain
        .iter()
        .enumerate()
        .filter(|(i, c)| *i == 0 || !bundle.certificates().contains(c))
        .map(|(_, c)| c.clone())
        .collect();
    let certified = CertifiedKey::new(sent, signing);
    certified.keys_match().map_err(|_| unusable("its leaf is for another key than ours"))?;
    Ok(Svid { id: id.clone(), certified: Arc::new(certified), not_before, not_after, serial, root })
}

/// An SVID straight from a CA in this process, for tests and tools.
///
/// # Errors
/// As for one from the network.
pub fn issue_directly(
    ca: &crate::ca::Ca,
    id: &SpiffeId,
    life: Duration,
    bundle: &TrustBundle,
    now: SystemTime,
) -> Result<Svid, RenewError> {
    let (key, csr) = key_and_csr()?;
    let answer = ca.sign(&csr, id, life, now).map_err(|e| RenewError::Answer(e.to_string()))?;
    accept(&answer, &key, id, bundle, now)
}
