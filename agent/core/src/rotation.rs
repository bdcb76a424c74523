//! Replacing the root of a mesh while it carries traffic: which roots are trusted, which one issues, and
//! when the next phase may begin. Pure: what nodes hold and the time are arguments. The whole state is one
//! small value that is kept on disk, and what is to be done follows from it alone ([`State::plan`]), so a
//! controller that was killed goes on where it was.
//!
//! Invariant, in every phase and on the way back too: no node that takes part lacks the root of an SVID
//! that is still valid. A node takes part while it has a valid SVID itself.
//!
//! What a node reports counts only if it has seen the present phase ([`Report::epoch`]): a report that was
//! on its way while the phase changed, or a request for a certificate that was, proves nothing.

mod root;
mod step;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use root::{RootId, RootIdError};
pub use step::{NodeFacts, Report, SETTLE, SILENT, Step, Waiting, Why, may_have, step};

/// Where a rotation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// One root: no rotation.
    Steady {
        /// The root.
        root: RootId,
    },
    /// Both roots are trusted, the old one issues, until every node holds both.
    Trust {
        /// The one that goes.
        old: RootId,
        /// The one that comes.
        new: RootId,
    },
    /// Both are trusted, the new one issues, until every node's SVIDs hang from it.
    Issue {
        /// The one that goes.
        old: RootId,
        /// The one that comes.
        new: RootId,
    },
    /// Every node's SVIDs hang from the new root. The last moment to go back.
    Settle {
        /// The one that goes.
        old: RootId,
        /// The one that comes.
        new: RootId,
    },
    /// The way back: both are trusted, the old one issues, until no node has an SVID of the new one.
    Revert {
        /// The one that stays after all.
        old: RootId,
        /// The one that goes again.
        new: RootId,
    },
    /// One root is not trusted any more and its key is gone, until no node holds it.
    Retire {
        /// The one that stays.
        stays: RootId,
        /// The one that goes.
        goes: RootId,
    },
}

/// The state of the roots, as it is kept on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Counts up with each change of phase.
    pub epoch: u64,
    /// When the phase began, in seconds since the epoch of Unix.
    pub since: u64,
    /// Where the rotation is.
    #[serde(flatten)]
    pub phase: Phase,
    /// Silent nodes that a person chose not to wait for.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub left_out: BTreeSet<String>,
    /// The root that somebody else's CA had when a person took a rotation back: to it nothing begins by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_back: Option<RootId>,
}

/// What is to be done in a phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Roots that nodes are told to trust, the one that stays longest first.
    pub trusted: Vec<RootId>,
    /// The root by which SVIDs are issued.
    pub issuer: RootId,
    /// The root of the CA API's own certificate: one that every node holds already.
    pub serves: RootId,
}

/// Why a person's wish about a rotation is not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RotationRefused {
    /// One is under way.
    #[error("a rotation is under way ({0}); wait for its end, or take it back by `lark ca rotate --abort`")]
    UnderWay(&'static str),
    /// None is under way.
    #[error("no rotation is under way; `lark ca rotate` begins one")]
    None,
    /// The old root is not trusted any more.
    #[error(
        "the old root is withdrawn already and its key destroyed; to change again, begin another rotation once this one has ended"
    )]
    TooLate,
    /// It would replace a root by itself.
    #[error("the new root is the one that is in use already")]
    SameRoot,
}

impl Phase {
    /// The word for it in tables, metrics and logs.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Steady { .. } => "steady",
            Self::Trust { .. } => "trust",
            Self::Issue { .. } => "issue",
            Self::Settle { .. } => "settle",
            Self::Revert { .. } => "revert",
            Self::Retire { .. } => "retire",
        }
    }

    /// All words for phases, in the order of a rotation; the way back is last but one.
    pub const LABELS: [&str; 6] = ["steady", "trust", "issue", "settle", "revert", "retire"];

    /// The roots that it names.
    pub fn roots(&self) -> Vec<RootId> {
        match *self {
            Self::Steady { root } => vec![root],
            Self::Trust { old, new }
            | Self::Issue { old, new }
            | Self::Settle { old, new }
            | Self::Revert { old, new } => vec![old, new],
            Self::Retire { stays, goes } => vec![stays, goes],
        }
    }

    /// What it means, in a sentence.
    pub const fn meaning(&self) -> &'static str {
        match self {
            Self::Steady { .. } => "one root is trusted and issues",
            Self::Trust { .. } => "both roots are trusted, the old one issues, until every node holds both",
            Self::Issue { .. } => {
                "both roots are trusted, the new one issues, until every node has SVIDs of it alone"
            }
            Self::Settle { .. } => {
                "every node has SVIDs of the new root; the old one goes in a moment, until then there is a way back"
            }
            Self::Revert { .. } => {
                "on the way back: both roots are trusted, the old one issues, until no node has SVIDs of the new one"
            }
            Self::Retire { .. } => "one root is withdrawn, until no node holds it",
        }
    }
}

