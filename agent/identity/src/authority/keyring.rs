//! The roots of a mesh with their keys, as one value. What it becomes is decided here; where it is kept, and that it is
//! kept before anything follows from it, is the matter of whoever holds it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use lark_core::identity::TrustDomain;
use lark_core::rotation::{NodeFacts, Phase, RootId, RotationRefused, State, Step, step};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

use super::{AuthorityError, Offered, Trust, id_of, seconds};
use crate::ca::{Ca, CaError, to_pem};
use crate::svid::root_id;

/// Name of the state among what is kept.
const STATE: &str = "state.json";

/// Why what was kept cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The state is missing or none.
    #[error("{STATE} is not the state of a CA ({0})")]
    State(String),
    /// A root is missing, or another one is there under its name.
    #[error("{file} is missing or not root {}, which {STATE} names", .root.short())]
    Root {
        /// Under which name it should be.
        file: String,
        /// Which root.
        root: RootId,
    },
    /// A CA cannot be used.
    #[error("the CA of root {} cannot be used: {what}", .root.short())]
    Ca {
        /// Which root.
        root: RootId,
        /// Why.
        what: String,
    },
}

/// Roots, keys and the state of their rotation.
#[derive(Debug, Clone)]
pub struct Keyring {
    pub(super) state: State,
    /// Those whose keys are here.
    pub(super) cas: BTreeMap<RootId, Arc<Ca>>,
    pub(super) roots: BTreeMap<RootId, CertificateDer<'static>>,
    /// Those whose keys are kept with the state, and not by somebody else.
    pub(super) own: BTreeSet<RootId>,
}

/// The roots whose keys a state needs.
pub(super) fn keys(state: &State) -> impl Iterator<Item = RootId> + use<> {
    let goes = match state.phase {
        Phase::Retire { goes, .. } => Some(goes),
        _ => None,
    };
    state.phase.roots().into_iter().filter(move |root| Some(*root) != goes)
}

pub(super) fn certificate_name(root: RootId) -> String {
    format!("{}.pem", root.short())
}

pub(super) fn key_name(root: RootId) -> String {
    format!("{}.key", root.short())
}

