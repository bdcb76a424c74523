//! Why requests of a connection are not counted, or count as unanswered.

use super::{Set, set as make};

closed_set! {
    /// Why nothing more is said about a connection's requests. Its bytes pass as before.
    Opaque;
    /// The server spoke first, which neither HTTP does.
    ServerFirst = "server_first", Own,
        "Nothing: databases, mail and file transfer do so. Their connections and bytes are counted.";
    /// The first bytes are of no protocol that is followed.
    Unknown = "unknown", Own, "Nothing: connections and bytes are counted, requests are not.";
    /// The ends went over to another protocol: 101, or a CONNECT that was granted.
    Upgraded = "upgraded", Own, "Nothing: WebSockets do so. What comes after is no request.";
    /// Where a message ends depends on who reads it: a length and chunks, two lengths, or folded lines (RFC 9112, section 11.2).
    Ambiguous = "ambiguous", Own,
        "Find out who sends such messages: they are also what request smuggling is made of.";
    /// The bytes break the protocol that they began with.
    Broken = "broken", Own, "See the logs of both programs; one of them may have noticed too.";
    /// The server answered what nobody had asked.
    Unsolicited = "unsolicited", Own,
        "Nothing if it was a 408 for an idle connection; otherwise see the server's log.";
    /// More requests were sent ahead on one HTTP/1.1 connection than are kept.
    Pipeline = "pipeline", Own, "Send fewer requests ahead of their answers if they are to be counted.";
    /// A header refers to a table entry older than are kept, which needs a table larger than the default.
    HeaderTable = "header_table", Own,
        "Leave SETTINGS_HEADER_TABLE_SIZE at its default in both programs if requests are to be counted.";
}

closed_set! {
    /// Why an exchange ended without a whole response.
    Cut;
    /// The client reset the request's stream.
    ClientReset = "client_reset", Own, "Nothing if the client wanted no more; otherwise see its log and its time-outs.";
    /// The client closed or reset the connection before the response was whole.
    ClientClosed = "client_closed", Own, "Nothing if the client wanted no more; otherwise see its log and its time-outs.";
    /// The server reset the request's stream.
    ServerReset = "server_reset", Own, "See the server's log.";
    /// The server was going away or refused the stream, and had not looked at the request, so that the client may repeat it.
    GoingAway = "going_away", Own, "Nothing: clients repeat such requests elsewhere.";
    /// The connection ended before the response was whole, and it was not the client that ended it, as far as is known.
    Closed = "closed", Own, "The access log says how the connection ended: see `how` in its line.";
}

pub(super) fn opaque() -> Set {
    make(
        "opaque",
        "Why requests of a connection are not counted, or not any more: `reason` in `lark_proxy_connections_opaque_total`.",
        Opaque::ALL,
        Opaque::label,
        Opaque::text,
    )
}

pub(super) fn cut() -> Set {
    make(
        "cut",
        "Why a request got no whole response: `status` in `lark_proxy_requests_total`, beside classes of HTTP and statuses of gRPC.",
        Cut::ALL,
        Cut::label,
        Cut::text,
    )
}