impl State {
    /// One root, no rotation.
    pub fn steady(root: RootId, now: u64) -> Self {
        let phase = Phase::Steady { root };
        Self { epoch: 1, since: now, phase, left_out: BTreeSet::new(), taken_back: None }
    }

    /// What it means, in a sentence.
    pub fn meaning(&self) -> String {
        let phase = self.phase.meaning();
        match self.taken_back {
            Some(root) => format!(
                "{phase}; a rotation was taken back, and one to root {} begins by `lark ca rotate` alone",
                root.short()
            ),
            None => phase.to_owned(),
        }
    }

    /// What is to be done in this phase.
    pub fn plan(&self) -> Plan {
        match self.phase {
            Phase::Steady { root } => Plan { trusted: vec![root], issuer: root, serves: root },
            Phase::Trust { old, new } => Plan { trusted: vec![new, old], issuer: old, serves: old },
            // A node that joins now may know the old root only.
            Phase::Issue { old, new } => Plan { trusted: vec![new, old], issuer: new, serves: old },
            // Every node holds both, and soon the new one alone: another controller may still be in this phase then.
            Phase::Settle { old, new } => Plan { trusted: vec![new, old], issuer: new, serves: new },
            Phase::Revert { old, new } => Plan { trusted: vec![old, new], issuer: old, serves: old },
            Phase::Retire { stays, .. } => Plan { trusted: vec![stays], issuer: stays, serves: stays },
        }
    }

    /// A rotation to `new` begins.
    ///
    /// # Errors
    /// When one is under way, or `new` is the root already.
    pub fn begin(&self, new: RootId, now: u64) -> Result<Self, RotationRefused> {
        match self.phase {
            Phase::Steady { root } if root == new => Err(RotationRefused::SameRoot),
            Phase::Steady { root } => {
                Ok(Self { taken_back: None, ..self.next(Phase::Trust { old: root, new }, now) })
            }
            other => Err(RotationRefused::UnderWay(other.label())),
        }
    }

    /// The rotation is taken back.
    ///
    /// # Errors
    /// When there is none, or the old root is withdrawn already.
    pub fn abort(&self, now: u64) -> Result<Self, RotationRefused> {
        match self.phase {
            Phase::Trust { old, new } | Phase::Issue { old, new } | Phase::Settle { old, new } => {
                Ok(self.next(Phase::Revert { old, new }, now))
            }
            Phase::Revert { .. } => Err(RotationRefused::UnderWay(self.phase.label())),
            Phase::Retire { .. } => Err(RotationRefused::TooLate),
            Phase::Steady { .. } => Err(RotationRefused::None),
        }
    }

    /// The rotation goes on without those nodes, for as long as they stay silent.
    ///
    /// # Errors
    /// When there is none.
    pub fn without(&self, silent: impl IntoIterator<Item = String>) -> Result<Self, RotationRefused> {
        if let Phase::Steady { .. } = self.phase {
            return Err(RotationRefused::None);
        }
        let mut next = self.clone();
        next.left_out.extend(silent);
        Ok(next)
    }

    fn next(&self, phase: Phase, now: u64) -> Self {
        let left_out = match phase {
            Phase::Steady { .. } => BTreeSet::new(),
            _ => self.left_out.clone(),
        };
        let epoch = self.epoch.saturating_add(1);
        Self { epoch, since: now, phase, left_out, taken_back: self.taken_back }
    }
}

#[cfg(test)]
mod tests;
