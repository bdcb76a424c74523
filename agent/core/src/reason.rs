//! The closed set of reasons for which user space refuses a connection. Each is a metric label, a
//! log field and a word a person can look up; the kernel's own set is `lark_abi::Reason`.

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $label:literal, $advice:literal;)+) => {
        /// Why a connection was refused. Unknown always means refuse.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Reason {
            $($(#[doc = $doc])+ #[serde(rename = $label)] $variant,)+
        }
        impl Reason {
            /// All reasons, in the order of the data path.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)+];
            /// The label in metrics, logs and tables.
            pub const fn label(self) -> &'static str { match self { $(Reason::$variant => $label,)+ } }
            /// What it means, in a sentence.
            pub const fn meaning(self) -> &'static str { match self { $(Reason::$variant => concat!($($doc),+),)+ } }
            /// What a person does about it.
            pub const fn advice(self) -> &'static str { match self { $(Reason::$variant => $advice,)+ } }
        }
    };
}

reasons! {
    /// A connection reached an in-pod listener without an entry from the connect hook.
    NoOriginalDestination = "no_original_destination", "Nothing dials Lark's listeners directly; if an application scans its loopback, ignore it. Otherwise look at `lark bpf` for flows_full.";
    /// The destination is in no snapshot this agent has.
    DestinationUnknown = "destination_unknown", "Compare `lark workloads` and `lark services` with what should exist; discovery may lag.";
    /// The Service has no ready endpoint.
    NoReadyEndpoint = "no_ready_endpoint", "See `lark services`: the application's readiness decides.";
    /// The Service does not serve the port that was asked for.
    NoSuchPort = "no_such_port", "The Service's ports are in `lark services`.";
    /// There is no valid SVID for the workload that calls.
    SourceSvidMissing = "source_svid_missing", "See `lark certs` for the workload's account and the last error of the CA.";
    /// The node of the destination is in no snapshot this agent has.
    NodeUnknown = "node_unknown", "The workload names a node that discovery does not list.";
    /// The agent of the destination's node could not be reached.
    TunnelUnreachable = "tunnel_unreachable", "Is the agent on that node running, and is the tunnel port open between the nodes?";
    /// The TLS handshake with the destination's agent failed.
    TunnelHandshake = "tunnel_handshake", "The log line names the certificate check that failed; compare clocks and trust bundles of both nodes.";
    /// The destination's agent proved another identity than discovery names for the destination.
    PeerIdentityMismatch = "peer_identity_mismatch", "Discovery and the peer disagree about the pod's account; one of them is stale, or somebody answers for the pod.";
    /// The tunnel ended while the stream was being opened or used.
    TunnelLost = "tunnel_lost", "The other agent went away; its log says why.";
    /// The peer broke the tunnel's protocol.
    ProtocolError = "protocol_error", "Both agents' versions and logs; a foreign client on the tunnel port shows up here too.";
    /// The stream is no CONNECT, or has headers that do not belong into one.
    NotConnect = "not_connect", "Whoever dialled is no agent of this mesh; the log has the peer and its identity.";
    /// The authority of the stream is no literal address with a port, but a host name, for instance.
    AuthorityUnusable = "authority_unusable", "Whoever dialled is no agent of this mesh; the log has the peer and its identity.";
    /// The stream does not say whose connection it is, or not in the form that agents use.
    ForwardedUnusable = "forwarded_unusable", "Whoever dialled is no agent of this mesh; the log has the peer and its identity.";
    /// The port of the authority is 0, which is no application's.
    AuthorityPortZero = "authority_port_zero", "Whoever dialled is hostile: no agent asks for that. The log has the peer and its identity.";
    /// The authority is a loopback, link-local, multicast or unspecified address, which is no pod's.
    AuthorityLocal = "authority_local", "Whoever dialled is hostile: no agent asks for that. The log has the peer and its identity.";
    /// The authority is an agent's own: an address of a node, or a listener of the agent in a pod.
    AuthorityAgent = "authority_agent", "Whoever dialled is hostile: no agent asks for that. The log has the peer and its identity.";
    /// The authority is the address of a Service; a stream names the pod itself.
    AuthorityService = "authority_service", "Whoever dialled is no agent of this mesh, or both agents' discovery differs: compare `lark services`.";
    /// The authority of the stream is a pod of another node.
    NotMyNode = "not_my_node", "The sender's discovery places the pod on this node, ours on another: one of them is stale, or the sender is hostile.";
    /// The authority of the stream is no captured pod of this node.
    NotMyWorkload = "not_my_workload", "The sender's discovery places the pod on this node, ours does not; one of them is stale.";
    /// The authority's identity is another than the tunnel was accepted for.
    DestinationIdentityMismatch = "destination_identity_mismatch", "The pod's address changed hands; the sender's discovery is stale.";
    /// No workload of the client's identity with the claimed address runs on the client's node.
    SourceUnknown = "source_unknown", "The claimed source address is not of a workload with the proved identity on the node that the tunnel came from.";
    /// Policy does not allow the connection.
    PolicyDenied = "policy_denied", "`lark policy explain` names the rule.";
    /// A workload that is not captured dialled in plaintext a pod that takes none there; nothing of it was taken.
    PlaintextUncaptured = "plaintext_uncaptured", "Capture it, or exempt the port by the annotation lark.mesh/mtls-ports of the pod that was dialled. Where an AuthorizationPolicy closes a permissive pod's port, an ALLOW for anybody opens it; `lark policy explain` says so.";
    /// A captured workload's address dialled in plaintext a pod that takes none there, past its own hooks; nothing of it was taken.
    PlaintextPastHooks = "plaintext_past_hooks", "Its socket was made outside its cgroup, or it is not captured yet: `lark check` on its node says which.";
    /// A node's own address dialled in plaintext a pod that takes none there: its host, or traffic masqueraded to it such as a NodePort's; nothing of it was taken.
    PlaintextHost = "plaintext_host", "Let it come through a captured ingress. Probes pass if --kubelet-cgroup names the kubelet's: see `lark check`.";
    /// An address that discovery does not know dialled in plaintext a pod that takes none there; nothing of it was taken.
    PlaintextOutside = "plaintext_outside", "Let it come through a captured ingress, or exempt the port by the annotation lark.mesh/mtls-ports.";
    /// A strict pod sent TCP to the cluster by a socket that was made outside of it and passed in; it was dropped as it left the pod.
    PastHookSocket = "past_hook_socket", "Find who makes sockets for the pod; only those made in its own cgroup are carried.";
    /// The same, by a socket that is bound to a device.
    PastHookDevice = "past_hook_device", "Find who makes sockets for the pod; only those made in its own cgroup are carried.";
    /// A strict pod sent TCP to the cluster by a raw IP socket; it was dropped as it left the pod.
    PastHookRaw = "past_hook_raw", "Take CAP_NET_RAW from the pod, or find what in it uses raw sockets.";
    /// A strict pod sent TCP to the cluster, or frames of no known kind, by a packet socket; they were dropped as they left the pod.
    PastHookPacket = "past_hook_packet", "Take CAP_NET_RAW from the pod, or find what in it uses packet sockets.";
    /// A strict pod forwarded TCP to the cluster that no socket of its own namespace made; it was dropped as it left the pod.
    PastHookForwarded = "past_hook_forwarded", "Containers or tunnels inside the pod have a network of their own, which is not captured.";
    /// Another than the pod that was meant answered a direct connection on this node; nothing but its SYN left the pod that dialled.
    DirectUnconfirmed = "direct_unconfirmed", "Nothing if a pod has just ended and its address changed hands. Otherwise the pod listens by a socket that was made outside its cgroup; it is reached through the agent from then on.";
    /// Somebody dialled Lark's own listener in a strict pod from outside of it.
    ListenerFromOutside = "listener_from_outside", "Find what scans the pod's ports; nothing is offered to it there.";
    /// The hooks did not hand the source address over, so the application could not be told who calls.
    HooksNotLive = "hooks_not_live", "`lark check` names what is missing in the kernel, `lark bpf` counts deliveries_full; the log names a listener that was made outside of its pod's cgroup, by socket activation perhaps.";
    /// The application did not accept the connection.
    DialRefused = "dial_refused", "Nothing listens on that port in the destination pod.";
    /// The application did not answer the connect in time.
    DialTimeout = "dial_timeout", "The application's accept queue is full or its host is overloaded.";
    /// The connect to the destination failed for another cause, which the log names.
    DialFailed = "dial_failed", "The log line has the error of the operating system.";
    /// A limit of the agent was reached.
    LimitReached = "limit_reached", "The log line names the limit.";
    /// The agent is shutting down.
    ShuttingDown = "shutting_down", "Wait for the agent to come back.";
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::Reason;

    #[test]
    fn labels_are_distinct_and_survive_serde() {
        let labels: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|r| r.label()).collect();
        assert_eq!(labels.len(), Reason::ALL.len());
    }
}
