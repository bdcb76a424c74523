//! Wiring: makes everything, hands each part what it needs, and starts it. No decisions.
//!
//! Threads: one control runtime (discovery, certificates, capture, admin, metrics), the workers, and the
//! heartbeat. Configuration goes to workers by message; they share nothing on the way of a byte.

mod gauges;
mod heartbeat;
mod preflight;
mod source;
mod worker;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use lark_abi::Config;
use lark_bpf::{Kernel, KernelConfig};
use lark_core::constants::{HEARTBEAT_STALE, METRICS_PORT};
use lark_core::snapshot::{AgentDown, Snapshot};
use lark_discovery::Discovery;
use lark_identity::client::CaClient;
use lark_identity::{SvidStore, TrustBundle};
use lark_tunnel::TunnelSettings;

use crate::admin;
use crate::capture::{Capturer, Inputs, Pods};
use crate::cli::AgentArgs;
use crate::cli::agent::LogFormat;
use crate::observe::Observer;
use crate::proxy::Identities;

use source::AgentSource;
use worker::{Shared, Workers};

/// How often the reconciler looks without being told of a change: cgroups end silently.
const RECONCILE_EVERY: Duration = Duration::from_millis(500);

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// With one sentence that says what to do; nothing is attached then.
pub fn run(args: AgentArgs) -> anyhow::Result<()> {
    init_logs(args.log_format, &args.log);
    block_on(agent(args))
}

async fn agent(args: AgentArgs) -> anyhow::Result<()> {
    let discovery = lark_discovery::file::watch(discovery_path(&args.discovery)?).await?;
    let snapshot = discovery.snapshot.borrow().clone();
    let node = snapshot
        .node(&args.node)
        .with_context(|| {
            format!(
                "node {} is not among the nodes of {}; give --node as discovery has it",
                args.node, args.discovery
            )
        })?
        .clone();
    let Some(tunnel) = args.tunnel_listen.or_else(|| node.tunnel_address()) else {
        bail!("node {} has no address in discovery", args.node);
    };
    let metrics_at = args.metrics_listen.unwrap_or_else(|| SocketAddr::new(tunnel.ip(), METRICS_PORT));
    let bundle = read_roots(&args.ca_root)?;
    preflight::check()?;
    lark_sys::socket::raise_descriptor_limit();

    // Everything that can be refused comes before anything that attaches.
    let admin_listener = admin::bind(&args.admin_socket).await?;
    let metrics_listener = tokio::net::TcpListener::bind(metrics_at).await.with_context(|| {
        format!(
            "cannot listen for metrics on {metrics_at}; is the port in use? --metrics-listen gives another"
        )
    })?;
    let tunnel_listener = lark_sys::socket::listen(tunnel).with_context(|| {
        format!("cannot listen for tunnels on {tunnel}; is another agent running, or the address not this node's? --tunnel-listen gives another")
    })?;
    let mut kernel = Kernel::open(&KernelConfig {
        pin_root: args.pin_root.clone(),
        destinations_max: args.destinations_max,
    })?;
    kernel.set_config(config(&snapshot))?;
    let own = lark_sys::cgroup::own()?;
    kernel.attach_agent(std::os::fd::AsFd::as_fd(&own), own.id())?;
    kernel.spawn_logs();

    let svids = SvidStore::new(bundle, Arc::new(SystemTime::now));
    let issuer = Arc::new(CaClient {
        url: args.ca_url.clone(),
        root: args.ca_root.clone(),
        token: args.token_file.clone(),
    });
    tokio::spawn(svids.clone().renew(issuer));
    tokio::spawn(follow_roots(svids.clone(), args.ca_root.clone()));

    let observer = Observer::new()?;
    let pods = Arc::<Pods>::default();
    let identities = Identities::default();
    let count = args.workers.unwrap_or_else(cores).clamp(1, lark_abi::entry::WORKERS_MAX);
    let workers = Workers::start(
        count,
        &tunnel_listener,
        &kernel,
        &Shared {
            node: node.name.clone(),
            domain: snapshot.mesh.trust_domain.clone(),
            snapshot: discovery.snapshot.clone(),
            pods: pods.clone(),
            svids: svids.clone(),
            observer: observer.clone(),
            identities: identities.clone(),
            settings: TunnelSettings { congestion: args.congestion.clone(), ..TunnelSettings::default() },
        },
    )?;
    let heartbeat = kernel.heartbeat()?;
    let counters = kernel.counters()?;
    let age = kernel.heartbeat()?;
    let kernel = Arc::new(Mutex::new(kernel));
    let certificates = svids.clone();
    let mut capturer = Capturer::new(
        Inputs {
            node: node.name.clone(),
            workers: count,
            certificate: Box::new(move |id| match certificates.valid(id) {
                Some(_) => Ok(()),
                None => Err(no_certificate(&certificates, id)),
            }),
            to_worker: Box::new(workers.sender()),
        },
        kernel.clone(),
        pods.clone(),
    );
    let source = Arc::new(AgentSource::new(
        &args,
        node.name.clone(),
        count,
        discovery.clone(),
        svids.clone(),
        observer.clone(),
        kernel.clone(),
        counters,
        age,
        capturer.reports(),
    ));
    capturer.adopt(&snapshot);
    let ready = source.ready_flag();
    let heart = heartbeat::start(heartbeat, workers.pulses())?;
    let capture = tokio::spawn(reconcile(capturer, discovery, svids, identities, kernel, ready));
    tokio::spawn(admin::serve(admin_listener, source.clone()));
    tokio::spawn(admin::serve_metrics(metrics_listener, source));
    tracing::info!(node = %node.name, %tunnel, metrics = %metrics_at, workers = count, "agent runs");

    tokio::select! {
        () = stop_signal() => tracing::info!("agent stops; captured pods follow the mesh's agentDown setting until another runs"),
        result = capture => bail!("the reconciler ended: {result:?}"),
    }
    // New connects must not wait for the heartbeat to grow stale.
    heart.stop();
    let _ = std::fs::remove_file(&args.admin_socket);
    Ok(())
}

