//! What a stream's end means.

use lark_core::explain::Ending;
use lark_core::policy::Denial;
use lark_core::reason::Reason;

/// Why a connection was refused or lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The reason, from the closed set.
    pub reason: Reason,
    /// Who, what was expected, what was found.
    pub detail: String,
    /// The policy that is to blame, which the other end of a tunnel is told too.
    pub policy: Option<Denial>,
}

impl Refusal {
    /// A refusal with its detail.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), policy: None }
    }

    /// A refusal by a policy.
    pub fn by_policy(detail: impl Into<String>, policy: Option<Denial>) -> Self {
        Self { policy, ..Self::new(Reason::PolicyDenied, detail) }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.reason, self.detail)
    }
}

/// How the bytes ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Both ends closed in order.
    Clean,
    /// The connecting pod reset.
    ResetBySource,
    /// The destination reset.
    ResetByDestination,
    /// The tunnel or an agent went, or the connection was refused.
    Lost,
}

impl End {
    /// The word for logs and metrics, if the connection was open; otherwise it is [`Ending::Refused`].
    pub const fn ending(self) -> Ending {
        match self {
            Self::Clean => Ending::Clean,
            Self::ResetBySource => Ending::ResetBySource,
            Self::ResetByDestination => Ending::ResetByDestination,
            Self::Lost => Ending::Lost,
        }
    }
}

/// The end of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Whether it was open from end to end.
    pub established: bool,
    /// How the bytes ended.
    pub how: End,
    /// Why it was refused or lost: there if and only if `how` is [`End::Lost`].
    pub refusal: Option<Box<Refusal>>,
}

impl Ended {
    /// Refused before it was open.
    pub fn refused(refusal: Refusal) -> Self {
        Self::lost(false, refusal)
    }

    /// Lost because the tunnel or an agent went.
    pub fn lost(established: bool, refusal: Refusal) -> Self {
        Self { established, how: End::Lost, refusal: Some(Box::new(refusal)) }
    }

    /// Ended by one of the two pods.
    pub(crate) fn by_pod(established: bool, how: End) -> Self {
        Self { established, how, refusal: None }
    }
}
