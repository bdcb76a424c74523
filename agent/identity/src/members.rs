//! The nodes that may be in the mesh, and how each proves that it is one.
//!
//! A node joins by the token of its line in the file of join tokens. It is good until it expires, and for
//! one exchange: on its stream the node is given a credential, and once it has shown that, the token is
//! worth nothing. Credentials are bearer tokens too, good for [`CREDENTIAL_LIFE`] and replaced each day; the
//! newest that a node has shown makes the older ones worth nothing. Whose line is taken out of the file,
//! or replaced, is out of the mesh with all its credentials. Tokens and credentials are known here by
//! their hashes alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use lark_core::constants::{CREDENTIAL_LIFE, CREDENTIAL_RENEWED};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::kept;
use crate::token::{self, Hash, TokenError, TokenFile};

/// File of the credentials' hashes in a data directory.
const FILE: &str = "nodes.json";
/// A node whose agent is replaced in place has two streams: only one of them gets the new credential.
const PAUSE: Duration = Duration::from_secs(60);

/// Why a token is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// There is none, or it is nobody's (any more).
    #[error(
        "the token is missing or no node's: a node shows that of its line in the controller's file of join tokens, an agent in a cluster that of its pod"
    )]
    Unknown,
    /// Its time is over.
    #[error("the token has expired; make another with `lark token` and replace the node's line")]
    Expired,
    /// It was exchanged already.
    #[error(
        "the join token was used already, it is good for one exchange; make another with `lark token` and replace the node's line"
    )]
    Used,
    /// The cluster's API does not take it; with what it says.
    #[error("{0}")]
    Reviewed(String),
    /// It is of another account than the agents'; with both.
    #[error("{0}")]
    NoAgent(String),
    /// It is bound to no pod on a node.
    #[error(
        "the token is bound to no pod of a node: it must be a projected one, of Kubernetes 1.32 or later"
    )]
    NotBound,
    /// The pod that it is bound to is not known on its node.
    #[error("the token's pod is not known on node {node}: it is gone, or discovery lags behind")]
    PodUnknown {
        /// The node that the token names.
        node: Arc<str>,
    },
    /// Nobody could say; with the reason.
    #[error("{0}; the agent asks again")]
    NotReviewed(String),
}

/// Who shows a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The node.
    pub node: Arc<str>,
    /// Whether it is time for another credential.
    pub due: bool,
    /// What the token belongs to.
    pub membership: Membership,
}

impl Caller {
    /// Why somebody who was let in is no member any more.
    pub(crate) fn left(&self) -> TokenRefused {
        match self.membership {
            Membership::Line(_) => TokenRefused::Unknown,
            Membership::Pod(_) => TokenRefused::PodUnknown { node: self.node.clone() },
        }
    }
}

/// By what somebody is in the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Membership {
    /// By its line among the join tokens, of this hash.
    Line(Hash),
    /// As the agent's pod of this UID.
    Pod(Arc<str>),
}

/// The answer to a token, when it comes.
pub type Authenticated<'a> = Pin<Box<dyn Future<Output = Result<Caller, TokenRefused>> + Send + 'a>>;

/// A credential for a node.
#[derive(Debug)]
pub struct Credential {
    /// The secret.
    pub token: Zeroizing<String>,
    /// Good until.
    pub expires: SystemTime,
}

/// Says which node a bearer token belongs to.
pub trait Authenticator: Send + Sync + 'static {
    /// The node. May be cancelled.
    ///
    /// # Errors
    /// When the token is not accepted.
    fn authenticate<'a>(&'a self, token: &'a str, now: SystemTime) -> Authenticated<'a>;

    /// Whether somebody who was let in before is a member still. The token that he showed then may have
    /// been exchanged since.
    fn is_member(&self, caller: &Caller) -> bool;

    /// Another credential for a node, where nodes get any.
    ///
    /// # Errors
    /// When none can be made or kept.
    fn credential(&self, _node: &str, _now: SystemTime) -> Result<Option<Credential>, MembersError> {
        Ok(None)
    }
}

/// Why there is no credential.
#[derive(Debug, thiserror::Error)]
pub enum MembersError {
    /// The file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is none of ours.
    #[error(
        "{path} is not the controller's file of nodes ({what}): restore it from a backup, or remove it and give each node another join token"
    )]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// No token could be made.
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// What is kept of a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    /// The line by which it joined: another line is another membership.
    #[serde(with = "hex")]
    line: Hash,
    /// Whether it has shown a credential, so that the token is used up.
    joined: bool,
    /// Oldest first.
    credentials: Vec<Issued>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Issued {
    #[serde(with = "hex")]
    hash: Hash,
    /// Seconds since the epoch.
    issued: u64,
    expires: u64,
}

mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::token::Hash;

    pub(super) fn serialize<S: Serializer>(hash: &Hash, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&data_encoding::HEXLOWER.encode(hash))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Hash, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(D::Error::custom)?;
        Hash::try_from(bytes).map_err(|_| D::Error::custom("a hash has 64 hexadecimal digits"))
    }
}

