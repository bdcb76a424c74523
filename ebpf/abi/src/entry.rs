//! Values and keys of the maps. `repr(C)`, fixed widths, padding spelled out and zero; ports in
//! host byte order unless a name ends in `_be`.

use crate::address::Address;

/// Version of everything in this file. Pins live under a directory of this number, so that an
/// agent never reads a map of another layout.
pub const LAYOUT_VERSION: u32 = 1;

/// Most workers an agent has, and so most listeners a pod has per family.
pub const WORKERS_MAX: usize = 8;

/// What the connect hooks know of the pod that they are attached to (cgroup storage).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct PodEntry {
    /// The agent's number for the pod; zero while it was never written.
    pub pod_id: u32,
    /// [`PodEntry::ACTIVE`] and others.
    pub flags: u32,
    /// How many of the listener slots are in use, at most [`WORKERS_MAX`].
    pub workers: u32,
    /// Always zero.
    pub padding: u32,
    /// The pod's own IPv4 address in mapped form, or `::`.
    pub own_v4: Address,
    /// The pod's own IPv6 address, or `::`.
    pub own_v6: Address,
    /// Listeners on 127.0.0.1, one a worker; 0 = none.
    pub loopback_v4: [u16; WORKERS_MAX],
    /// Listeners on ::1.
    pub loopback_v6: [u16; WORKERS_MAX],
    /// Listener on the pod's own IPv4 address, for sockets bound to a device.
    pub device_v4: u16,
    /// The same for IPv6.
    pub device_v6: u16,
    /// Always zero.
    pub padding2: u32,
}

impl PodEntry {
    /// Connects to mesh destinations are redirected.
    pub const ACTIVE: u32 = 1;
    /// The pod shares the node's namespace: its sockets may be bound to any address of the node.
    pub const HOST_NETWORK: u32 = 2;
    /// What the pod dials is never left alone because something is missing: no certificate yet, a dead
    /// agent, a destination of the cluster that discovery lacks.
    pub const STRICT: u32 = 4;
    /// An agent that is gone captured it, and none since: what a dead agent means holds, however well the
    /// next one is.
    pub const ORPHANED: u32 = 8;

    /// Whether `port` is one of this pod's listeners.
    #[inline(always)]
    pub fn listens_on(&self, port: u16) -> bool {
        let mut found = self.device_v4 == port || self.device_v6 == port;
        let mut i = 0;
        while i < WORKERS_MAX {
            found |= self.loopback_v4[i] == port || self.loopback_v6[i] == port;
            i += 1;
        }
        found && port != 0
    }
}

/// Key of a mesh destination. Looked up first with the port, then with port 0 (any port).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(C)]
pub struct DestinationKey {
    /// The address, words in network byte order (see [`Address`]).
    pub address_be: [u32; 4],
    /// The port, 0 for any.
    pub port: u16,
    /// Always zero.
    pub padding: u16,
}

/// What to do with a connect to a mesh destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct DestinationValue {
    /// [`DestinationValue::REDIRECT`] or [`DestinationValue::REFUSE_NO_ENDPOINT`].
    pub action: u32,
}

impl DestinationValue {
    /// Take the connection to the agent.
    pub const REDIRECT: u32 = 1;
    /// Refuse: the Service has no ready endpoint.
    pub const REFUSE_NO_ENDPOINT: u32 = 2;
}

/// What a pod's socket remembers (socket storage): whom the application believes to talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct PeerName {
    /// The address that `getpeername` tells.
    pub address: Address,
    /// The address that `getsockname` tells, `::` to leave it as it is.
    pub own: Address,
    /// The tuple's source under which a flow was published.
    pub source: Address,
    /// The tuple's destination under which a flow was published.
    pub listener: Address,
    /// The port that `getpeername` tells.
    pub port: u16,
    /// The tuple's ports.
    pub source_port: u16,
    /// The listener that the connect was pointed at.
    pub listener_port: u16,
    /// [`PeerName::CLIENT`] or [`PeerName::ACCEPTED`].
    pub role: u16,
    /// The agent's number for the pod.
    pub pod_id: u32,
    /// The worker whose listener that is.
    pub worker: u16,
    /// While it is counted as that worker's ([`crate::load`]), by which agent's programs; else zero.
    pub counted: u16,
}

