//! The programs, in the order in which they are attached to a pod.

/// A program on a pod's cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// sock_ops: publishes flows, names deliveries.
    SockOps,
    /// getpeername of IPv4 sockets.
    GetPeerName4,
    /// getpeername of IPv6 sockets.
    GetPeerName6,
    /// getsockname of IPv4 sockets.
    GetSockName4,
    /// getsockname of IPv6 sockets.
    GetSockName6,
    /// connect of IPv4 sockets.
    Connect4,
    /// connect of IPv6 sockets.
    Connect6,
}

impl Hook {
    /// All, the ones that redirect last: nothing is redirected before the rest is in place.
    pub const ALL: [Self; 7] = [
        Self::SockOps,
        Self::GetPeerName4,
        Self::GetPeerName6,
        Self::GetSockName4,
        Self::GetSockName6,
        Self::Connect4,
        Self::Connect6,
    ];

    /// Name of the pin.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SockOps => "sock_ops",
            Self::GetPeerName4 => "getpeername4",
            Self::GetPeerName6 => "getpeername6",
            Self::GetSockName4 => "getsockname4",
            Self::GetSockName6 => "getsockname6",
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
        }
    }

    /// Name of the program in the object.
    pub const fn program(self) -> &'static str {
        match self {
            Self::SockOps => "lark_pod_sock_ops",
            Self::GetPeerName4 => "lark_getpeername4",
            Self::GetPeerName6 => "lark_getpeername6",
            Self::GetSockName4 => "lark_getsockname4",
            Self::GetSockName6 => "lark_getsockname6",
            Self::Connect4 => "lark_connect4",
            Self::Connect6 => "lark_connect6",
        }
    }

    /// The kernel's `enum bpf_attach_type` (include/uapi/linux/bpf.h).
    pub const fn attach_type(self) -> u32 {
        match self {
            Self::SockOps => 3,
            Self::Connect4 => 10,
            Self::Connect6 => 11,
            Self::GetPeerName4 => 29,
            Self::GetPeerName6 => 30,
            Self::GetSockName4 => 31,
            Self::GetSockName6 => 32,
        }
    }

    /// Whether the hook reads the pod's entry from cgroup storage.
    pub const fn has_entry(self) -> bool {
        matches!(self, Self::Connect4 | Self::Connect6)
    }
}

/// Name of the program on the agent's cgroup.
pub const AGENT_PROGRAM: &str = "lark_agent_sock_ops";
/// Name of the program on the kubelet's cgroup.
pub const PROBE_PROGRAM: &str = "lark_probe_sock_ops";
/// Name of the program in the namespaces of strict pods.
pub const LOOKUP_PROGRAM: &str = "lark_lookup";
/// Name of its pin among a pod's.
pub const LOOKUP_PIN: &str = "sk_lookup";
/// Name of the program on the host's ends of strict pods' interfaces.
pub const LEAVE_PROGRAM: &str = "lark_leave";
/// `BPF_TCX_INGRESS` (Linux 6.6).
pub const LEAVE_ATTACH: u32 = 46;
/// `BPF_SK_LOOKUP` (include/uapi/linux/bpf.h).
pub const LOOKUP_ATTACH: u32 = 36;
