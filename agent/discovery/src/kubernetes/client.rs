//! How the API server is reached.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

/// Whoever is silent for this long is gone. The server sends a bookmark a minute on every watch.
const SILENCE: Duration = Duration::from_secs(150);

/// Where the API server is, and as whom it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// As the service account of the pod that this process is in.
    InCluster,
    /// As a kubeconfig says.
    Kubeconfig(PathBuf),
}

/// Why there is no way to the API server. Whether it answers shows later.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// This process is in no pod, or its account is not mounted.
    #[error(
        "the cluster's API cannot be reached from inside: {0}; run as a pod with its service account, or name a kubeconfig by --discovery kubernetes:PATH"
    )]
    InCluster(#[source] InClusterError),
    /// The kubeconfig cannot be used.
    #[error("kubeconfig {path} cannot be used: {source}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KubeconfigError,
    },
    /// TLS or credentials cannot be set up.
    #[error("the connection to the cluster's API cannot be set up: {0}")]
    Setup(#[source] kube::Error),
    /// The runtime is going down.
    #[error("discovery was stopped before the cluster's API had told everything")]
    Stopped,
}

/// Makes a client; connects with the first request.
pub(super) async fn connect(access: &Access) -> Result<Client, ConnectError> {
    let mut config = match access {
        Access::InCluster => Config::incluster().map_err(ConnectError::InCluster)?,
        Access::Kubeconfig(path) => from_file(path).await?,
    };
    config.connect_timeout = Some(Duration::from_secs(10));
    config.read_timeout = Some(SILENCE);
    config.reset_reader_on_write = true;
    Client::try_from(config).map_err(ConnectError::Setup)
}

async fn from_file(path: &Path) -> Result<Config, ConnectError> {
    let failed = |source| ConnectError::Kubeconfig { path: path.to_owned(), source };
    let file = Kubeconfig::read_from(path).map_err(failed)?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(failed)
}
