//! Flags of `lark agent`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use lark_core::constants::{ADMIN_SOCKET, KUBELET_CGROUPS, PIN_ROOT, SVID_LIFE, TUNNEL_WINDOW};
use lark_core::policy::Cidr;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Whether protocols are recognised in what passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Recognise {
    /// Requests are counted and timed.
    On,
    /// Connections and bytes only.
    Off,
}

/// Who carries the records of tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Ktls {
    /// The kernel, where it can.
    Auto,
    /// The agent.
    Off,
}

/// What tunnels are encrypted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Cipher {
    /// TLS_AES_128_GCM_SHA256.
    #[value(name = "aes-128-gcm")]
    Aes128Gcm,
    /// TLS_AES_256_GCM_SHA384.
    #[value(name = "aes-256-gcm")]
    Aes256Gcm,
    /// TLS_CHACHA20_POLY1305_SHA256.
    #[value(name = "chacha20-poly1305")]
    Chacha20Poly1305,
}

/// What captured permissive pods do while their agent is dead or stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AgentDown {
    /// Connect in plaintext, counted.
    Untouched,
    /// Get ECONNREFUSED.
    Refuse,
}

/// How two captured pods of one node are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SameNode {
    /// Joined inside the agent.
    Agent,
    /// By mTLS, through a tunnel of the agent to itself.
    Mtls,
    /// Pod to pod in plaintext, decided in the kernel.
    Direct,
}

/// What a change of policies means for open connections that it does not allow any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PolicyChange {
    /// They are ended.
    End,
    /// They go on.
    Keep,
}

/// Whether workloads take plaintext.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mtls {
    /// From whoever is not in the mesh.
    Permissive,
    /// From nobody.
    Strict,
}

/// Settings of the whole mesh, for --discovery kubernetes; a file has its own.
#[derive(Debug, Clone, Default, Args)]
pub struct MeshArgs {
    /// Trust domain of all identities, with --discovery kubernetes.
    ///
    /// Default cluster.local. Agents and controllers of one mesh must agree on it.
    #[arg(long, env = "LARK_TRUST_DOMAIN", value_name = "NAME")]
    pub trust_domain: Option<String>,
    /// What captured pods do while their agent is dead or stuck, with --discovery kubernetes.
    ///
    /// Default untouched: they connect in plaintext, and that is counted. refuse: they get ECONNREFUSED.
    #[arg(long, env = "LARK_AGENT_DOWN", value_enum, value_name = "WHAT")]
    pub agent_down: Option<AgentDown>,
    /// How two captured pods of one node are connected, with --discovery kubernetes.
    ///
    /// Default agent: joined inside the agent, on no shared interface. mtls: through a tunnel of the agent to
    /// itself, for whoever wants it literally. direct: pod to pod in plaintext where the kernel can decide it.
    #[arg(long, env = "LARK_SAME_NODE", value_enum, value_name = "WAY")]
    pub same_node: Option<SameNode>,
    /// What becomes of open connections that policies do not allow any more, with --discovery kubernetes.
    ///
    /// Default end: they are reset at both ends. keep: they go on.
    #[arg(long, env = "LARK_POLICY_CHANGE", value_enum, value_name = "WHAT")]
    pub policy_change: Option<PolicyChange>,
    /// Whether workloads without label lark.mesh/mtls take plaintext, with --discovery kubernetes.
    ///
    /// Default permissive: from whoever is not in the mesh. strict: from nobody but their node's kubelet.
    #[arg(long, env = "LARK_MTLS", value_enum, value_name = "MODE")]
    pub mtls: Option<Mtls>,
    /// A range of the cluster's own, of pods or Services; may be repeated. With --discovery kubernetes.
    ///
    /// Default none. What a strict workload dials there must be known to discovery: it waits for a second, and
    /// is then refused.
    #[arg(long, env = "LARK_CLUSTER_RANGES", value_name = "CIDR", value_delimiter = ',')]
    pub cluster_range: Vec<Cidr>,
}

impl MeshArgs {
    /// Whether none of them is given.
    pub fn is_empty(&self) -> bool {
        self.trust_domain.is_none()
            && self.agent_down.is_none()
            && self.same_node.is_none()
            && self.policy_change.is_none()
            && self.mtls.is_none()
            && self.cluster_range.is_empty()
    }
}