impl Keyring {
    /// A CA of Lark's own, the first one.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make(domain: &TrustDomain, now: SystemTime) -> Result<Self, CaError> {
        let mut keyring = Self::given(Arc::new(Ca::create(domain, now)?.0), now)?;
        keyring.own = keyring.cas.keys().copied().collect();
        Ok(keyring)
    }

    /// A CA whose key somebody else keeps.
    ///
    /// # Errors
    /// When it has no certificate.
    pub fn given(ca: Arc<Ca>, now: SystemTime) -> Result<Self, CaError> {
        let root = id_of(&ca)?;
        let roots = ca.chain().last().map(|certificate| (root, certificate.clone())).into_iter().collect();
        let state = State::steady(root, seconds(now));
        Ok(Self { state, cas: [(root, ca)].into(), roots, own: BTreeSet::new() })
    }

    /// Where the rotation is.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What nodes are to be told.
    pub fn trust(&self) -> Trust {
        let plan = self.state.plan();
        let roots = plan.trusted.iter().filter_map(|id| self.roots.get(id).cloned()).collect();
        Trust { epoch: self.state.epoch, roots, issuer: plan.issuer }
    }

    /// The accepted roots as PEM.
    pub fn trusted_pem(&self) -> String {
        self.trust().roots.iter().map(to_pem).collect()
    }

    /// A rotation to a root made here.
    ///
    /// # Errors
    /// When one is under way, or no root can be made.
    pub fn rotate(&self, domain: &TrustDomain, now: SystemTime) -> Result<Self, AuthorityError> {
        if !matches!(self.state.phase, Phase::Steady { .. }) {
            return Err(RotationRefused::UnderWay(self.state.phase.label()).into());
        }
        let ca = Arc::new(Ca::create(domain, now)?.0);
        let root = id_of(&ca)?;
        let mut next = self.begin(ca, now)?;
        next.own.insert(root);
        Ok(next)
    }

    /// Takes up a CA of somebody else's, as far as that is possible now.
    ///
    /// # Errors
    /// When it has no certificate.
    pub fn offer(&self, ca: Arc<Ca>, now: SystemTime) -> Result<(Self, Offered), AuthorityError> {
        let root = id_of(&ca)?;
        if self.roots.contains_key(&root) {
            // One whose key was not here, too: now it is.
            let same = self.cas.get(&root).is_some_and(|known| known.chain() == ca.chain());
            let mut next = self.clone();
            if !same {
                next.cas.insert(root, ca);
            }
            return Ok((next, if same { Offered::Same } else { Offered::Swapped }));
        }
        let Phase::Steady { root: old } = self.state.phase else {
            return Ok((self.clone(), Offered::Waits));
        };
        if self.state.taken_back == Some(root) {
            return Ok((self.clone(), Offered::TakenBack));
        }
        let mut next = self.begin(ca, now)?;
        if next.cas.contains_key(&old) {
            // Whoever kept it has another now: what every node trusts must last until nobody needs it.
            next.own.insert(old);
        }
        Ok((next, Offered::Begun))
    }

    /// The same, though a rotation to its root was taken back: a person wishes it.
    ///
    /// # Errors
    /// When it has no certificate.
    pub fn offer_again(&self, ca: Arc<Ca>, now: SystemTime) -> Result<(Self, Offered), AuthorityError> {
        let mut anew = self.clone();
        anew.state.taken_back = None;
        anew.offer(ca, now)
    }

    fn begin(&self, ca: Arc<Ca>, now: SystemTime) -> Result<Self, AuthorityError> {
        let root = id_of(&ca)?;
        let mut next = self.with(self.state.begin(root, seconds(now))?);
        next.roots.extend(ca.chain().last().map(|certificate| (root, certificate.clone())));
        next.cas.insert(root, ca);
        Ok(next)
    }

    /// The rotation taken back; and nothing begins by itself to `given`, the root that the CA of somebody else's has now.
    ///
    /// # Errors
    /// When there is none, or it is too late.
    pub fn abort(&self, given: Option<RootId>, now: SystemTime) -> Result<Self, RotationRefused> {
        let state = self.state.abort(seconds(now))?;
        let taken_back = given.filter(|root| *root != state.plan().issuer);
        Ok(self.with(State { taken_back, ..state }))
    }

    /// The rotation without those nodes, for as long as they stay silent.
    ///
    /// # Errors
    /// When there is none.
    pub fn without(&self, nodes: impl IntoIterator<Item = String>) -> Result<Self, RotationRefused> {
        Ok(self.with(self.state.without(nodes)?))
    }

    /// The next phase, if it may begin.
    pub fn advance(&self, nodes: &[NodeFacts], now: SystemTime) -> Option<Self> {
        match step(&self.state, nodes, seconds(now)) {
            Step::Next(next) => Some(self.with(next)),
            Step::Stay(_) => None,
        }
    }

    /// This with another state, and without what that does not need.
    fn with(&self, state: State) -> Self {
        let mut next = self.clone();
        let (named, keys) = (state.phase.roots(), keys(&state).collect::<BTreeSet<_>>());
        next.roots.retain(|root, _| named.contains(root));
        next.cas.retain(|root, _| keys.contains(root));
        next.own.retain(|root| keys.contains(root));
        next.state = state;
        next
    }

    /// All that has to be kept, by name: the state, each root's certificate, and the keys that nobody else keeps.
    ///
    /// # Errors
    /// When the state cannot be written.
    pub fn encode(&self) -> Result<BTreeMap<String, Zeroizing<String>>, KeyringError> {
        let state = serde_json::to_string_pretty(&self.state);
        let state = state.map_err(|error| KeyringError::State(error.to_string()))?;
        let mut all = BTreeMap::from([(STATE.to_owned(), Zeroizing::new(state))]);
        for (root, certificate) in &self.roots {
            let own = self.cas.get(root).filter(|_| self.own.contains(root)).map(|ca| ca.secrets());
            let (chain, secret) = match own {
                Some((chain, secret)) => (chain, Some(secret)),
                None => (to_pem(certificate), None),
            };
            all.insert(certificate_name(*root), Zeroizing::new(chain));
            all.extend(secret.map(|secret| (key_name(*root), secret)));
        }
        Ok(all)
    }

    /// Reads what was kept. Keys that somebody else keeps are taken from `given` and `before`.
    ///
    /// # Errors
    /// When something is missing or wrong: then nothing is made up for it.
    pub fn decode(
        all: &BTreeMap<String, Vec<u8>>,
        given: Option<&Arc<Ca>>,
        before: Option<&Self>,
    ) -> Result<Self, KeyringError> {
        let state = all.get(STATE).ok_or_else(|| KeyringError::State("it is missing".to_owned()))?;
        let state: State =
            serde_json::from_slice(state).map_err(|error| KeyringError::State(error.to_string()))?;
        let mut keyring = Self { state, cas: BTreeMap::new(), roots: BTreeMap::new(), own: BTreeSet::new() };
        let keys: BTreeSet<RootId> = keys(&keyring.state).collect();
        for root in keyring.state.phase.roots() {
            let missing = || KeyringError::Root { file: certificate_name(root), root };
            let pem = all.get(&certificate_name(root)).ok_or_else(missing)?;
            let last = CertificateDer::pem_slice_iter(pem).last().and_then(Result::ok);
            let certificate = last.filter(|certificate| root_id(certificate) == root).ok_or_else(missing)?;
            keyring.roots.insert(root, certificate);
            let known = before.and_then(|before| before.cas.get(&root)).cloned();
            if let Some(key) = all.get(&key_name(root)).filter(|_| keys.contains(&root)) {
                keyring.own.insert(root);
                let ca = match known {
                    Some(known) => known,
                    None => {
                        let wrong = |what| KeyringError::Ca { root, what };
                        let text = |bytes| std::str::from_utf8(bytes).map_err(|e| wrong(e.to_string()));
                        Arc::new(Ca::from_pem(text(pem)?, text(key)?).map_err(wrong)?)
                    }
                };
                keyring.cas.insert(root, ca);
                continue;
            }
            let given = given.filter(|ca| ca.root_id() == Some(root)).cloned();
            if let Some(ca) = given.or(known).filter(|_| keys.contains(&root)) {
                keyring.cas.insert(root, ca);
            }
        }
        Ok(keyring)
    }
}
