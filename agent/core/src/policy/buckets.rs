//! Rules by what a peer must have so that they match: of thousands of rules few are looked at.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// What a peer has, and a rule asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Token<'a> {
    /// Nothing that could be looked up.
    Any,
    /// Namespace and account of its identity.
    Account(&'a str, &'a str),
    /// Its namespace.
    Namespace(&'a str),
    /// A label with its value.
    Label(&'a str, &'a str),
}

impl Token<'_> {
    /// Two tokens of one hash share a bucket, which costs a look at rules that then do not match.
    fn hashed(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

/// Places of a policy and of a rule in it.
pub(super) type Place = (u32, u32);

/// Rules under their tokens. Each rule is under enough of them that a peer it matches has one.
#[derive(Debug, Clone, Default)]
pub(super) struct Buckets(HashMap<u64, Vec<Place>>);

impl Buckets {
    /// Adds a rule. Rules come in order.
    pub(super) fn add(&mut self, token: Token<'_>, place: Place) {
        let bucket = self.0.entry(token.hashed()).or_default();
        if bucket.last() != Some(&place) {
            bucket.push(place);
        }
    }

    /// The first rule, in order, under one of the tokens that holds.
    pub(super) fn first<'t>(
        &self,
        tokens: impl Iterator<Item = Token<'t>>,
        holds: impl Fn(Place) -> bool,
    ) -> Option<Place> {
        let buckets = tokens.filter_map(|token| self.0.get(&token.hashed()));
        buckets.filter_map(|bucket| bucket.iter().copied().find(|place| holds(*place))).min()
    }
}
