//! The stream that each agent keeps to its controller, `lark.v1.Nodes/Follow`: the agent says what it
//! holds, the controller what is to be held. Bearer token and TLS are those of the CA API. Each message is
//! one of several kinds, so that others can be added; a kind that is not known is passed over.

/// Path of the one method.
pub const FOLLOW: &str = "/lark.v1.Nodes/Follow";
/// Name of the service.
pub const NODES: &str = "lark.v1.Nodes";

/// From an agent.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FromNode {
    /// What it says.
    #[prost(oneof = "Said", tags = "1, 2")]
    pub said: Option<Said>,
}

/// Kinds of messages from an agent.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Said {
    /// What it holds.
    #[prost(message, tag = "1")]
    Held(Held),
    /// A part of the answer to an [`Ask`].
    #[prost(message, tag = "2")]
    Answered(Answered),
}

/// What a node holds. Sent at the beginning, whenever it changes, and every few seconds.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Held {
    /// A number of the agent's own: two agents serve a node while one takes over from the other.
    #[prost(fixed64, tag = "1")]
    pub instance: u64,
    /// The last change of phase that it was told of; 0 for none.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// SHA-256 of each root that it trusts.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub roots: Vec<Vec<u8>>,
    /// SHA-256 of each root from which a valid certificate of its own hangs.
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub svids: Vec<Vec<u8>>,
    /// Whether it waits for certificates.
    #[prost(bool, tag = "5")]
    pub asking: bool,
    /// Version of the agent.
    #[prost(string, tag = "6")]
    pub version: String,
    /// Pods of the node that are to be captured and are not, the first few of them.
    #[prost(message, repeated, tag = "7")]
    pub failing: Vec<Failing>,
}

/// Most pods that one message tells as failing.
pub const FAILING_MAX: usize = 32;
/// Most characters of a reason.
pub const WHY_MAX: usize = 300;

/// A pod that is to be captured and is not.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Failing {
    /// Its UID.
    #[prost(string, tag = "1")]
    pub pod: String,
    /// Why, in a sentence.
    #[prost(string, tag = "2")]
    pub why: String,
}

/// From the controller.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ToNode {
    /// What it tells.
    #[prost(oneof = "Told", tags = "1, 2, 3")]
    pub told: Option<Told>,
}

/// Kinds of messages from the controller.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Told {
    /// What to trust. The answer to each [`Held`], and sent when it changes.
    #[prost(message, tag = "1")]
    Trust(Trust),
    /// What to show instead of the token from now on.
    #[prost(message, tag = "2")]
    Credential(Credential),
    /// A question of somebody who asks the whole cluster.
    #[prost(message, tag = "3")]
    Ask(Ask),
}

/// What to trust.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Trust {
    /// Counts up with each change of phase.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// DER of the roots.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub roots: Vec<Vec<u8>>,
    /// SHA-256 of the root from which certificates are to hang: others are to be replaced now.
    #[prost(bytes = "vec", tag = "3")]
    pub issuer: Vec<u8>,
    /// The controller's clock, in seconds since the epoch of Unix.
    #[prost(int64, tag = "4")]
    pub now: i64,
}

/// A credential.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Credential {
    /// The bearer token.
    #[prost(string, tag = "1")]
    pub token: String,
    /// Good until, in seconds since the epoch of Unix.
    #[prost(int64, tag = "2")]
    pub expires: i64,
}

/// A question for the agent's admin API, which only reads.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Ask {
    /// Number of the question on this stream.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// Path and query of a GET.
    #[prost(string, tag = "2")]
    pub path: String,
}

/// A part of an answer. Parts of one answer come in order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Answered {
    /// Number of the question.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// The answer's status, as of HTTP.
    #[prost(uint32, tag = "2")]
    pub status: u32,
    /// The part, at most [`PART_MAX`] bytes.
    #[prost(bytes = "vec", tag = "3")]
    pub part: Vec<u8>,
    /// Whether it is the last one.
    #[prost(bool, tag = "4")]
    pub last: bool,
}

/// Bytes of a part of an answer, at most: it waits behind nothing larger on the stream.
pub const PART_MAX: usize = 64 * 1024;