/// Runs the reconciler whenever something that it depends on changes, and now and then.
async fn reconcile(
    mut capturer: Capturer,
    mut discovery: Discovery,
    svids: SvidStore,
    identities: Identities,
    kernel: Arc<Mutex<Kernel>>,
    ready: Arc<std::sync::atomic::AtomicBool>,
) {
    let mut certificates = svids.changed();
    let mut generation = 0;
    loop {
        let snapshot = discovery.snapshot.borrow_and_update().clone();
        certificates.mark_unchanged();
        let wanted = capturer.identities(&snapshot);
        identities.set(&wanted);
        svids.want(wanted);
        if snapshot.generation != generation {
            generation = snapshot.generation;
            let mut kernel = kernel.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Err(error) = kernel.set_config(config(&snapshot)) {
                tracing::error!(%error, "the kernel's settings cannot be written");
            }
        }
        if capturer.reconcile(&snapshot) {
            ready.store(true, std::sync::atomic::Ordering::Release);
        }
        tokio::select! {
            changed = discovery.snapshot.changed() => if changed.is_err() { return },
            changed = certificates.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RECONCILE_EVERY) => {}
        }
    }
}

fn config(snapshot: &Snapshot) -> Config {
    Config {
        layout: lark_abi::LAYOUT_VERSION,
        flags: match snapshot.mesh.agent_down {
            AgentDown::Untouched => 0,
            AgentDown::Refuse => Config::REFUSE_WHEN_DOWN,
        },
        heartbeat_stale_ns: u64::try_from(HEARTBEAT_STALE.as_nanos()).unwrap_or(u64::MAX),
    }
}

fn no_certificate(svids: &SvidStore, id: &lark_core::identity::SpiffeId) -> String {
    let error = svids.status().into_iter().find(|s| s.id == *id).and_then(|s| s.last_error);
    match error {
        Some(error) => format!("no certificate yet: {error}"),
        None => "no certificate yet: the CA was asked".to_owned(),
    }
}

fn read_roots(path: &Path) -> anyhow::Result<TrustBundle> {
    let pem = std::fs::read(path).with_context(|| {
        format!(
            "the root certificates {} cannot be read; the controller writes them as root.pem",
            path.display()
        )
    })?;
    TrustBundle::from_pem(&pem).with_context(|| format!("root certificates {}", path.display()))
}

/// Follows the file of roots; one that is not usable changes nothing.
async fn follow_roots(svids: SvidStore, path: std::path::PathBuf) {
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        match read_roots(&path) {
            Ok(bundle) if bundle.certificates() != svids.bundle().certificates() => {
                tracing::info!(path = %path.display(), roots = bundle.certificates().len(), "root certificates changed");
                svids.set_bundle(bundle);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(
                error = format!("{error:#}"),
                "root certificates not usable; those from before stay"
            ),
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The path of `file:PATH`.
///
/// # Errors
/// When it is of another kind.
pub fn discovery_path(discovery: &str) -> anyhow::Result<&Path> {
    discovery
        .strip_prefix("file:")
        .map(Path::new)
        .with_context(|| format!("--discovery {discovery} must be of the form file:PATH"))
}

/// Resolves at SIGTERM or SIGINT.
pub async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Runs a future on a runtime of the calling thread.
///
/// # Errors
/// The future's, or when there is no runtime.
pub fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

/// Starts logging to standard error.
pub fn init_logs(format: LogFormat, filter: &str) {
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

/// The last word of a failed command: one line on standard error.
pub fn complain(error: &anyhow::Error) {
    use std::io::Write;
    let mut line = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        // Many errors say their cause themselves.
        if !line.contains(&cause) {
            line.push_str(": ");
            line.push_str(&cause);
        }
    }
    let _ = writeln!(std::io::stderr().lock(), "lark: {line}");
}
