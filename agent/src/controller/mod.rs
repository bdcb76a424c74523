//! `lark controller`: the CA API for the mesh's agents, and the roots that they trust.

mod admin;
mod args;
mod asked;
mod cluster;
mod init;
mod notices;
mod replica;
mod reviews;
mod rotation;
mod tenants;
mod token;

pub use admin::catalogue;
pub use args::ControllerArgs;
pub use init::{InitArgs, run as run_init};
pub use token::{TokenArgs, run as run_token};

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail, ensure};
use lark_core::constants::{CA_AUDIENCE, CONTROLLER_METRICS_PORT};
use lark_core::identity::{SpiffeId, TrustDomain};
use lark_core::snapshot::Snapshot;
use lark_discovery::Discovery;
use lark_discovery::kubernetes::{Events, TokenReviews};
use lark_identity::authority::{Authority, OnDisk};
use lark_identity::ca::Ca;
use lark_identity::given::GivenFiles;
use lark_identity::listener::{ServingCertificate, Speaks, accept};
use lark_identity::members::{Authenticator, Members};
use lark_identity::nodes::Nodes;
use lark_identity::refusals::Refusals;
use lark_identity::service::{CaService, Placement};
use lark_identity::token::TokenFile;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tonic::transport::Server;

use crate::app::Source;
use asked::Doors;
use cluster::Cluster;
use replica::{Replica, Settings};
use reviews::Reviews;
use rotation::{Keeper, Rotation};

/// Requests in work at once on one connection; each is short.
const CONCURRENT: usize = 64;
/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A stream is opened anew after this time, by the certificate and the token of that time.
const CONNECTION_MAX_AGE: Duration = Duration::from_secs(3600);
const CONNECTION_GRACE: Duration = Duration::from_secs(10);
/// A silent client is asked after this long whether it is still there, and given as long to answer.
const KEEPALIVE: Duration = Duration::from_secs(10);
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
pub struct Controller {
    listener: TcpListener,
    metrics: TcpListener,
    socket: UnixListener,
    doors: Doors,
    rotation: Arc<Rotation>,
    given: Option<GivenFiles>,
    tokens: Option<Arc<TokenFile>>,
    service: CaService,
    refusals: Refusals,
    /// By which people are told of pods that are not captured.
    events: Option<Events>,
    /// Kept, so that the file is watched.
    _discovery: Discovery,
}

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller").field("listener", &self.listener).finish_non_exhaustive()
    }
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// With one sentence that says what to do, before anything is served.
pub async fn run(args: ControllerArgs) -> anyhow::Result<()> {
    Controller::start(&args).await?.run_until(crate::app::stop_signal()).await
}

