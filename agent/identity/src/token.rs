//! Join tokens: one a node, known to the controller only by its hash.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::{constant_time, digest, rand};

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
    #[error("join tokens {path}, line {line}: {what}; a line is `NODE HASH` as `lark token` prints it")]
    Line {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// The system has no randomness.
    #[error("the system gives no random bytes")]
    Random,
}

/// The hashes of the nodes' tokens.
#[derive(Debug, Clone, Default)]
pub struct JoinTokens {
    nodes: HashMap<Arc<str>, Vec<u8>>,
}

/// Makes a token: the secret for the node, and the hash for the controller.
///
/// # Errors
/// When the system has no randomness.
pub fn generate() -> Result<(String, String), TokenError> {
    let mut bytes = [0; TOKEN_BYTES];
    rand::fill(&mut bytes).map_err(|_| TokenError::Random)?;
    let token = format!("lark-{}", data_encoding::BASE64URL_NOPAD.encode(&bytes));
    let hash = data_encoding::HEXLOWER.encode(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    Ok((token, hash))
}

impl JoinTokens {
    /// Reads a file of `NODE HASH` lines; empty ones and those after `#` do not count.
    ///
    /// # Errors
    /// When it cannot be read or a line is wrong.
    pub fn load(path: &Path) -> Result<Self, TokenError> {
        Self::parse(path, &read(path)?)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, TokenError> {
        let mut nodes = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let wrong = |what| TokenError::Line { path: path.to_owned(), line: number + 1, what };
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let (node, hash) = line.split_once(char::is_whitespace).ok_or(wrong("there is no hash"))?;
            let hash = data_encoding::HEXLOWER
                .decode(hash.trim().as_bytes())
                .ok()
                .filter(|h| h.len() == digest::SHA256_OUTPUT_LEN)
                .ok_or(wrong("the hash is not 64 hexadecimal digits"))?;
            if nodes.insert(node.into(), hash).is_some() {
                return Err(wrong("the node has a token already"));
            }
        }
        Ok(Self { nodes })
    }

    /// The node whose token this is.
    pub fn node(&self, token: &str) -> Option<Arc<str>> {
        let hash = digest::digest(&digest::SHA256, token.as_bytes());
        // All are compared, each in constant time, so that timing tells nothing.
        self.nodes.iter().fold(None, |found, (node, known)| {
            if constant_time::verify_slices_are_equal(known, hash.as_ref()).is_ok() {
                Some(node.clone())
            } else {
                found
            }
        })
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

    #[test]
    fn a_token_names_its_node_and_nothing_else_does() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("tokens");
        let (one, hash_one) = generate().unwrap();
        let (_, hash_two) = generate().unwrap();
        std::fs::write(&path, format!("# nodes\none {hash_one}\n\ntwo\t{hash_two} # spare\n")).unwrap();
        let tokens = JoinTokens::load(&path).unwrap();
        assert_eq!(tokens.node(&one).as_deref(), Some("one"));
        assert_eq!(tokens.node(&hash_one), None);
        assert_eq!(tokens.node(""), None);
        std::fs::write(&path, format!("one {hash_one}\none {hash_one}")).unwrap();
        assert!(JoinTokens::load(&path).unwrap_err().to_string().contains("line 2: the node has a token"));
        std::fs::write(&path, "one").unwrap();
        assert!(JoinTokens::load(&path).unwrap_err().to_string().contains("line 1: there is no hash"));
    }

    #[test]
    fn a_changed_file_counts_and_a_broken_one_does_not() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("tokens");
        let ((one, hash_one), (two, hash_two)) = (generate().unwrap(), generate().unwrap());
        std::fs::write(&path, format!("one {hash_one}\n")).unwrap();
        let file = TokenFile::open(&path).unwrap();
        let nodes = || [&one, &two].map(|token| file.tokens().node(token).map(|n| n.to_string()));
        assert_eq!(nodes(), [Some("one".to_owned()), None]);
        std::fs::write(&path, format!("two {hash_two}\n")).unwrap();
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
