//! Why a CA gave nothing, in the words of whoever can mend it.

use std::path::PathBuf;

use lark_core::explain::CaRequest;
use lark_core::identity::SpiffeId;
use tonic::Code;

use crate::roots::RootsError;

/// Why the CA gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The token's file could not be read.
    #[error("the token {path} cannot be read: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// There are no roots to accept it by.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// The URL is wrong.
    #[error("CA URL {url}: {what}; it must be of the form https://HOST:PORT")]
    Url {
        /// As given.
        url: String,
        /// What is wrong.
        what: String,
    },
    /// There was no connection.
    #[error("the CA at {url} cannot be reached: {what}; is the controller running, and is that its address?")]
    Unreachable {
        /// The CA.
        url: String,
        /// The innermost cause.
        what: String,
    },
    /// Something answers there that the root file does not vouch for.
    #[error(
        "the TLS certificate of the CA at {url} is not accepted: {what}; is {root} the root of that CA, and is the host in the URL among the controller's --san?"
    )]
    NotTrusted {
        /// The CA.
        url: String,
        /// The file with the accepted roots.
        root: PathBuf,
        /// What is wrong with the certificate.
        what: String,
    },
    /// Its TLS certificate is of another time than this node's clock.
    #[error(
        "the TLS certificate of the CA at {url} is {what} by this node's clock: the clocks differ, set this node's or the controller's right"
    )]
    ClockSkew {
        /// The CA.
        url: String,
        /// `valid only in ...` or `expired since ...`.
        what: String,
    },
    /// The token cannot be sent.
    #[error(
        "the token in {path} is empty or has characters that no header may have; make one with `lark token`"
    )]
    Token {
        /// The file.
        path: PathBuf,
    },
    /// It does not know this node.
    #[error(
        "the CA at {url} does not accept this node's token ({what}); make one with `lark token` and add its hash to the controller's file"
    )]
    Unauthenticated {
        /// The CA.
        url: String,
        /// What it said.
        what: String,
    },
    /// It does not give this identity to this node.
    #[error("the CA at {url} refuses {identity}: {what}")]
    Denied {
        /// The CA.
        url: String,
        /// What was asked for.
        identity: SpiffeId,
        /// What it said.
        what: String,
    },
    /// It does not issue just now.
    #[error("the CA at {url} does not issue just now: {what}; it is asked again")]
    NotNow {
        /// The CA.
        url: String,
        /// What it said.
        what: String,
    },
    /// It has no such method.
    #[error("the CA at {url} tells no roots: {what}")]
    NoStream {
        /// The CA.
        url: String,
        /// What it said.
        what: String,
    },
    /// Something else.
    #[error("the CA at {url} failed with {code}: {what}")]
    Failed {
        /// The CA.
        url: String,
        /// gRPC status.
        code: Code,
        /// What it said.
        what: String,
    },
}

impl RequestError {
    /// What it was, in one word.
    pub const fn cause(&self) -> CaRequest {
        match self {
            Self::File { .. } => CaRequest::FileUnreadable,
            Self::Roots(RootsError::Keep { .. }) => CaRequest::StateNotKept,
            Self::Roots(_) => CaRequest::FileUnreadable,
            Self::NotNow { .. } => CaRequest::CaNotNow,
            Self::Url { .. } => CaRequest::BadUrl,
            Self::Unreachable { .. } => CaRequest::CaUnreachable,
            Self::NotTrusted { .. } => CaRequest::CaNotTrusted,
            Self::ClockSkew { .. } => CaRequest::ClockSkew,
            Self::Token { .. } => CaRequest::BadToken,
            Self::Unauthenticated { .. } => CaRequest::TokenRefused,
            Self::Denied { .. } => CaRequest::IdentityRefused,
            Self::NoStream { .. } | Self::Failed { .. } => CaRequest::CaFailed,
        }
    }
}
