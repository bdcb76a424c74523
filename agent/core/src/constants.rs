//! One table of names, ports and limits. Each can be overridden where a flag or a setting says so.

use std::time::Duration;

/// TCP port on the node's address where agents accept tunnels (the port HBONE uses too).
pub const TUNNEL_PORT: u16 = 15008;
/// TCP port on the node for Prometheus metrics and health.
pub const METRICS_PORT: u16 = 15020;
/// TCP port of the controller's CA API.
pub const CA_PORT: u16 = 15012;
/// TCP port of the controller's metrics and health.
pub const CONTROLLER_METRICS_PORT: u16 = 15014;
/// TCP port of the controller for people with a token of the cluster's API, by TLS.
pub const CONTROLLER_STATUS_PORT: u16 = 15013;
/// TCP port on the loopback of the controller's pod, for people who may forward its ports.
pub const CONTROLLER_FORWARD_PORT: u16 = 15016;
/// Name of the controller's Service, and of the Lease of the replica that leads.
pub const CONTROLLER: &str = "lark-controller";
/// Name of the port of that Service for people with a token.
pub const CONTROLLER_STATUS_NAME: &str = "status";
/// Header in which such a token is shown to the controller.
pub const TOKEN_HEADER: &str = "lark-token";
/// Header with the controller's version, by which its answers are told from those of the API server in between.
pub const VERSION_HEADER: &str = "lark-version";
/// Unix socket of the controller's admin API.
pub const CONTROLLER_SOCKET: &str = "/run/lark-controller/controller.sock";
/// Unix socket of the agent's admin API.
pub const ADMIN_SOCKET: &str = "/run/lark/admin.sock";
/// Directory under bpffs where programs, links and maps of this layout are pinned.
pub const PIN_ROOT: &str = "/sys/fs/bpf/lark/v1";
/// Where the kubelet's cgroup may be, of which a node has one: by kubeadm and most others, on Amazon's images, in nodes
/// of kind, on Talos, and where k3s and RKE2 run it in a service with everything else.
pub const KUBELET_CGROUPS: [&str; 8] = [
    "system.slice/kubelet.service",
    "runtime.slice/kubelet.service",
    "kubelet.slice/kubelet.service",
    "podruntime/kubelet",
    "system.slice/k3s.service",
    "system.slice/k3s-agent.service",
    "system.slice/rke2-server.service",
    "system.slice/rke2-agent.service",
];
/// Audience of the tokens that agents of a cluster show to the controller.
pub const CA_AUDIENCE: &str = "lark-ca";
/// Label on namespaces and workloads: `enabled` or `disabled`; the workload's wins.
pub const LABEL_CAPTURE: &str = "lark.mesh/capture";
/// Label on namespaces and workloads: `strict` or `permissive`.
pub const LABEL_MTLS: &str = "lark.mesh/mtls";
/// Annotation on namespaces and workloads: ports whose mode is another, `9090=permissive,8080=strict`.
pub const ANNOTATION_MTLS_PORTS: &str = "lark.mesh/mtls-ports";
/// Annotation on workloads: `accepted` captures one that policies of other kinds than Lark understands
/// select, which Lark does not enforce inside its tunnels.
pub const ANNOTATION_FOREIGN_POLICIES: &str = "lark.mesh/foreign-policies";
/// Lark's own namespace; an AuthorizationPolicy in it holds for the whole mesh.
pub const SYSTEM_NAMESPACE: &str = "lark-system";
/// Namespaces that are captured only when a workload asks by its own label.
pub const EXCLUDED_NAMESPACES: [&str; 2] = [SYSTEM_NAMESPACE, "kube-system"];
/// Life of an SVID as Lark's own CA issues it.
pub const SVID_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// An SVID is renewed when this share of its life has passed (in percent) ...
pub const RENEW_AT_PERCENT: u32 = 44;
/// ... give or take this share (in percent), so that agents do not ask all at once. Together they end
/// before half of the life: a CA that is away for twelve hours from the very moment of renewal is back
/// before a certificate of a day expires (at half of the life ± 10 % it would not be).
pub const RENEW_JITTER_PERCENT: u32 = 4;
/// Life of a node's credential at the CA: longer than any outage that a node is to come back from.
pub const CREDENTIAL_LIFE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// A credential of this age is replaced, so that a stolen copy is soon worth nothing.
pub const CREDENTIAL_RENEWED: Duration = Duration::from_secs(24 * 60 * 60);
/// Requests that a node may make at the CA at once: two for each of as many pods as a node has at most ...
pub const CA_BURST: u32 = 512;
/// ... and for how many more a second it may ask.
pub const CA_PER_SECOND: u32 = 16;
/// From here on a clock that differs from the controller's is told.
pub const CLOCK_SKEW: Duration = Duration::from_secs(60);
/// A tunnel takes no new stream after this age.
pub const TUNNEL_MAX_AGE: Duration = Duration::from_secs(60 * 60);
/// A tunnel without streams is closed after this time, and until then one that was lost or aged is
/// opened again ahead of need.
pub const TUNNEL_IDLE: Duration = Duration::from_secs(10 * 60);
/// Bytes of a tunnel that may wait unread in the kernel: all its streams wait behind them, and one round trip
/// moves no more. 1 MiB is 8 Gbit/s at a round trip of a millisecond.
pub const TUNNEL_WINDOW: u32 = 1024 * 1024;
/// Most bytes that wait in an agent for applications and other agents which do not read; half of its memory where that is limited
/// to less than twice as much.
pub const HELD_MAX: usize = 1024 * 1024 * 1024;
/// Most pairs of identities and nodes for which a node opens tunnels ahead of need; the least recently
/// used go.
pub const AHEAD_MAX: usize = 64;
/// How long an unknown peer or destination may wait for discovery.
pub const DISCOVERY_WAIT: Duration = Duration::from_secs(1);
/// The kernel hooks take the agent for dead when its heartbeat is older.
pub const HEARTBEAT_STALE: Duration = Duration::from_secs(2);
/// How often the agent's heartbeat thread writes.
pub const HEARTBEAT_EVERY: Duration = Duration::from_millis(250);
/// A peer that answers no PING for this long is gone.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a TCP connect plus TLS handshake to a peer agent may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the connect to the application may take at the delivering end.
pub const DELIVER_TIMEOUT: Duration = Duration::from_secs(5);
/// Suffix of the TLS server name under which an identity's listener is addressed.
pub const SNI_SUFFIX: &str = "svid.lark.mesh";
/// Version of the layout of the kernel's maps (the `v1` of [`PIN_ROOT`]).
pub const LAYOUT: u32 = lark_abi::LAYOUT_VERSION;
