//! Why an agent refused a connection.

use super::{Set, Side, set as make};
use crate::reason::Reason;

pub(super) fn set() -> Set {
    make(
        "refusal",
        "Why an agent refused or lost a connection: `reason` in the access log, REASON in `lark edges`, and `lark_proxy_connections_refused_total`.",
        Reason::ALL,
        Reason::label,
        |reason| (reason.meaning(), side(reason), reason.advice()),
    )
}

/// Who finds out. A reason without a row does not compile.
const fn side(reason: Reason) -> Side {
    match reason {
        Reason::NoOriginalDestination
        | Reason::DestinationUnknown
        | Reason::NoReadyEndpoint
        | Reason::NoSuchPort
        | Reason::SourceSvidMissing
        | Reason::NodeUnknown
        | Reason::TunnelUnreachable => Side::Source,
        Reason::PastHookSocket
        | Reason::PastHookDevice
        | Reason::PastHookRaw
        | Reason::PastHookPacket
        | Reason::PastHookForwarded
        | Reason::DirectUnconfirmed => Side::Source,
        Reason::TunnelHandshake | Reason::PeerIdentityMismatch => Side::Either,
        Reason::PlaintextUncaptured
        | Reason::PlaintextPastHooks
        | Reason::PlaintextHost
        | Reason::PlaintextOutside
        | Reason::ListenerFromOutside => Side::Destination,
        Reason::TunnelLost
        | Reason::ProtocolError
        | Reason::NotConnect
        | Reason::AuthorityUnusable
        | Reason::ForwardedUnusable
        | Reason::AuthorityPortZero
        | Reason::AuthorityLocal
        | Reason::AuthorityAgent
        | Reason::AuthorityService
        | Reason::NotMyNode
        | Reason::NotMyWorkload
        | Reason::DestinationIdentityMismatch
        | Reason::SourceUnknown
        | Reason::PolicyDenied
        | Reason::HooksNotLive
        | Reason::DialRefused
        | Reason::DialTimeout
        | Reason::DialFailed
        | Reason::LimitReached
        | Reason::ShuttingDown => Side::Both,
    }
}
