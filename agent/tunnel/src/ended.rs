//! What a stream's end means.

use lark_core::reason::Reason;

/// Why a connection was refused or lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The reason, from the closed set.
    pub reason: Reason,
    /// Who, what was expected, what was found.
    pub detail: String,
}

impl Refusal {
    /// A refusal with its detail.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
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
    /// The tunnel or agent between them went.
    Lost,
}

impl End {
    /// The label in logs and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::ResetBySource => "reset_by_source",
            Self::ResetByDestination => "reset_by_destination",
            Self::Lost => "lost",
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
    /// Why, if it was refused or lost.
    pub refusal: Option<Refusal>,
}

impl Ended {
    /// Refused before it was open.
    pub fn refused(refusal: Refusal) -> Self {
        Self { established: false, how: End::Lost, refusal: Some(refusal) }
    }
}
