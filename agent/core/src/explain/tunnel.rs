//! Why there is no tunnel, or no more.

use super::{Set, set as make};

closed_set! {
    /// What kept a tunnel from being, or ended it. A certificate that failed has its own set.
    Tunnel;
    /// The TCP connection between the agents failed; the line names the system's error.
    ConnectionFailed = "connection_failed", Either,
        "Look at the network between the nodes and at the other agent's log; `lark explain` knows the system's errors too.";
    /// The other end closed the connection without a word.
    ClosedByPeer = "closed_by_peer", Either,
        "The other agent ended, is at its limit of tunnels, or something that is no agent answers there: see its log.";
    /// The other end refused us by a TLS alert, which the line explains.
    RefusedByPeer = "refused_by_peer", Either, "The other agent's log has the check that failed.";
    /// The other end does not speak TLS 1.3 as agents do, or shows no certificate.
    NotOurTls = "not_our_tls", Either,
        "Something else than an agent is at that address: a scanner, a proxy in between, or a wrong --tunnel-listen.";
    /// The other end agreed on another protocol than HTTP/2.
    NotHttp2 = "not_http2", Either, "Something else than an agent answers on the tunnel port.";
    /// The name asked for belongs to no captured workload of this node.
    UnknownName = "unknown_name", Destination,
        "The dialler's discovery places a workload here that ours does not: one of them is stale. Without a name it is a scanner.";
    /// The workload asked for is captured here but has no valid certificate.
    NoCertificate = "no_certificate", Destination, "See `lark certs` on this node.";
    /// The handshake took too long.
    HandshakeTimeout = "handshake_timeout", Either,
        "The other end or the network is overloaded, or a firewall drops packets on the tunnel port.";
    /// The worker has as many tunnels or handshakes as it takes.
    TooMany = "too_many", Destination,
        "Find who opens them: the log has the addresses. A storm after a restart passes by itself.";
    /// The other end broke HTTP/2, or asked for more than agents take.
    ProtocolBroken = "protocol_broken", Either,
        "Compare both agents' versions; a foreign or hostile client shows up here too.";
    /// The other end says nothing, though it was asked.
    PeerSilent = "peer_silent", Either,
        "The node vanished or the network between is cut; --keepalive is the time until this is said.";
}

pub(super) fn set() -> Set {
    make(
        "tunnel",
        "What kept a tunnel from being opened or ended it: `cause` in log lines about tunnels, beside the `reason` of its connections.",
        Tunnel::ALL,
        Tunnel::label,
        Tunnel::text,
    )
}
