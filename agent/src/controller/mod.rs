//! `lark controller`: the CA API for the mesh's agents.

mod args;
mod token;

pub use args::ControllerArgs;
pub use token::{TokenArgs, run as run_token};

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail, ensure};
use lark_core::identity::SpiffeId;
use lark_core::snapshot::Snapshot;
use lark_discovery::Discovery;
use lark_identity::ca::Ca;
use lark_identity::listener::{ServingCertificate, accept};
use lark_identity::service::{CaService, Placement};
use lark_identity::token::TokenFile;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::Server;

/// Requests in work at once on one connection; each is short.
const CONCURRENT: usize = 64;
/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// An agent asks and leaves: longer stays only who means no good, or is gone.
const CONNECTION_MAX_AGE: Duration = Duration::from_secs(300);
const CONNECTION_GRACE: Duration = Duration::from_secs(10);
/// Largest header block, in bytes: a token is far shorter.
const HEADERS_MAX: u32 = 16 * 1024;

/// Where workloads run, by discovery.
struct ByDiscovery(watch::Receiver<Arc<Snapshot>>);

impl Placement for ByDiscovery {
    fn runs(&self, node: &str, identity: &SpiffeId) -> bool {
        self.0.borrow().workloads_on(node).any(|w| w.identity == *identity)
    }
}

/// A controller that listens, but does not yet answer.
#[derive(Debug)]
pub struct Controller {
    listener: TcpListener,
    certificate: Arc<ServingCertificate>,
    tokens: Arc<TokenFile>,
    service: CaService,
    /// Kept, so that the file is watched.
    _discovery: Discovery,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// With one sentence that says what to do, before anything is served.
pub async fn run(args: ControllerArgs) -> anyhow::Result<()> {
    Controller::start(&args).await?.run_until(crate::app::stop_signal()).await
}

impl Controller {
    /// Reads everything, makes the CA at the first start, publishes its root and listens.
    ///
    /// # Errors
    /// With one sentence that says what to do.
    pub async fn start(args: &ControllerArgs) -> anyhow::Result<Self> {
        let discovery = lark_discovery::file::watch(crate::app::discovery_path(&args.discovery)?).await?;
        let domain = discovery.snapshot.borrow().mesh.trust_domain.clone();
        let tokens = Arc::new(TokenFile::open(&args.join_tokens)?);
        let names = names(args)?;
        let ca = Arc::new(match (&args.ca_cert, &args.ca_key) {
            (Some(certificate), Some(key)) => Ca::load(certificate, key)?,
            (None, None) => Ca::open(&args.data_dir, &domain, SystemTime::now())?,
            _ => bail!("--ca-cert and --ca-key go together: give both, or none for a CA made in --data-dir"),
        });
        let root = ca.publish_root(&args.data_dir)?;
        let certificate = ServingCertificate::new(ca.clone(), names.clone(), SystemTime::now())?;
        let service = CaService::new(ca, tokens.clone(), ByDiscovery(discovery.snapshot.clone()));
        let listener = TcpListener::bind(args.listen).await.with_context(|| {
            format!("cannot listen on {}; is the port in use, the address this host's?", args.listen)
        })?;
        tracing::info!(
            listen = %listener.local_addr()?,
            trust_domain = %domain,
            names = names.join(","),
            root = %root.display(),
            "controller serves the CA API"
        );
        Ok(Self { listener, certificate, tokens, service, _discovery: discovery })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The service, for its counts.
    pub fn service(&self) -> &CaService {
        &self.service
    }

    /// Answers until `stop` resolves, then finishes what is in work.
    ///
    /// # Errors
    /// When it cannot go on.
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let incoming = accept(self.listener, self.certificate.clone())?;
        crate::app::service_ready();
        let server = Server::builder()
            .concurrency_limit_per_connection(CONCURRENT)
            .timeout(REQUEST_TIMEOUT)
            .max_connection_age(CONNECTION_MAX_AGE)
            .max_connection_age_grace(CONNECTION_GRACE)
            .http2_max_header_list_size(HEADERS_MAX)
            .add_service(self.service.clone())
            .serve_with_incoming_shutdown(incoming, stop);
        tokio::select! {
            served = server => served.context("the CA API stopped")?,
            () = self.certificate.follow() => {}
            () = self.tokens.follow() => {}
        }
        crate::app::service_stopping();
        let refused: u64 = self.service.refused().values().sum();
        tracing::info!(issued = self.service.issued(), refused, "controller stopped");
        Ok(())
    }
}

/// What agents call this controller by.
fn names(args: &ControllerArgs) -> anyhow::Result<Vec<String>> {
    if !args.san.is_empty() {
        return Ok(args.san.clone());
    }
    ensure!(
        !args.listen.ip().is_unspecified(),
        "--listen {} says no name that agents could verify: give --san with the name or address of their --ca-url",
        args.listen
    );
    Ok(vec![args.listen.ip().to_string()])
}
