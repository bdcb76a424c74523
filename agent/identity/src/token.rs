//! Join tokens: one a node, good for a while, known to the controller only by its hash.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use aws_lc_rs::{constant_time, digest, rand};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

/// Bytes of a token before encoding.
const TOKEN_BYTES: usize = 32;
/// How often the file is looked at: a node that joins waits no longer than that.
const RELOAD_EVERY: Duration = Duration::from_secs(2);

/// Why a file of tokens cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It cannot be read.
    #[error("join tokens {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line is wrong.
    #[error(
        "join tokens {path}, line {line}: {what}; a line is `NODE HASH EXPIRES` as `lark token` prints it"
    )]
    Line {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// Two nodes have one token, so that nobody could say which of them shows it.
    #[error(
        "join tokens {path}, line {line}: node {node} has the token of node {other}; make one for each by `lark token`"
    )]
    Shared {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// The line's node.
        node: Arc<str>,
        /// The node that has it already.
        other: Arc<str>,
    },
    /// The system has no randomness.
    #[error("the system gives no random bytes")]
    Random,
    /// No calendar goes that far.
    #[error("the token would be good for longer than any calendar knows; give a shorter --ttl")]
    TooFar,
}

/// SHA-256 of a token: what the controller knows of it.
pub type Hash = [u8; digest::SHA256_OUTPUT_LEN];

/// A line of the file: the node may be in the mesh, and may join by the token until it expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) hash: Hash,
    /// Good until; without an end the token is good until it is used.
    pub(crate) expires: Option<SystemTime>,
}

/// The nodes of the mesh with the hashes of their tokens.
#[derive(Debug, Clone, Default)]
pub struct JoinTokens {
    nodes: HashMap<Arc<str>, Line>,
}

/// A token: the secret for the node, and the rest of the controller's line.
#[derive(Debug)]
pub struct Generated {
    /// For the node.
    pub secret: Zeroizing<String>,
    /// `HASH EXPIRES`, for the controller.
    pub line: String,
}

/// The hash of a token.
pub fn hash(token: &str) -> Hash {
    let mut hash = [0; digest::SHA256_OUTPUT_LEN];
    let digest = digest::digest(&digest::SHA256, token.as_bytes());
    hash.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    hash
}

/// A secret that nobody can guess.
pub(crate) fn secret() -> Result<Zeroizing<String>, TokenError> {
    let mut bytes = Zeroizing::new([0; TOKEN_BYTES]);
    rand::fill(bytes.as_mut_slice()).map_err(|_| TokenError::Random)?;
    Ok(Zeroizing::new(format!("lark-{}", data_encoding::BASE64URL_NOPAD.encode(bytes.as_slice()))))
}

/// Whether two hashes are equal; takes as long for unequal ones.
pub(crate) fn same(one: &Hash, other: &Hash) -> bool {
    constant_time::verify_slices_are_equal(one, other).is_ok()
}

/// Makes a token that is good until `expires`; to the second.
///
/// # Errors
/// When the system has no randomness.
pub fn generate(expires: SystemTime) -> Result<Generated, TokenError> {
    let secret = secret()?;
    let hash = data_encoding::HEXLOWER.encode(&hash(&secret));
    let whole = OffsetDateTime::from(expires).replace_nanosecond(0).ok();
    let until = whole.and_then(|at| at.format(&Rfc3339).ok()).ok_or(TokenError::TooFar)?;
    Ok(Generated { secret, line: format!("{hash} {until}") })
}

impl JoinTokens {
    /// Reads a file of `NODE HASH EXPIRES` lines; empty ones and what is after `#` do not count. Without
    /// EXPIRES a token is good until it is used.
    ///
    /// # Errors
    /// When it cannot be read or a line is wrong.
    pub fn load(path: &Path) -> Result<Self, TokenError> {
        Self::parse(path, &read(path)?)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, TokenError> {
        let mut nodes = HashMap::new();
        let mut owners: HashMap<Hash, Arc<str>> = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let wrong = |what| TokenError::Line { path: path.to_owned(), line: number + 1, what };
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let Some(node) = words.next().map(Arc::<str>::from) else { continue };
            let hash = words.next().ok_or(wrong("there is no hash"))?;
            let hash = data_encoding::HEXLOWER
                .decode(hash.as_bytes())
                .ok()
                .and_then(|h| Hash::try_from(h).ok())
                .ok_or(wrong("the hash is not 64 hexadecimal digits"))?;
            let expires = words.next().map(|at| OffsetDateTime::parse(at, &Rfc3339)).transpose();
            let expires = expires.map_err(|_| wrong("the end is no time such as 2030-12-31T23:59:59Z"))?;
            if words.next().is_some() {
                return Err(wrong("there is something after the end"));
            }
            let line = Line { hash, expires: expires.map(SystemTime::from) };
            if nodes.insert(node.clone(), line).is_some() {
                return Err(wrong("the node has a token already"));
            }
            if let Some(other) = owners.insert(hash, node.clone()) {
                return Err(TokenError::Shared { path: path.to_owned(), line: number + 1, node, other });
            }
        }
        Ok(Self { nodes })
    }