/// Runs until it is told to stop.
#[derive(Debug, Clone, Args)]
pub struct AgentArgs {
    /// Name of this node in discovery.
    ///
    /// No default. Workloads of this node are captured; the CA gives certificates for these only.
    #[arg(long, env = "LARK_NODE", value_name = "NAME")]
    pub node: String,
    /// Where workloads, Services and nodes are known from: kubernetes, kubernetes:KUBECONFIG or file:PATH.
    ///
    /// No default. kubernetes is the API of the cluster that this runs in, asked as the pod's service account.
    /// A file is watched; an invalid one keeps the last good state.
    #[arg(long, env = "LARK_DISCOVERY", value_name = "SOURCE")]
    pub discovery: String,
    /// Settings of the mesh, where discovery has none.
    #[command(flatten)]
    pub mesh: MeshArgs,
    /// URL of the controller's CA API, https://HOST:PORT.
    ///
    /// No default. While it cannot be reached, valid certificates stay in use.
    #[arg(long, env = "LARK_CA_URL", value_name = "URL")]
    pub ca_url: String,
    /// PEM file of the root certificates to trust, the CA's own among them.
    ///
    /// No default. The controller writes it as root.pem into its data directory. What the controller says
    /// later counts instead, until this file changes.
    #[arg(long, env = "LARK_CA_ROOT", value_name = "FILE")]
    pub ca_root: PathBuf,
    /// File with this node's join token, or with the token of the agent's pod.
    ///
    /// No default. In a cluster it is projected for audience lark-ca, and read at each contact. `lark token` makes one elsewhere. It is exchanged for a credential in --state-dir at the first
    /// contact, and not needed afterwards.
    #[arg(long, env = "LARK_TOKEN_FILE", value_name = "FILE")]
    pub token_file: PathBuf,
    /// Directory for what the agent must know after a restart: roots.json and credential.
    ///
    /// Default /var/lib/lark-agent, mode 0700 where the agent makes it itself. The roots that the controller told, and this node's
    /// credential, a secret. Without it the node needs another join token.
    #[arg(long, env = "LARK_STATE_DIR", value_name = "DIR", default_value = "/var/lib/lark-agent")]
    pub state_dir: PathBuf,
    /// Life of the certificates that are asked for, in seconds.
    ///
    /// Default 86400, at least 60. Each is renewed before half of its life. The CA may give shorter ones.
    #[arg(long, env = "LARK_SVID_LIFE", value_name = "SECONDS", default_value_t = SVID_LIFE.as_secs(),
        value_parser = clap::value_parser!(u64).range(60..=86_400))]
    pub svid_life: u64,
    /// Unix socket of the admin API.
    ///
    /// Default /run/lark/admin.sock, mode 0600.
    #[arg(long, env = "LARK_ADMIN_SOCKET", value_name = "PATH", default_value = ADMIN_SOCKET)]
    pub admin_socket: PathBuf,
    /// Directory on a bpf file system for pinned programs, links and maps.
    ///
    /// Default /sys/fs/bpf/lark/v1. It outlives the agent, so that the next one takes over.
    #[arg(long, env = "LARK_PIN_ROOT", value_name = "DIR", default_value = PIN_ROOT)]
    pub pin_root: PathBuf,
    /// The kubelet's cgroup (v2), absolute or relative to the mount; of several the first that is there.
    ///
    /// Default kubelet.service in system.slice, runtime.slice or kubelet.slice, podruntime/kubelet, or the service of
    /// k3s or RKE2. What its sockets dial reaches strict pods as probes; without it probes of strict pods are refused,
    /// which `lark check` says.
    #[arg(
        long,
        env = "LARK_KUBELET_CGROUP",
        value_name = "PATH",
        value_delimiter = ',',
        default_values = KUBELET_CGROUPS
    )]
    pub kubelet_cgroup: Vec<PathBuf>,
    /// Address and port for tunnels of other agents.
    ///
    /// Default: the node's first address and tunnel port in discovery.
    #[arg(long, env = "LARK_TUNNEL_LISTEN", value_name = "ADDR:PORT")]
    pub tunnel_listen: Option<SocketAddr>,
    /// Address and port for metrics and health.
    ///
    /// Default: port 15020 of the node's first address in discovery.
    #[arg(long, env = "LARK_METRICS_LISTEN", value_name = "ADDR:PORT")]
    pub metrics_listen: Option<SocketAddr>,
    /// Worker threads, 1 to 8.
    ///
    /// Default: one a core, at most 8. Each holds a listener in every captured pod and its own tunnels.
    #[arg(long, env = "LARK_WORKERS", value_name = "N")]
    pub workers: Option<usize>,
    /// Most mesh destinations (addresses of captured pods, addresses times ports of Services).
    ///
    /// Default 262144. About 100 bytes of kernel memory each in use. Connects to destinations beyond it
    /// stay plaintext, which `lark check` says.
    #[arg(long, env = "LARK_DESTINATIONS_MAX", value_name = "N", default_value_t = 262_144)]
    pub destinations_max: u32,
    /// Take over from the agent that runs here, if one does.
    ///
    /// Default: off, and an agent that runs is an error. The new agent gets the listeners by descriptor and
    /// the hooks by link update; no connection is refused or reset by it. The old one finishes what it
    /// carries, for at most its own --drain.
    #[arg(long, env = "LARK_TAKE_OVER")]
    pub take_over: bool,
    /// How long open connections may go on after SIGTERM or after another agent took over, in seconds.
    ///
    /// Default 20. What is open then is reset and said in the log. A second SIGTERM ends at once.
    #[arg(long, env = "LARK_DRAIN", value_name = "SECONDS", default_value_t = 20)]
    pub drain: u64,
    /// The Service of discovery without which Lark is uninstalled, NAMESPACE/NAME: the controller's.
    ///
    /// Default: none, and an agent that ends leaves its hooks to the next one. If this Service was there and is
    /// gone when it ends, it takes hooks, pins and what is in --state-dir away: pods are as before Lark.
    #[arg(long, env = "LARK_LEAVE_WITHOUT", value_name = "NAMESPACE/NAME")]
    pub leave_without: Option<String>,
    /// Within how many seconds a node that vanished is noticed; its streams are reset then.
    ///
    /// Default 10, at least 3. Peers that are silent are asked after a third of it.
    #[arg(long, env = "LARK_KEEPALIVE", value_name = "SECONDS", default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(3..=3600))]
    pub keepalive: u64,
    /// After how many seconds an open connection is said to be long in `lark connections`.
    ///
    /// Default 86400, the life of a certificate: it outlives those that its tunnel was proved with, and an
    /// upgrade would reset it.
    #[arg(long, env = "LARK_LONG_STREAM", value_name = "SECONDS", default_value_t = 86_400)]
    pub long_stream: u64,
    /// TCP congestion control of tunnels, for example cubic.
    ///
    /// Default: the system's.
    #[arg(long, env = "LARK_CONGESTION", value_name = "NAME")]
    pub congestion: Option<String>,
    /// Which ciphers of TLS 1.3 tunnels may use, with commas between them, the preferred one first: aes-128-gcm,
    /// aes-256-gcm, chacha20-poly1305.
    ///
    /// Default: all three in this order where the CPU has instructions for AES, chacha20-poly1305 first where it has
    /// not. The dialling node's order counts. One that is not named is neither offered nor taken: name aes-256-gcm
    /// alone, on all nodes, where a rule demands keys of 256 bits; it takes about a seventh more CPU for a byte.
    #[arg(
        long,
        env = "LARK_CIPHERS",
        value_enum,
        value_name = "CIPHER,...",
        value_delimiter = ',',
        hide_possible_values = true
    )]
    pub ciphers: Option<Vec<Cipher>>,
    /// Whether the kernel carries the TLS records of tunnels where it can: auto or off.
    ///
    /// Default off: the agent does. auto tries the kernel's module tls at start, `lark status` shows what came of it,
    /// and hands over each connection's keys after its handshake; payload of large frames is then spliced where no
    /// protocol is recognised in it. Off is the default since it was proved in emulation only, where nothing can be
    /// timed, and since kernels before 6.14 cannot replace keys: there a tunnel takes no new connections after 8.4
    /// million records in a direction (137 GB if all are full, much less of small messages), and resets those that it
    /// has left after twice as many.
    #[arg(long, env = "LARK_KTLS", value_enum, value_name = "WHETHER", default_value = "off")]
    pub ktls: Ktls,
    /// How many bytes of a tunnel may wait unread in the kernel of the node that they came to.
    ///
    /// Default 1048576. All connections of a tunnel wait behind them, so more is worse for small messages beside
    /// bulk; and one round trip of the network moves no more, so nodes that are far apart want more: bytes per
    /// second are this by the round trip. 0: as the kernel grows it.
    #[arg(long, env = "LARK_TUNNEL_WINDOW", value_name = "BYTES", default_value_t = TUNNEL_WINDOW,
        value_parser = clap::value_parser!(u32).range(0..=1_073_741_823))]
    pub tunnel_window: u32,
    /// For how many microseconds a worker looks for more before it sleeps, 0 to 200.
    ///
    /// Default 0. An answer that comes within it needs no wake-up: round trips of small messages get shorter.
    /// The price is CPU: up to one core a worker while such traffic flows, nothing while none does, and
    /// little where answers take longer, since a spin that is mostly in vain is mostly left out.
    #[arg(long, env = "LARK_SPIN", value_name = "MICROSECONDS", default_value_t = 0,
        value_parser = clap::value_parser!(u64).range(0..=200))]
    pub spin: u64,
    /// Whether HTTP and gRPC are recognised in what passes: on or off.
    ///
    /// Default on: requests are counted and timed by edge, in up to 2 KiB of memory a connection. off:
    /// connections and bytes only.
    #[arg(long, env = "LARK_RECOGNISE", value_enum, value_name = "WHETHER", default_value = "on")]
    pub recognise: Recognise,
    /// How log lines look: text or json.
    ///
    /// Default text. The access log has the target `access`.
    #[arg(long, env = "LARK_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// Which log lines are written, as level or module=level,...
    ///
    /// Default info. For example info,lark_tunnel=debug or info,access=off.
    #[arg(long, env = "LARK_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,
}
