//! `lark controller`: the CA API for the mesh's agents.

mod args;
mod token;

pub use args::ControllerArgs;
pub use token::{TokenArgs, run as run_token};

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use lark_core::identity::SpiffeId;
use lark_core::snapshot::Snapshot;
use lark_identity::ca::Ca;
use lark_identity::service::{CaService, Placement};
use lark_identity::token::JoinTokens;
use tokio::sync::watch;
use tonic::transport::{Identity, Server, ServerTlsConfig};

/// Life of the certificate that the controller shows to agents. It is made anew at each start.
const SERVING_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
/// Requests in work at once; each is short.
const CONCURRENT: usize = 64;

/// Where workloads run, by discovery.
struct ByDiscovery(watch::Receiver<Arc<Snapshot>>);

impl Placement for ByDiscovery {
    fn runs(&self, node: &str, identity: &SpiffeId) -> bool {
        self.0.borrow().workloads_on(node).any(|w| w.identity == *identity)
    }
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// With one sentence, before anything is served.
pub async fn run(args: ControllerArgs) -> anyhow::Result<()> {
    let path = crate::app::discovery_path(&args.discovery)?;
    let discovery = lark_discovery::file::watch(path).await?;
    let domain = discovery.snapshot.borrow().mesh.trust_domain.clone();
    let tokens = JoinTokens::load(&args.join_tokens)?;
    let ca = match (&args.ca_cert, &args.ca_key) {
        (Some(certificate), Some(key)) => Ca::load(certificate, key)?,
        (None, None) => Ca::open(&args.data_dir, &domain, SystemTime::now())?,
        _ => bail!("--ca-cert and --ca-key go together: give both, or none for a CA made in --data-dir"),
    };
    publish_root(&args.data_dir, ca.root_pem())?;
    let names = if args.san.is_empty() { vec![args.listen.ip().to_string()] } else { args.san.clone() };
    let (chain, key) = ca.serving(&names, SERVING_LIFE, SystemTime::now())?;
    let service = CaService::new(ca, tokens, ByDiscovery(discovery.snapshot.clone()));
    let listener = tokio::net::TcpListener::bind(args.listen).await.with_context(|| {
        format!("cannot listen on {}; is the port in use, the address this host's?", args.listen)
    })?;
    tracing::info!(listen = %args.listen, trust_domain = %domain, names = names.join(","), "controller serves the CA API");
    let counts = service.clone();
    Server::builder()
        .tls_config(ServerTlsConfig::new().identity(Identity::from_pem(chain, key.as_bytes())))
        .context("the controller's own certificate cannot be used")?
        .concurrency_limit_per_connection(CONCURRENT)
        .timeout(Duration::from_secs(10))
        .add_service(service)
        .serve_with_incoming_shutdown(
            tokio_stream::wrappers::TcpListenerStream::new(listener),
            crate::app::stop_signal(),
        )
        .await
        .context("the CA API stopped")?;
    let (issued, refused) = counts.counts();
    tracing::info!(issued, refused, "controller stopped");
    Ok(())
}

/// The root for agents, beside the CA's own files.
fn publish_root(directory: &Path, pem: &str) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("directory {} cannot be made", directory.display()))?;
    let path = directory.join("root.pem");
    let draft = directory.join("root.pem.new");
    std::fs::write(&draft, pem)
        .and_then(|()| std::fs::rename(&draft, &path))
        .with_context(|| format!("{} cannot be written", path.display()))
}