impl PeerName {
    /// The socket dialled out and was redirected.
    pub const CLIENT: u16 = 1;
    /// The socket accepted a delivery.
    pub const ACCEPTED: u16 = 2;
}

/// What one end of a local connection tells the other before it is established: for a redirected
/// connect the original destination, for a delivery the claimed source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Flow {
    /// Cookie of the socket that published this; whoever deletes compares it.
    pub cookie: u64,
    /// The address.
    pub address: Address,
    /// The address that the socket was dialled from.
    pub source: Address,
    /// The port that belongs to `address`.
    pub port: u16,
    /// The port that belongs to `source`.
    pub source_port: u16,
    /// The agent's number for the pod, 0 for deliveries.
    pub pod_id: u32,
}

/// What reaches an address and port of a guarded pod. Looked up with the port, then with port 0, which every
/// address of the pod has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct Guard {
    /// The agent's number for the pod, so that its addresses are known to be one pod's.
    pub pod: u32,
    /// [`Guard::REFUSE`], [`Guard::PASS`] or [`Guard::LISTENER`].
    pub action: u32,
}

impl Guard {
    /// Only what is known: deliveries, the pod itself, and [`Pass`]es.
    pub const REFUSE: u32 = 1;
    /// Whoever dials: the port is exempt.
    pub const PASS: u32 = 2;
    /// A listener of the agent's own, which nobody outside dials.
    pub const LISTENER: u32 = 3;
}

/// A connection that may reach a strict pod, or leave it, recorded when its four-tuple was complete and until
/// its socket closes. The tuple's namespace is zero: the two ends are in different ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Pass {
    /// Cookie of the socket that dials; whoever deletes compares it.
    pub cookie: u64,
    /// [`Pass::PROBE`] and others.
    pub kind: u32,
    /// Of a direct connection, the namespace that is to accept ([`crate::direct::acceptor_of`]); else zero.
    pub acceptor: u32,
}

impl Pass {
    /// Dialled by a socket of the kubelet's cgroup.
    pub const PROBE: u32 = 1;
    /// Dialled by the agent from inside the pod's namespace.
    pub const AGENT: u32 = 2;
    /// Dialled by a pod of this node, by a verdict.
    pub const DIRECT: u32 = 3;
    /// The same, and a hook of the pod that the verdict names has seen its SYN.
    pub const CONFIRMED: u32 = 4;
}

/// One refusal, as it is told to user space; and without its source's port and the time, what is told once a
/// second at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Refused {
    /// Who dialled.
    pub source: Address,
    /// What was dialled.
    pub destination: Address,
    /// The port of the source, host byte order.
    pub source_port: u16,
    /// The port that was dialled.
    pub destination_port: u16,
    /// The counter's index.
    pub counter: u32,
    /// Index of the host's interface where the packet came out of the pod; 0 if it never got that far.
    pub interface: u32,
}

/// Prefix of the cluster's own addresses: key of a longest-prefix match over sixteen bytes, an IPv4 address in
/// its mapped form (so 96 bits more).
pub type RangeData = [u32; 4];

/// Settings the hooks read (array of one).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Config {
    /// [`LAYOUT_VERSION`] of the agent that wrote this.
    pub layout: u32,
    /// [`Config::REFUSE_WHEN_DOWN`].
    pub flags: u32,
    /// Age in nanoseconds from which a heartbeat counts as stale.
    pub heartbeat_stale_ns: u64,
}

impl Config {
    /// While the agent is down, connects to mesh destinations are refused instead of left alone.
    pub const REFUSE_WHEN_DOWN: u32 = 1;
}

const _: () = assert!(size_of::<PodEntry>() == 88);
const _: () = assert!(size_of::<DestinationKey>() == 20);
const _: () = assert!(size_of::<DestinationValue>() == 4);
const _: () = assert!(size_of::<PeerName>() == 80);
const _: () = assert!(size_of::<Flow>() == 48);
const _: () = assert!(size_of::<Config>() == 16);
const _: () = assert!(size_of::<Guard>() == 8);
const _: () = assert!(size_of::<Pass>() == 16);
const _: () = assert!(size_of::<Refused>() == 44);
