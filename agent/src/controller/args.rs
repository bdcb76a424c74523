//! Flags of `lark controller`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use lark_core::constants::CONTROLLER_SOCKET;

/// Runs until it is told to stop.
#[derive(Debug, Clone, Args)]
pub struct ControllerArgs {
    /// Where workloads are known from: kubernetes, kubernetes:KUBECONFIG or file:PATH.
    ///
    /// No default. A node gets certificates for the workloads that this places on it, and no others.
    #[arg(long, env = "LARK_DISCOVERY", value_name = "SOURCE")]
    pub discovery: String,
    /// Settings of the mesh, where discovery has none.
    #[command(flatten)]
    pub mesh: crate::cli::agent::MeshArgs,
    /// Directory for the CA's roots and keys, the state of their rotation, the nodes' credentials (as
    /// hashes) and root.pem.
    ///
    /// Default /var/lib/lark. The CA is made there at the first start or by `lark ca init`; its keys can be
    /// read by their owner only. Whoever loses it must bring the new root to every agent.
    #[arg(long, env = "LARK_DATA_DIR", value_name = "DIR", default_value = "/var/lib/lark")]
    pub data_dir: PathBuf,
    /// Namespace in which the CA is kept for several replicas of the controller: in the Secret lark-roots, with the
    /// Lease lark-controller of the one that leads.
    ///
    /// Default: none, and it is kept in --data-dir by one controller alone. Needs --discovery kubernetes and --replica. The CA
    /// is made there by the replica that leads first, unless --ca-secret is given.
    #[arg(long, env = "LARK_STATE_NAMESPACE", value_name = "NAME", requires = "replica", conflicts_with_all = ["ca_cert", "join_tokens"])]
    pub state_namespace: Option<String>,
    /// Name of this replica, which no other one may have: that of its pod.
    ///
    /// No default; with --state-namespace.
    #[arg(long, env = "LARK_REPLICA", value_name = "NAME")]
    pub replica: Option<String>,
    /// Address of this replica alone, by which agents reach it while it leads: that of its pod, at the port of --listen.
    ///
    /// Default: none, and agents ask --ca-url again and again until they happen on the replica that leads.
    #[arg(long, env = "LARK_REPLICA_ADDRESS", value_name = "IP")]
    pub replica_address: Option<IpAddr>,
    /// Secret of --state-namespace with a CA of somebody else's: tls.crt, tls.key and, if tls.crt does not lead up to
    /// the root, ca.crt, as cert-manager fills it.
    ///
    /// Default: none, Lark makes its own. Read anew all the time: one of the same root is taken up at once, one of another
    /// root begins a rotation to it.
    #[arg(long, env = "LARK_CA_SECRET", value_name = "NAME", requires = "state_namespace")]
    pub ca_secret: Option<String>,
    /// ConfigMap of --state-namespace in which the trusted roots are kept as root.pem, for agents' first contact.
    ///
    /// Default lark-root. Written by the replica that leads.
    #[arg(long, env = "LARK_ROOT_CONFIGMAP", value_name = "NAME", default_value = "lark-root")]
    pub root_configmap: String,
    /// After how many seconds of silence of the replica that leads another one takes its place.
    ///
    /// Default 10. A replica that cannot read the CA's state for 4 tenths of it issues nothing until it can.
    #[arg(long, env = "LARK_LEASE_SECONDS", value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub lease_seconds: u32,
    /// Address and port of the CA API.
    ///
    /// Default 0.0.0.0:15012.
    #[arg(long, env = "LARK_CA_LISTEN", value_name = "ADDR:PORT", default_value = "0.0.0.0:15012")]
    pub listen: SocketAddr,
    /// Name or address that agents call the controller by; may be repeated.
    ///
    /// Default: the address of --listen, which must then be one of this host's, not 0.0.0.0. The
    /// controller's TLS certificate is made for these, and agents accept no others.
    #[arg(long, env = "LARK_CA_SAN", value_name = "NAME", value_delimiter = ',')]
    pub san: Vec<String>,
    /// File of the nodes that may be in the mesh, a line `NODE HASH EXPIRES` each as `lark token` prints it.
    ///
    /// No default: this or --agent-account. A node joins once, before EXPIRES, and stays until its line is taken
    /// out or replaced. Read anew when it changes; a broken one keeps the lines known before.
    #[arg(long, env = "LARK_JOIN_TOKENS", value_name = "FILE")]
    pub join_tokens: Option<PathBuf>,
    /// The agents' service account, NAMESPACE/NAME: agents show their pods' tokens, and the cluster's API is
    /// asked whose they are.
    ///
    /// No default: this or --join-tokens; needs --discovery kubernetes. Tokens must be projected for audience
    /// lark-ca. A node gets certificates while its agent's pod is there, and for the workloads on that pod's
    /// node alone.
    #[arg(long, env = "LARK_AGENT_ACCOUNT", value_name = "NAMESPACE/NAME", conflicts_with = "join_tokens")]
    pub agent_account: Option<String>,
    /// PEM file of a CA certificate made elsewhere, with its chain up to the root.
    ///
    /// Default: none, Lark makes its own in --data-dir. Needs --ca-key. Read anew when either changes: one of
    /// the same root is taken up at once, one of another root begins a rotation to it.
    #[arg(long, env = "LARK_CA_CERT", value_name = "FILE")]
    pub ca_cert: Option<PathBuf>,
    /// PEM file of that certificate's key (PKCS#8).
    ///
    /// Default: none. Refused if everybody on the machine may read it.
    #[arg(long, env = "LARK_CA_KEY", value_name = "FILE")]
    pub ca_key: Option<PathBuf>,
    /// Unix socket of the controller's admin API, for `lark ca`.
    ///
    /// Default /run/lark-controller/controller.sock, mode 0600.
    #[arg(long, env = "LARK_CONTROLLER_SOCKET", value_name = "PATH", default_value = CONTROLLER_SOCKET)]
    pub controller_socket: PathBuf,
    /// Address and port for metrics and health.
    ///
    /// Default: port 15014 of the address of --listen.
    #[arg(long, env = "LARK_CONTROLLER_METRICS_LISTEN", value_name = "ADDR:PORT")]
    pub metrics_listen: Option<SocketAddr>,
    /// Address and port at which whoever has a token of the cluster's API asks about the cluster, by TLS: `lark edges
    /// --cluster` of people who may not forward ports of Lark's pods, by way of the API server.
    ///
    /// Default: none. Needs --discovery kubernetes. He is told what concerns the namespaces in which the API lets him get
    /// pods, and everything if these are all.
    #[arg(long, env = "LARK_STATUS_LISTEN", value_name = "ADDR:PORT")]
    pub status_listen: Option<SocketAddr>,
    /// Address and port on the loopback at which everybody is told everything about the cluster: `lark edges --cluster` of
    /// people who may forward ports of Lark's pods.
    ///
    /// Default: none. For a pod of its own only, whose loopback is reached by port-forward and by nobody else. Nothing can
    /// be changed there.
    #[arg(long, env = "LARK_FORWARD_LISTEN", value_name = "ADDR:PORT")]
    pub forward_listen: Option<SocketAddr>,
    /// How log lines look: text or json.
    ///
    /// Default text.
    #[arg(long, env = "LARK_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: crate::cli::agent::LogFormat,
    /// Which log lines are written, as level or module=level,...
    ///
    /// Default info.
    #[arg(long, env = "LARK_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,
}
