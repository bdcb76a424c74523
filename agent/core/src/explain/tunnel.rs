//! Why there is no tunnel, or no more.

use super::{Certificate, Set, Violation, set as make};

closed_set! {
    /// What kept a tunnel from being, or ended it. A certificate that failed and a broken protocol have
    /// sets of their own.
    Tunnel;
    /// The TCP connection between the agents failed; the line names the system's error.
    ConnectionFailed = "connection_failed", Either,
        "Look at the network between the nodes and at the other agent's log; `lark explain` knows the system's errors too.";
    /// The other end closed the connection without a word.
    ClosedByPeer = "closed_by_peer", Either,
        "The other agent ended, is at its limit of tunnels, or something that is no agent answers there: see its log.";
    /// The other end refused us by a TLS alert, which the line explains.
    RefusedByPeer = "refused_by_peer", Either, "The other agent's log has the check that failed.";
    /// The other end does not speak TLS as agents do, or no TLS at all.
    NotOurTls = "not_our_tls", Either,
        "Something else than an agent is at that address: a scanner, a proxy in between, or a wrong --tunnel-listen.";
    /// The other end does not offer TLS 1.3.
    OldTls = "old_tls", Either,
        "Something else than an agent is at that address: agents speak TLS 1.3 only.";
    /// The other end shows no certificate.
    NoPeerCertificate = "no_peer_certificate", Destination,
        "Something else than an agent dials the tunnel port: a scanner, or an attack. The log has its address.";
    /// The other end agreed on another protocol than HTTP/2.
    NotHttp2 = "not_http2", Either, "Something else than an agent answers on the tunnel port.";
    /// The name asked for belongs to no captured workload of this node.
    UnknownName = "unknown_name", Destination,
        "The dialler's discovery places a workload here that ours does not: one of them is stale. Without a name it is a scanner.";
    /// The workload whose tunnel it is has no valid certificate on this node.
    NoCertificate = "no_certificate", Either, "See `lark certs` on this node.";
    /// The handshake took too long.
    HandshakeTimeout = "handshake_timeout", Either,
        "The other end or the network is overloaded, or a firewall drops packets on the tunnel port.";
    /// The worker has as many tunnels or handshakes as it takes, of this peer or at all.
    TooMany = "too_many", Destination,
        "Find who opens them: the log has the addresses. A storm after a restart passes by itself.";
    /// The other end says nothing, though it was asked.
    PeerSilent = "peer_silent", Either,
        "The node vanished or the network between is cut; --keepalive is the time until this is said.";
    /// The other end takes nothing of what waits for it, though it speaks.
    PeerStalled = "peer_stalled", Either,
        "The other agent is stuck, or something that is no agent holds its certificate: see its log and `lark check` there.";
    /// The kernel carries the tunnel's TLS and cannot replace its keys, which are used up or renewed by the other end.
    KernelKeys = "kernel_keys", Either,
        "Kernels before 6.14 cannot: a tunnel carries 16.7 million records a direction there, 275 GB at most. Without --ktls auto there is no such end.";
}

/// What kept a tunnel from being, or ended it: a word of one of three sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Of the tunnel itself.
    Tunnel(Tunnel),
    /// The check that a certificate failed.
    Certificate(Certificate),
    /// How the protocol was broken.
    Violation(Violation),
}

impl Cause {
    /// The word in logs and metrics. No two causes share one.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tunnel(tunnel) => tunnel.label(),
            Self::Certificate(certificate) => certificate.label(),
            Self::Violation(violation) => violation.label(),
        }
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        Certificate::ALL.iter().copied().map(Self::Certificate).chain(Self::of_ends())
    }

    /// Those that end a tunnel that was open.
    pub fn of_ends() -> impl Iterator<Item = Self> {
        let violations = Violation::ALL.iter().copied().map(Self::Violation);
        Tunnel::ALL.iter().copied().map(Self::Tunnel).chain(violations)
    }
}

impl From<Tunnel> for Cause {
    fn from(tunnel: Tunnel) -> Self {
        Self::Tunnel(tunnel)
    }
}

impl From<Certificate> for Cause {
    fn from(certificate: Certificate) -> Self {
        Self::Certificate(certificate)
    }
}

impl From<Violation> for Cause {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

pub(super) fn set() -> Set {
    make(
        "tunnel",
        "What kept a tunnel from being opened or ended it: `cause` in log lines about tunnels, `result` of `lark_tunnel_handshakes_total` and `cause` of `lark_tunnel_lost_total`, beside the `reason` of its connections.",
        Tunnel::ALL,
        Tunnel::label,
        Tunnel::text,
    )
}
