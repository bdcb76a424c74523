//! AuthorizationPolicy (`lark.mesh/v1alpha1`), read and found possible: who may connect to a workload.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::block::Block;
use super::buckets::Token;
use super::selector::Selector;
use super::{Attempt, End};
use crate::identity::SpiffeId;

/// What a policy does with what its rules match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Lets it through; what no ALLOW matches is then denied.
    Allow,
    /// Denies it, whatever is allowed elsewhere.
    Deny,
}

impl Action {
    /// The word in manifests and tables.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
        }
    }
}

/// Whose workloads a policy's selector is applied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Those of all namespaces: the policy is in Lark's own namespace.
    Mesh,
    /// Those of the policy's namespace.
    Namespace,
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Where its selector looks.
    pub scope: Scope,
    /// The workloads that it protects.
    pub selector: Selector,
    /// What it does.
    pub action: Action,
    /// Whether it only says what it would do.
    pub dry_run: bool,
    /// What it matches: any of these. None matches nothing, so that an ALLOW without rules closes.
    pub rules: Vec<AuthorizationRule>,
}

/// One rule: from any of these, to any of these ports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthorizationRule {
    /// Who connects; none for anybody, known or not.
    pub from: Vec<Source>,
    /// To which ports; none for all.
    pub ports: Vec<RangeInclusive<u16>>,
}

/// Who connects: each field that is given must hold, of its values any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    /// The proved identity.
    pub identities: Vec<IdentityPattern>,
    /// The namespace of the proved identity.
    pub namespaces: Vec<String>,
    /// Namespace and account of the proved identity.
    pub accounts: Vec<(String, String)>,
    /// The address.
    pub blocks: Vec<Block>,
    /// Whether any proved identity will do.
    pub authenticated: bool,
}

/// Identities by whole path segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityPattern {
    /// Exactly this one.
    Exact(SpiffeId),
    /// All that begin with this, which ends in `/`.
    Below(String),
}

impl IdentityPattern {
    fn matches(&self, identity: &SpiffeId) -> bool {
        match self {
            Self::Exact(exact) => exact == identity,
            Self::Below(prefix) => identity.as_str().starts_with(prefix),
        }
    }
}

impl std::fmt::Display for IdentityPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(exact) => write!(f, "{exact}"),
            Self::Below(prefix) => write!(f, "{prefix}*"),
        }
    }
}

impl AuthorizationRule {
    /// Under what it is looked up: whom it matches has one of these.
    pub(super) fn tokens(&self) -> Vec<Token<'_>> {
        if self.from.is_empty() {
            vec![Token::Any]
        } else {
            self.from.iter().flat_map(Source::tokens).collect()
        }
    }

    pub(super) fn is_to(&self, port: u16) -> bool {
        self.ports.is_empty() || self.ports.iter().any(|range| range.contains(&port))
    }

    pub(super) fn matches(&self, attempt: &Attempt<'_>) -> bool {
        self.is_to(attempt.port)
            && (self.from.is_empty() || self.from.iter().any(|source| source.matches(&attempt.source)))
    }
}

impl Source {
    fn tokens(&self) -> Vec<Token<'_>> {
        let exact = self.identities.iter().map(|pattern| match pattern {
            IdentityPattern::Exact(id) => Some(Token::Account(id.namespace(), id.account())),
            IdentityPattern::Below(_) => None,
        });
        if let Some(tokens) = exact.collect::<Option<Vec<_>>>().filter(|tokens| !tokens.is_empty()) {
            tokens
        } else if !self.accounts.is_empty() {
            self.accounts.iter().map(|(namespace, account)| Token::Account(namespace, account)).collect()
        } else if !self.namespaces.is_empty() {
            self.namespaces.iter().map(|namespace| Token::Namespace(namespace)).collect()
        } else {
            vec![Token::Any]
        }
    }

    /// Whether it can be somebody who has proved nothing.
    pub(super) fn is_of_the_unproved(&self) -> bool {
        let none = self.identities.is_empty() && self.namespaces.is_empty() && self.accounts.is_empty();
        none && !self.authenticated
    }

    fn matches(&self, end: &End<'_>) -> bool {
        let identity = end.workload.filter(|_| end.proved).map(|w| &w.identity);
        let proved = |holds: &dyn Fn(&SpiffeId) -> bool| identity.is_some_and(holds);
        (self.identities.is_empty() || proved(&|id| self.identities.iter().any(|p| p.matches(id))))
            && (self.namespaces.is_empty()
                || proved(&|id| self.namespaces.iter().any(|n| n == id.namespace())))
            && (self.accounts.is_empty()
                || proved(&|id| self.accounts.iter().any(|(n, a)| n == id.namespace() && a == id.account())))
            && (self.blocks.is_empty() || self.blocks.iter().any(|block| block.contains(end.address)))
            && (!self.authenticated || identity.is_some())
    }
}
