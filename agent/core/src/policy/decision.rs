//! The answer of the policies, with its reason.

use std::fmt;

use super::index::PolicyIndex;
use super::{Kind, PolicyName};

/// What was asked, and by which agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// NetworkPolicy for what goes out of the source, asked at its agent.
    Egress,
    /// AuthorizationPolicy of the destination, asked at its agent.
    Authorization,
    /// NetworkPolicy for what comes to the destination, asked at its agent.
    Ingress,
}

impl Stage {
    /// All of them, in the order of the data path.
    pub const ALL: [Self; 3] = [Self::Egress, Self::Authorization, Self::Ingress];

    /// The word in tables.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Authorization => "authorization",
            Self::Ingress => "ingress",
        }
    }

    /// The kind of policy that answers.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Authorization => Kind::Authorization,
            Self::Egress | Self::Ingress => Kind::Network,
        }
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Decision<'a> {
    /// What was asked.
    pub stage: Stage,
    /// Whether the connection may be.
    pub allowed: bool,
    /// Why.
    pub because: Because<'a>,
    /// Why it would be denied if dry runs were none; none of them denies.
    pub dry_run: Vec<Because<'a>>,
}

/// Why it is allowed or denied.
#[derive(Debug, Clone)]
pub enum Because<'a> {
    /// No policy selects the workload, so it is open.
    NoPolicy,
    /// The pod connects to itself, which no NetworkPolicy keeps from it.
    Itself,
    /// The other end is the pod's own node, which no NetworkPolicy keeps from it.
    OwnNode,
    /// A rule matches: of an ALLOW or a NetworkPolicy it allows, of a DENY it denies.
    Rule {
        /// The policy.
        policy: PolicyName,
        /// Its rule, counted from 1.
        rule: usize,
    },
    /// Policies select the workload and no rule of them allows this.
    NoneAllows(Selecting<'a>),
    /// A policy that selects the workload could not be read.
    Unreadable {
        /// The policy.
        policy: PolicyName,
        /// Why it could not.
        why: &'a str,
    },
}

/// Policies of one kind that select a workload.
#[derive(Clone, Copy)]
pub struct Selecting<'a> {
    pub(super) index: &'a PolicyIndex,
    pub(super) kind: Kind,
    pub(super) numbers: &'a [u32],
}

impl Selecting<'_> {
    /// Their names, in order.
    pub fn names(&self) -> impl Iterator<Item = PolicyName> {
        self.numbers.iter().map(|number| self.index.name(self.kind, *number))
    }
}

impl fmt::Debug for Selecting<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// Names told at most; an operator looks the others up.
const NAMES: usize = 4;

impl fmt::Display for Because<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPolicy => f.write_str("no policy selects it"),
            Self::Itself => f.write_str("a pod may always connect to itself"),
            Self::OwnNode => f.write_str("a pod and its own node may always connect"),
            Self::Rule { policy, rule } => write!(f, "{policy}, rule {rule}"),
            Self::NoneAllows(selecting) => {
                f.write_str(match selecting.kind {
                    Kind::Authorization => "no ALLOW matched of ",
                    Kind::Network => "no rule matched of ",
                })?;
                for (i, name) in selecting.names().take(NAMES).enumerate() {
                    write!(f, "{}{name}", if i == 0 { "" } else { ", " })?;
                }
                match selecting.numbers.len().saturating_sub(NAMES) {
                    0 => Ok(()),
                    more => write!(f, " and {more} more"),
                }
            }
            Self::Unreadable { policy, why } => write!(f, "{policy} could not be read ({why})"),
        }
    }
}

impl fmt::Display for Decision<'_> {
    /// One sentence: `egress denied: no rule matched of NetworkPolicy shop/closed`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.allowed { "allowed" } else { "denied" };
        write!(f, "{} {verdict}: {}", self.stage.label(), self.because)
    }
}
