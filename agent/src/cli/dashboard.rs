//! Flags of `lark dashboard`.

use clap::Args;

use super::ClusterQuery;

/// Serves the web page on a loopback port until it is stopped.
#[derive(Debug, Clone, Args)]
pub struct DashboardArgs {
    /// Who is asked: this node's agent, or with --cluster all of them through the controller.
    #[command(flatten)]
    pub asked: ClusterQuery,
    /// Port on 127.0.0.1 that the page is served on.
    ///
    /// Default 0: a free one. The address that is printed has a secret in it, without which nothing is told; it is
    /// another one at each start. From elsewhere forward the port, for example by ssh -L.
    #[arg(long, env = "LARK_DASHBOARD_PORT", value_name = "PORT", default_value_t = 0)]
    pub port: u16,
}