/// The nodes of the mesh: the file of join tokens, and the credentials that were given for them.
#[derive(Debug)]
pub struct Members {
    tokens: Arc<TokenFile>,
    path: PathBuf,
    kept: Mutex<BTreeMap<Arc<str>, Kept>>,
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Members {
    /// Takes the credentials from a data directory.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn open(tokens: Arc<TokenFile>, directory: &Path) -> Result<Self, MembersError> {
        let path = directory.join(FILE);
        let kept = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(MembersError::File { path, source }),
            Ok(text) => match serde_json::from_str(&text) {
                Ok(kept) => kept,
                Err(error) => return Err(MembersError::Form { path, what: error.to_string() }),
            },
        };
        Ok(Self { tokens, path, kept: Mutex::new(kept) })
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn save(&self, kept: &BTreeMap<Arc<str>, Kept>) -> Result<(), MembersError> {
        let failed = |source| MembersError::File { path: self.path.clone(), source };
        let text = serde_json::to_string_pretty(kept)
            .map_err(|e| MembersError::Form { path: self.path.clone(), what: e.to_string() })?;
        kept::write(&self.path, text.as_bytes(), 0o600).map_err(failed)
    }

    fn caller(&self, token: &str, now: SystemTime) -> Result<Caller, TokenRefused> {
        let hash = token::hash(token);
        self.by_token(&hash, now).unwrap_or_else(|| self.by_credential(&hash, now))
    }

    fn by_token(&self, hash: &Hash, now: SystemTime) -> Option<Result<Caller, TokenRefused>> {
        let tokens = self.tokens.tokens();
        let (node, line) = tokens.find(hash)?;
        let joined = self.locked().get(&node).is_some_and(|kept| kept.joined && kept.line == line.hash);
        Some(if joined {
            Err(TokenRefused::Used)
        } else if line.expires.is_some_and(|expires| expires <= now) {
            Err(TokenRefused::Expired)
        } else {
            Ok(Caller { node, due: true, membership: Membership::Line(line.hash) })
        })
    }

    fn by_credential(&self, hash: &Hash, now: SystemTime) -> Result<Caller, TokenRefused> {
        let mut all = self.locked();
        // All are compared, so that timing tells nothing.
        let found = all.iter().fold(None, |found, (node, kept)| {
            let place = |found, (at, issued): (usize, &Issued)| {
                if token::same(&issued.hash, hash) { Some((node.clone(), at)) } else { found }
            };
            kept.credentials.iter().enumerate().fold(found, place)
        });
        let (node, at) = found.ok_or(TokenRefused::Unknown)?;
        let kept = all.get_mut(&node).ok_or(TokenRefused::Unknown)?;
        let is_member = self.tokens.tokens().line(&node).is_some_and(|line| line.hash == kept.line);
        let issued = kept.credentials.get(at).filter(|_| is_member).ok_or(TokenRefused::Unknown)?;
        if issued.expires <= seconds(now) {
            return Err(TokenRefused::Expired);
        }
        let due = seconds(now).saturating_sub(issued.issued) >= CREDENTIAL_RENEWED.as_secs();
        let membership = Membership::Line(kept.line);
        if at > 0 || !kept.joined {
            kept.credentials.drain(..at);
            kept.joined = true;
            if let Err(error) = self.save(&all) {
                tracing::error!(%error, %node, "a node has taken up its credential, and this could not be kept");
            }
        }
        Ok(Caller { node, due, membership })
    }
}

impl Authenticator for Members {
    fn is_member(&self, caller: &Caller) -> bool {
        let tokens = self.tokens.tokens();
        tokens.line(&caller.node).is_some_and(|line| caller.membership == Membership::Line(line.hash))
    }

    fn authenticate<'a>(&'a self, token: &'a str, now: SystemTime) -> Authenticated<'a> {
        Box::pin(std::future::ready(self.caller(token, now)))
    }