impl Controller {
    /// Reads everything, makes the CA at the first start, publishes its roots and listens.
    ///
    /// # Errors
    /// With one sentence that says what to do.
    pub async fn start(args: &ControllerArgs) -> anyhow::Result<Self> {
        let from = Source::parse(&args.discovery)?;
        let discovery = from.discover(&args.mesh).await?;
        let domain = discovery.snapshot.borrow().mesh.trust_domain.clone();
        let names = names(args)?;
        let now = SystemTime::now();
        let (given, ca) = match (&args.ca_cert, &args.ca_key) {
            (Some(certificate), Some(key)) => {
                let (files, ca) = GivenFiles::open(certificate, key)?;
                (Some(files), Some(ca))
            }
            (None, None) => (None, None),
            _ => bail!("--ca-cert and --ca-key go together: give both, or none for a CA made in --data-dir"),
        };
        let bind = async |address: SocketAddr| {
            TcpListener::bind(address).await.with_context(|| {
                format!("cannot listen on {address}; is the port in use, the address this host's?")
            })
        };
        let listener = bind(args.listen).await?;
        let (keeper, authority) = keeper(args, &from, &domain, ca, listener.local_addr()?).await?;
        let root = match &keeper {
            Keeper::Disk(disk) => disk.published().display().to_string(),
            Keeper::Cluster(_) => format!("ConfigMap {}", args.root_configmap),
        };
        let events = match (&from, &args.replica) {
            (Source::Kubernetes(access), Some(name)) => Some(Events::new(access, name).await?),
            _ => None,
        };
        let (members, tokens) = members(args, &from, &discovery).await?;
        let refusals = Refusals::default();
        let certificate = ServingCertificate::new(authority.clone(), names.clone(), now)?;
        let nodes = Nodes::new(members.clone(), authority.trust(), refusals.clone());
        let placement = ByDiscovery(discovery.snapshot.clone());
        let service = CaService::new(authority.clone(), members, nodes.clone(), placement, refusals.clone());
        let at = SocketAddr::new(args.listen.ip(), CONTROLLER_METRICS_PORT);
        let metrics = bind(args.metrics_listen.unwrap_or(at)).await?;
        let socket = crate::admin::bind(&args.controller_socket)?;
        let doors = Doors::open(args, &from, discovery.snapshot.clone()).await?;
        tracing::info!(
            listen = %listener.local_addr()?,
            metrics = %metrics.local_addr()?,
            trust_domain = %domain,
            names = names.join(","),
            root,
            phase = authority.state().phase.label(),
            "controller serves the CA API"
        );
        let snapshot = discovery.snapshot.clone();
        let rotation = Arc::new(Rotation { authority, keeper, nodes, certificate, snapshot, domain });
        Ok(Self {
            listener,
            metrics,
            socket,
            doors,
            rotation,
            given,
            tokens,
            service,
            refusals,
            events,
            _discovery: discovery,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where its metrics are.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn metrics_address(&self) -> std::io::Result<SocketAddr> {
        self.metrics.local_addr()
    }

    /// Where a forwarded port leads, if anywhere.
    pub fn forward_address(&self) -> Option<SocketAddr> {
        self.doors.forward_address()
    }

    /// Where whoever has a token of the cluster's API asks, if anywhere.
    pub fn status_address(&self) -> Option<SocketAddr> {
        self.doors.status_address()
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
        let certificate = self.rotation.certificate.clone();
        let incoming = accept(self.listener, certificate.clone(), self.refusals.clone(), Speaks::Http2)?;
        let nodes = self.rotation.nodes.clone();
        let leaving = self.rotation.clone();
        let stop = async {
            stop.await;
            // Streams have no end of their own.
            nodes.close();
            leaving.leave().await;
        };
        let cluster = Arc::new(Cluster::new(nodes.clone(), self.rotation.snapshot.clone()));
        let doors =
            self.doors.serve(self.rotation.clone(), cluster.clone(), certificate.clone(), self.refusals);
        crate::app::service_ready();
        let server = Server::builder()
            .concurrency_limit_per_connection(CONCURRENT)
            .timeout(REQUEST_TIMEOUT)
            .max_connection_age(CONNECTION_MAX_AGE)
            .max_connection_age_grace(CONNECTION_GRACE)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .http2_max_header_list_size(HEADERS_MAX)
            .add_service(self.service.clone())
            .add_service(self.rotation.nodes.clone())
            .serve_with_incoming_shutdown(incoming, stop);
        tokio::select! {
            served = server => served.context("the CA API stopped")?,
            () = certificate.follow() => {}
            () = follow_tokens(self.tokens) => {}
            () = self.rotation.run() => {}
            () = self.rotation.replicate() => {}
            () = notices::post(self.rotation.clone(), self.events) => {}
            () = self.rotation.follow_given(self.given) => {}
            () = admin::serve(self.socket, self.rotation.clone(), cluster) => {}
            served = doors => served.context("questions about the cluster are answered no more")?,
            () = admin::serve_metrics(self.metrics, self.rotation.clone(), self.service.clone()) => {}
        }
        crate::app::service_stopping();
        let refused: u64 = self.service.refused().values().sum();
        tracing::info!(issued = self.service.issued(), refused, "controller stopped");
        Ok(())
    }
}

/// Where the CA is kept, and what it is.
async fn keeper(
    args: &ControllerArgs,
    from: &Source,
    domain: &TrustDomain,
    given: Option<Ca>,
    listens: SocketAddr,
) -> anyhow::Result<(Keeper, Arc<Authority>)> {
    let (namespace, name, access) = match (&args.state_namespace, &args.replica, from) {
        (None, ..) => {
            let disk = OnDisk::open(&args.data_dir, domain, given, SystemTime::now())?;
            let authority = disk.authority().clone();
            return Ok((Keeper::Disk(disk), authority));
        }
        (Some(namespace), Some(name), Source::Kubernetes(access)) => (namespace, name, access),
        (Some(_), _, Source::File(_)) => {
            bail!("--state-namespace needs the API of a cluster: give --discovery kubernetes")
        }
        (Some(_), None, _) => bail!("--state-namespace needs --replica, the name of this replica's pod"),
    };
    let settings = Settings {
        namespace: namespace.clone(),
        name: name.clone(),
        address: args.replica_address.map(|ip| SocketAddr::new(ip, listens.port())),
        given: args.ca_secret.clone(),
        published: args.root_configmap.clone(),
        terms: replica::terms(args.lease_seconds),
        domain: domain.clone(),
    };
    let (replica, authority) = Replica::start(access, settings).await?;
    Ok((Keeper::Cluster(replica), authority))
}

/// By what agents show who they are; with the file of join tokens, if that is it.
async fn members(
    args: &ControllerArgs,
    from: &Source,
    discovery: &Discovery,
) -> anyhow::Result<(Arc<dyn Authenticator>, Option<Arc<TokenFile>>)> {
    match (&args.join_tokens, &args.agent_account, from) {
        (Some(path), None, _) => {
            let tokens = Arc::new(TokenFile::open(path)?);
            let members = Members::open(tokens.clone(), &args.data_dir)?;
            Ok((Arc::new(members), Some(tokens)))
        }
        (None, Some(account), Source::Kubernetes(access)) => {
            let (namespace, name) = account
                .split_once('/')
                .filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty())
                .with_context(|| format!("--agent-account {account} must be NAMESPACE/NAME"))?;
            let reviews = TokenReviews::new(access, CA_AUDIENCE, namespace, name).await?;
            Ok((Arc::new(Reviews::new(reviews, discovery.snapshot.clone())), None))
        }
        (None, Some(_), Source::File(_)) => {
            bail!("--agent-account needs the API of a cluster: give --discovery kubernetes, or --join-tokens")
        }
        _ => bail!("by what do nodes show who they are? Give either --join-tokens or --agent-account"),
    }
}

async fn follow_tokens(tokens: Option<Arc<TokenFile>>) {
    match tokens {
        Some(tokens) => tokens.follow().await,
        None => std::future::pending().await,
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
