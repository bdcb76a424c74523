//! How a tunnel's peer broke the protocol.

use super::{Set, set as make};

closed_set! {
    /// How a peer broke the tunnel's protocol, or asked for more than agents ask for.
    Violation;
    /// What the other end sent first is not what HTTP/2 begins with.
    NoPreface = "no_preface", Either,
        "Something that is no agent spoke TLS with a valid certificate here; find out who holds that certificate.";
    /// A frame where it may not be, of a kind that tunnels do not have, or with contents that cannot be.
    FrameUnexpected = "frame_unexpected", Either,
        "Compare both agents' versions; a foreign or hostile client shows up here too.";
    /// A frame that is larger or smaller than its kind may be.
    FrameSize = "frame_size", Either,
        "Compare both agents' versions; a foreign or hostile client shows up here too.";
    /// A frame for a stream that was never opened, or for a half that was closed.
    StreamState = "stream_state", Either,
        "Compare both agents' versions; a foreign or hostile client shows up here too.";
    /// SETTINGS with a value outside its range.
    SettingsInvalid = "settings_invalid", Either,
        "Compare both agents' versions; a foreign or hostile client shows up here too.";
    /// Frames that cost work and carry nothing (PING, SETTINGS, PRIORITY, empty DATA), faster than any agent sends them.
    FrameFlood = "frame_flood", Either, "An attack: the log has the peer and its identity. See to that node.";
    /// Streams opened and reset before they were answered, faster than any agent does it (CVE-2023-44487).
    RapidReset = "rapid_reset", Destination,
        "An attack: the log has the peer and its identity. See to that node.";
    /// More streams than were allowed, again and again.
    StreamFlood = "stream_flood", Destination,
        "An attack, or a foreign client that does not heed SETTINGS: the log has the peer and its identity.";
    /// Streams that ask for what is not served, again and again.
    RequestFlood = "request_flood", Destination,
        "An attack, or a foreign client that takes this for a proxy: the log has the peer and its identity.";
    /// A header block in more pieces than agents use, or without end (CVE-2024-27316).
    ContinuationFlood = "continuation_flood", Either,
        "An attack: the log has the peer and its identity. See to that node.";
    /// A header block that cannot be decoded.
    HeaderCompression = "header_compression", Either,
        "Compare both agents' versions; a foreign or hostile client shows up here too.";
    /// More header fields, or longer ones, than agents send.
    HeadersTooLarge = "headers_too_large", Either,
        "An attack, or a foreign client that sends much baggage: the log has the peer and its identity.";
    /// More bytes on a stream than its window allowed.
    WindowExceeded = "window_exceeded", Either,
        "Compare both agents' versions; a foreign or hostile client shows up here too.";
    /// A window above 2^31-1.
    WindowOverflow = "window_overflow", Either,
        "An attack: the log has the peer and its identity. See to that node.";
    /// WINDOW_UPDATEs of nothing, or more and smaller ones than a reader needs.
    WindowFlood = "window_flood", Either,
        "An attack: the log has the peer and its identity. See to that node.";
    /// The other end reads nothing of what it makes this one answer.
    AnswersUnread = "answers_unread", Either,
        "An attack: the log has the peer and its identity. See to that node.";
}

pub(super) fn set() -> Set {
    make(
        "violation",
        "How a tunnel's peer broke the protocol: `cause` in log lines about tunnels, and `cause` of `lark_tunnel_lost_total`.",
        Violation::ALL,
        Violation::label,
        Violation::text,
    )
}
