//! SPIFFE identities (SPIFFE-ID, section 2) in the one form Lark issues, and the schedule of their
//! certificates.

/// When certificates are renewed.
pub mod schedule;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The name under which a mesh issues identities, for example `cluster.local`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(Arc<str>);

/// `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT`, compared byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    uri: Arc<str>,
    /// Offsets of trust domain end, namespace start and end, account start in `uri`.
    domain_end: u16,
    namespace_end: u16,
}

/// Why a text is no identity of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The trust domain has a character other than `[a-z0-9._-]`, is empty or over 255 bytes.
    #[error("trust domain {0:?} must be 1 to 255 of a-z, 0-9, '.', '-' and '_'")]
    TrustDomain(String),
    /// A namespace or account is empty, over 253 bytes or has a character Kubernetes does not allow.
    #[error("{what} {value:?} must be 1 to 253 of a-z, 0-9, '.' and '-'")]
    Segment {
        /// `namespace` or `account`.
        what: &'static str,
        /// What was given.
        value: String,
    },
    /// The text has another form than `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
    #[error("{0:?} is not of the form spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT")]
    Form(String),
}

const SCHEME: &str = "spiffe://";

impl TrustDomain {
    /// Parses a trust domain.
    ///
    /// # Errors
    /// When it breaks SPIFFE-ID section 2.1.
    pub fn new(name: &str) -> Result<Self, IdentityError> {
        let valid = (1..=255).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b));
        if valid { Ok(Self(name.into())) } else { Err(IdentityError::TrustDomain(name.to_owned())) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn segment(what: &'static str, value: &str) -> Result<(), IdentityError> {
    // RFC 1123 subdomain, as Kubernetes names accounts; namespaces are a subset of it.
    let valid = (1..=253).contains(&value.len())
        && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-".contains(&b))
        && value.split('.').all(|l| !l.is_empty() && !l.starts_with('-') && !l.ends_with('-'));
    if valid { Ok(()) } else { Err(IdentityError::Segment { what, value: value.to_owned() }) }
}

impl SpiffeId {
    /// The identity of an account in a namespace.
    ///
    /// # Errors
    /// When a part has a form Kubernetes would not accept.
    pub fn new(domain: &TrustDomain, namespace: &str, account: &str) -> Result<Self, IdentityError> {
        segment("namespace", namespace)?;
        segment("account", account)?;
        let uri = format!("{SCHEME}{}/ns/{namespace}/sa/{account}", domain.as_str());
        let offset = |n: usize| u16::try_from(n).map_err(|_| IdentityError::Form(uri.clone()));
        let domain_end = SCHEME.len() + domain.as_str().len();
        let namespace_end = domain_end + "/ns/".len() + namespace.len();
        Ok(Self { domain_end: offset(domain_end)?, namespace_end: offset(namespace_end)?, uri: uri.into() })
    }

    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The whole URI, shared with others that hold it.
    pub fn text(&self) -> Arc<str> {
        self.uri.clone()
    }

    /// The whole URI, to be exchanged for an equal one that others hold.
    pub(crate) const fn shared_text(&mut self) -> &mut Arc<str> {
        &mut self.uri
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &str {
        self.part(SCHEME.len(), self.domain_end.into())
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        self.part(usize::from(self.domain_end) + "/ns/".len(), self.namespace_end.into())
    }

    /// The service account.
    pub fn account(&self) -> &str {
        self.part(usize::from(self.namespace_end) + "/sa/".len(), self.uri.len())
    }

    fn part(&self, from: usize, to: usize) -> &str {
        // The offsets were computed when the URI was put together, so the slice always exists.
        self.uri.get(from..to).unwrap_or_default()
    }
}

impl FromStr for SpiffeId {
    type Err = IdentityError;

    /// Parses exactly the canonical form; anything else is an error, never a best guess.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || IdentityError::Form(text.chars().take(512).collect());
        let rest = text.strip_prefix(SCHEME).ok_or_else(form)?;
        let mut parts = rest.split('/');
        let (Some(domain), Some("ns"), Some(namespace), Some("sa"), Some(account), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(form());
        };
        Self::new(&TrustDomain::new(domain)?, namespace, account)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = IdentityError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.uri.as_ref().to_owned()
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = IdentityError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text)
    }
}

impl From<TrustDomain> for String {
    fn from(domain: TrustDomain) -> Self {
        domain.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_parsed_into_its_parts_and_back() {
        let text = "spiffe://cluster.local/ns/shop/sa/web.front";
        let id: SpiffeId = text.parse().unwrap();
        assert_eq!((id.trust_domain(), id.namespace(), id.account()), ("cluster.local", "shop", "web.front"));
        assert_eq!(id.to_string(), text);
    }

    #[test]
    fn odd_texts_are_no_identities() {
        for text in [
            "",
            "spiffe://",
            "spiffe://d",
            "spiffe://d/ns/a/sa/",
            "spiffe://d/ns/a/sa/b/",
            "spiffe://d/ns/a/sa/b/c",
            "SPIFFE://d/ns/a/sa/b",
            "spiffe://D/ns/a/sa/b",
            "spiffe://d/ns/a/sa/b?x",
            "spiffe://d/ns/a/sa/b\0",
            "spiffe://d/ns/../sa/b",
            "spiffe://d/ns/a/sa/%62",
            "spiffe://d:1/ns/a/sa/b",
            "spiffe://d/ns//sa/b",
            "spiffe://d/ns/a/sa/B",
            "spiffe://d/ns/a/sa/b*",
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text:?} was taken for an identity");
        }
        assert!(format!("spiffe://d/ns/a/sa/{}", "x".repeat(254)).parse::<SpiffeId>().is_err());
        assert!(format!("spiffe://d/ns/a/sa/{}", "x".repeat(253)).parse::<SpiffeId>().is_ok());
    }
}