    fn credential(&self, node: &str, now: SystemTime) -> Result<Option<Credential>, MembersError> {
        let tokens = self.tokens.tokens();
        let Some(line) = tokens.line(node) else { return Ok(None) };
        let mut all = self.locked();
        let before = all.get(node).filter(|kept| kept.line == line.hash).cloned();
        let mut kept = before.unwrap_or(Kept { line: line.hash, joined: false, credentials: Vec::new() });
        let last = kept.credentials.last().map(|issued| issued.issued);
        if last.is_some_and(|last| seconds(now).saturating_sub(last) < PAUSE.as_secs()) {
            return Ok(None);
        }
        let token = token::secret()?;
        let expires = now + CREDENTIAL_LIFE;
        // The one in use, and the one that it is exchanged for: an agent that never got that asks again.
        kept.credentials.truncate(1);
        let hash = token::hash(&token);
        kept.credentials.push(Issued { hash, issued: seconds(now), expires: seconds(expires) });
        let mut next = all.clone();
        next.retain(|node, _| tokens.line(node).is_some());
        next.insert(node.into(), kept);
        self.save(&next)?;
        *all = next;
        Ok(Some(Credential { token, expires }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct World {
        home: tempfile::TempDir,
        tokens: Arc<TokenFile>,
        now: SystemTime,
    }

    const HOUR: Duration = Duration::from_secs(3600);

    impl World {
        /// A node `one` with a token that is good for an hour; and the token.
        fn new() -> (Self, Zeroizing<String>) {
            let home = tempfile::tempdir().unwrap();
            let now = SystemTime::now();
            let made = token::generate(now + HOUR).unwrap();
            std::fs::write(home.path().join("tokens"), format!("one {}", made.line)).unwrap();
            let tokens = Arc::new(TokenFile::open(&home.path().join("tokens")).unwrap());
            (Self { home, tokens, now }, made.secret)
        }

        /// As the controller has them after a restart.
        fn members(&self) -> Members {
            Members::open(self.tokens.clone(), self.home.path()).unwrap()
        }

        fn line(&self, line: &str) {
            std::fs::write(self.home.path().join("tokens"), line).unwrap();
            self.tokens.reload();
        }
    }

    /// What is settled about the node: whether a credential is due.
    fn shows(members: &Members, token: &str, now: SystemTime) -> Result<bool, TokenRefused> {
        members.caller(token, now).map(|caller| {
            assert!(&*caller.node == "one" && members.is_member(&caller));
            caller.due
        })
    }

    #[test]
    fn a_join_token_is_good_until_its_credential_is_shown_and_for_its_time() {
        let (world, token) = World::new();
        let now = world.now;
        let members = world.members();
        assert_eq!(shows(&members, &token, now), Ok(true));
        assert_eq!(shows(&members, &token, now + HOUR), Err(TokenRefused::Expired));
        let credential = members.credential("one", now).unwrap().unwrap();
        assert!(members.credential("one", now + HOUR / 100).unwrap().is_none(), "one at a time");
        // It never arrived: the token is still good.
        assert_eq!(shows(&world.members(), &token, now), Ok(true));
        assert_eq!(shows(&world.members(), &credential.token, now), Ok(false));
        let members = world.members();
        assert_eq!(shows(&members, &token, now), Err(TokenRefused::Used));
        assert_eq!(shows(&members, &credential.token, now + HOUR), Ok(false));
        for nobody in ["", "lark-guess", "one"] {
            assert_eq!(shows(&members, nobody, now), Err(TokenRefused::Unknown));
        }
    }

    #[test]
    fn a_credential_is_replaced_each_day_and_the_newest_that_was_shown_is_the_only_one() {
        let (world, token) = World::new();
        let members = world.members();
        let mut now = world.now;
        members.caller(&token, now).unwrap();
        let mut current = members.credential("one", now).unwrap().unwrap().token;
        for _ in 0..40 {
            assert_eq!(shows(&members, &current, now), Ok(false));
            now += CREDENTIAL_RENEWED;
            assert_eq!(shows(&members, &current, now), Ok(true));
            let lost = members.credential("one", now).unwrap().unwrap().token;
            now += PAUSE;
            let next = members.credential("one", now).unwrap().unwrap().token;
            assert_eq!(shows(&members, &current, now), Ok(true), "the new one may be lost");
            assert_eq!(shows(&members, &next, now), Ok(false));
            for old in [&current, &lost] {
                assert_eq!(shows(&members, old, now), Err(TokenRefused::Unknown));
            }
            current = next;
        }
        assert_eq!(shows(&members, &current, now + CREDENTIAL_LIFE), Err(TokenRefused::Expired));
    }

    #[test]
    fn whose_line_goes_or_changes_is_out_at_once() {
        let (world, token) = World::new();
        let members = world.members();
        let credential = members.credential("one", world.now).unwrap().unwrap().token;
        assert_eq!(shows(&members, &credential, world.now), Ok(false));
        let was = members.caller(&credential, world.now).unwrap();
        let before = std::fs::read_to_string(world.home.path().join("tokens")).unwrap();
        world.line("");
        assert!(!members.is_member(&was));
        for shown in [&credential, &token] {
            assert_eq!(shows(&members, shown, world.now), Err(TokenRefused::Unknown));
        }
        assert!(members.credential("one", world.now).unwrap().is_none());
        let again = token::generate(world.now + HOUR).unwrap();
        world.line(&format!("one {}", again.line));
        assert_eq!(shows(&members, &credential, world.now), Err(TokenRefused::Unknown));
        assert_eq!(shows(&members, &again.secret, world.now), Ok(true));
        members.credential("one", world.now).unwrap().unwrap();
        world.line(&before);
        assert_eq!(shows(&members, &credential, world.now), Err(TokenRefused::Unknown));
    }

    #[test]
    fn no_secret_is_in_the_file_and_a_broken_file_is_said() {
        let (world, token) = World::new();
        let credential = world.members().credential("one", world.now).unwrap().unwrap().token;
        let path = world.home.path().join(FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&*credential) && !text.contains(&*token) && text.contains("\"one\""));
        std::fs::write(&path, "{").unwrap();
        let error = Members::open(world.tokens.clone(), world.home.path()).unwrap_err();
        assert!(matches!(error, MembersError::Form { .. }), "{error}");
    }
}
