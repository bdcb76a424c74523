//! How a connection ended.

use super::{Set, set as make};

closed_set! {
    /// How a connection's bytes ended.
    Ending;
    /// Both ends closed in order.
    Clean = "clean", Own, "Nothing.";
    /// The connecting pod reset the connection.
    ResetBySource = "reset_by_source", Own, "See the log of the connecting program: it gave up.";
    /// The pod that was connected to reset the connection.
    ResetByDestination = "reset_by_destination", Own, "See the log of the program that serves: it gave up.";
    /// One of the two pods reset the connection; of direct ones the kernel does not say which.
    Reset = "reset", Own, "See the logs of both programs: one gave up.";
    /// It was open, and then the tunnel or an agent went.
    Lost = "lost", Own, "The line before it in the agent's log has the reason; `lark explain` knows it.";
    /// In plaintext, and its pod is not captured any more; it went on, and nobody follows it.
    Released = "released", Own, "Nothing: the label was taken away.";
    /// It was open, and a change of policy does not allow it any more.
    Denied = "denied", Own, "The same line names the policy; the mesh's policyChange says whether changes end what is open.";
    /// It never was open from end to end.
    Refused = "refused", Own, "The same line has the reason; `lark explain` knows it.";
}

pub(super) fn set() -> Set {
    make(
        "ending",
        "How a connection ended: `how` in the access log and in `lark_proxy_connections_ended_total`.",
        Ending::ALL,
        Ending::label,
        Ending::text,
    )
}