    /// The node whose token has that hash, with its line.
    pub(crate) fn find(&self, hash: &Hash) -> Option<(Arc<str>, &Line)> {
        // All are compared, each in constant time, so that timing tells nothing.
        self.nodes.iter().fold(
            None,
            |found, (node, line)| {
                if same(&line.hash, hash) { Some((node.clone(), line)) } else { found }
            },
        )
    }

    /// A node's line.
    pub(crate) fn line(&self, node: &str) -> Option<&Line> {
        self.nodes.get(node)
    }
}

fn read(path: &Path) -> Result<String, TokenError> {
    std::fs::read_to_string(path).map_err(|source| TokenError::File { path: path.to_owned(), source })
}

/// A file of join tokens that may change while the controller runs.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    /// What was last read, so that nothing is told twice.
    text: Mutex<Result<String, String>>,
    tokens: ArcSwap<JoinTokens>,
}

impl TokenFile {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read or a line is wrong.
    pub fn open(path: &Path) -> Result<Self, TokenError> {
        let text = read(path)?;
        let tokens = ArcSwap::from_pointee(JoinTokens::parse(path, &text)?);
        Ok(Self { path: path.to_owned(), text: Mutex::new(Ok(text)), tokens })
    }

    /// The tokens as of the last good reading.
    pub fn tokens(&self) -> Arc<JoinTokens> {
        self.tokens.load_full()
    }

    /// Reads the file again. One that is not usable keeps what was known, and is told of once.
    pub fn reload(&self) {
        let read = read(&self.path);
        let seen = match &read {
            Ok(text) => Ok(text.clone()),
            Err(error) => Err(error.to_string()),
        };
        let mut last = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        if *last == seen {
            return;
        }
        *last = seen;
        match read.and_then(|text| JoinTokens::parse(&self.path, &text)) {
            Ok(tokens) => {
                tracing::info!(path = %self.path.display(), nodes = tokens.nodes.len(), "join tokens loaded");
                self.tokens.store(Arc::new(tokens));
            }
            Err(error) => tracing::error!(%error, "join tokens not usable; those known before stay"),
        }
    }

    /// Reads the file again every two seconds, for ever. To be dropped at will.
    pub async fn follow(self: Arc<Self>) {
        loop {
            tokio::time::sleep(RELOAD_EVERY).await;
            self.reload();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> Generated {
        generate(SystemTime::now() + Duration::from_secs(60)).unwrap()
    }

    fn node(tokens: &JoinTokens, token: &str) -> Option<String> {
        tokens.find(&hash(token)).map(|(node, _)| node.to_string())
    }

    #[test]
    fn a_token_names_its_node_and_nothing_else_does() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("tokens");
        let (one, two) = (made(), made());
        std::fs::write(&path, format!("# nodes\none {}\n\ntwo\t{} # spare\n", one.line, two.line)).unwrap();
        let tokens = JoinTokens::load(&path).unwrap();
        assert_eq!(node(&tokens, &one.secret).as_deref(), Some("one"));
        let bare = one.line.split(' ').next().unwrap();
        assert_eq!([bare, &one.line, ""].map(|token| node(&tokens, token)), [None, None, None]);
        let line = tokens.line("one").unwrap();
        let left = line.expires.unwrap().duration_since(SystemTime::now()).unwrap();
        assert!((58..=60).contains(&left.as_secs()), "{left:?}");
        std::fs::write(&path, format!("one {bare}")).unwrap();
        assert_eq!(JoinTokens::load(&path).unwrap().line("one").unwrap().expires, None);
        for (text, sentence) in [
            (format!("one {bare}\none {bare}"), "line 2: the node has a token"),
            (format!("one {bare}\n\ntwo {}", one.line), "line 3: node two has the token of node one"),
            ("one".to_owned(), "line 1: there is no hash"),
            ("one abc".to_owned(), "line 1: the hash is not 64"),
            (format!("one {bare} tomorrow"), "line 1: the end is no time"),
            (format!("one {} more", one.line), "line 1: there is something after"),
        ] {
            std::fs::write(&path, &text).unwrap();
            let error = JoinTokens::load(&path).unwrap_err().to_string();
            assert!(error.contains(sentence), "{text}: {error}");
        }
    }

    #[test]
    fn a_changed_file_counts_and_a_broken_one_does_not() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("tokens");
        let (one, two) = (made(), made());
        std::fs::write(&path, format!("one {}\n", one.line)).unwrap();
        let file = TokenFile::open(&path).unwrap();
        let nodes = || [&one, &two].map(|token| node(&file.tokens(), &token.secret));
        assert_eq!(nodes(), [Some("one".to_owned()), None]);
        std::fs::write(&path, format!("two {}\n", two.line)).unwrap();
        file.reload();
        assert_eq!(nodes(), [None, Some("two".to_owned())]);
        for broken in [Some("one nonsense"), None] {
            match broken {
                Some(text) => std::fs::write(&path, text).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            file.reload();
            assert_eq!(nodes(), [None, Some("two".to_owned())]);
        }
    }
}
