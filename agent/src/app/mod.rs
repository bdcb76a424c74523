//! Wiring: makes everything, hands each part what it needs, and starts it. No decisions.
//!
//! Threads: one control runtime (discovery, certificates, capture, admin, metrics), the workers, and the
//! heartbeat. Configuration goes to workers by message; they share nothing on the way of a byte.

mod accept;
mod asked;
mod carries;
mod drain;
mod discover;
mod fields;
mod gauges;
mod handover;
mod heartbeat;
mod leave;
mod listeners;
mod logs;
mod metrics;
mod policy;
mod preflight;
mod process;
mod reconcile;
mod refusals;
mod source;
mod vital;
mod worker;

pub use discover::Source;
pub use gauges::catalogue;
pub use logs::init_logs;
pub use policy::policy_test;
pub use process::{block_on, complain, keep_private, service_ready, service_stopping, stop_signal};

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use lark_bpf::{Kernel, KernelConfig};
use lark_core::constants::{AHEAD_MAX, HELD_MAX, METRICS_PORT};
use lark_identity::SvidStore;
use lark_identity::client::CaClient;
use lark_identity::credential::Credentials;
use lark_identity::follow::Follower;
use lark_identity::roots::RootFiles;
use lark_tunnel::{Holding, TunnelSettings};
use tokio::net::UnixListener;
use tokio::sync::{Notify, watch};

use crate::admin;
use crate::capture::{Capturer, Inputs, Locator, NodePods, Pods};
use crate::cli::{AgentArgs, Recognise};
use crate::observe::Observer;
use crate::proxy::{Direct, Identities, Plain};
use asked::Asked;
use carries::Carries;
use drain::Drains;
use handover::{Hello, Predecessor};
use heartbeat::{Pulse, Watched};
use leave::Leave;
use listeners::{Listeners, SocketFile};
use logs::Logs;
use reconcile::Reconcile;
use source::AgentSource;
use vital::Vital;
use worker::{Shared, Workers};

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// With one sentence that says what to do; nothing is attached then.
pub fn run(args: AgentArgs) -> anyhow::Result<()> {
    let logs = init_logs(args.log_format, &args.log);
    block_on(agent(args, logs))
}

/// How long what an agent carries may go on at most after a part of it has failed.
const DRAIN_FAILED: Duration = Duration::from_secs(5);

/// Half of what the agent may have is for other things than bytes that wait.
fn held_max(memory: Option<u64>) -> usize {
    memory.map_or(HELD_MAX, |limit| usize::try_from(limit / 2).unwrap_or(usize::MAX).min(HELD_MAX))
}

async fn agent(args: AgentArgs, logs: Logs) -> anyhow::Result<()> {
    let from = Source::parse(&args.discovery)?;
    let in_cluster = from.is_cluster();
    let discovery = from.discover(&args.mesh).await?;
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
    let leave = match &args.leave_without {
        Some(service) => Some(Leave::without(service, discovery.snapshot.clone())?),
        None => None,
    };
    let kept = ["roots.json", "credential"].map(|name| args.state_dir.join(name));
    let roots = RootFiles::learning(args.ca_root.clone(), kept[0].clone());
    let bundle = roots.read()?;
    preflight::check()?;
    lark_sys::socket::raise_descriptor_limit();

    let carries = Carries::find(args.ktls);

    // Everything that can be refused comes before anything that attaches.
    let hello = Hello::new(&args.node, &args.pin_root);
    let handover_at = listeners::handover_path(&args.admin_socket);
    let (mut predecessor, listeners) = if args.take_over && admin::answers(&handover_at).await {
        let (predecessor, inherited) = Predecessor::ask(&handover_at, &hello)?;
        lark_sys::socket::bound_queues(&inherited.tunnels, args.tunnel_window)?;
        (Some(predecessor), inherited)
    } else {
        (None, Listeners::bind(&args.admin_socket, tunnel, args.tunnel_window, metrics_at).await?)
    };
    let (handover_file, admin_file) = (SocketFile::of(&handover_at), SocketFile::of(&args.admin_socket));
    let mut kernel = Kernel::open(&KernelConfig {
        pin_root: args.pin_root.clone(),
        destinations_max: args.destinations_max,
    })?;
    kernel.set_config(reconcile::config(&snapshot))?;
    let own = lark_sys::cgroup::own()?;
    kernel.attach_agent(std::os::fd::AsFd::as_fd(&own), own.id())?;
    kernel.spawn_logs();
    let refused = kernel.refusals()?;
    let (direct, plain) = (kernel.direct_events()?, kernel.plain_events()?);

    let (vital, mut ended) = Vital::new();
    let svids = SvidStore::new(bundle, Arc::new(SystemTime::now));
    svids.ask_for(Duration::from_secs(args.svid_life));
    let credentials = Credentials::kept_in(args.token_file.clone(), kept[1].clone());
    let issuer = CaClient { url: args.ca_url.clone(), roots: roots.clone(), credentials };
    tokio::spawn(vital.task("the roots' follower", roots.follow(svids.clone())));
    let asked = Arc::<Asked>::default();
    let follower = Follower::new(issuer.clone(), env!("CARGO_PKG_VERSION"), asked.clone());
    let following = tokio::spawn(vital.task("the controller's follower", follower.run(svids.clone())));
    tokio::spawn(vital.task("the renewal of certificates", svids.clone().renew(Arc::new(issuer))));

    let observer = Observer::recognising(args.recognise == Recognise::On)?;
    tokio::spawn(observer.clone().remember(unix_seconds));
    let pods = Arc::<Pods>::default();
    let identities = Identities::default();
    let count = args.workers.unwrap_or_else(process::cores).clamp(1, lark_abi::entry::WORKERS_MAX);
    let workers = Workers::start(
        count,
        &kernel,
        &Shared {
            node: node.name.clone(),
            domain: snapshot.mesh.trust_domain.clone(),
            snapshot: discovery.snapshot.clone(),
            pods: pods.clone(),
            svids: svids.clone(),
            observer: observer.clone(),
            identities: identities.clone(),
            clients: Arc::default(),
            settings: TunnelSettings {
                congestion: args.congestion.clone(),
                ciphers: carries::ciphers(args.ciphers.as_deref()),
                ktls: carries.offer,
                window: args.tunnel_window,
                keepalive: Duration::from_secs(args.keepalive),
                // The limit is a node's; each worker has a share.
                ahead: AHEAD_MAX.div_ceil(count),
                held: Holding::of_all(held_max(own.memory_limit())),
                ..TunnelSettings::default()
            },
            spin: Duration::from_micros(args.spin),
            vital: vital.clone(),
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
            kubelet: args.kubelet_cgroup.clone(),
            certificate: Box::new(move |id| match certificates.valid(id) {
                Some(_) => Ok(()),
                None => Err(no_certificate(&certificates, id)),
            }),
            to_worker: Box::new(workers.sender()),
            locator: if in_cluster { Locator::Pods(Box::new(NodePods::open()?)) } else { Locator::Told },
            late: {
                let observer = observer.clone();
                Box::new(move |delay| observer.captured(delay))
            },
            unwatched: {
                let observer = observer.clone();
                Box::new(move |cause| observer.unwatched(cause))
            },
        },
        kernel.clone(),
        pods.clone(),
    );
    tokio::spawn(refusals::run(
        refused,
        node.name.clone(),
        discovery.snapshot.clone(),
        observer.clone(),
        capturer.wires(),
    ));
    let (ready, mut is_ready) = watch::channel(false);
    let (paused, is_paused) = watch::channel(false);
    let follower = Direct {
        snapshot: discovery.snapshot.clone(),
        pods: pods.clone(),
        kernel: kernel.clone(),
        observer: observer.clone(),
        doubted: capturer.doubted(),
        paused: is_paused.clone(),
    };
    tokio::task::spawn_local(follower.run(direct));
    let follower = Plain {
        snapshot: discovery.snapshot.clone(),
        pods: pods.clone(),
        observer: observer.clone(),
        paused: is_paused.clone(),
    };
    tokio::task::spawn_local(follower.run(plain));
    let drains = Drains::new(observer.clone());
    tokio::spawn(observer.clone().remember_requests());
    let pulse = Pulse::default();
    tokio::spawn(heartbeat::turn(pulse.clone()));
    let mut watched = workers.watched();
    watched.push(Watched { name: "control".to_owned(), pulse, carries: false });
    let source = Arc::new(AgentSource::new(
        &args,
        node.name.clone(),
        workers.seats(),
        watched.clone(),
        carries.told,
        discovery.clone(),
        svids.clone(),
        observer.clone(),
        kernel.clone(),
        counters,
        age,
        pods.clone(),
        capturer.reports(),
        capturer.strict(),
        is_ready.clone(),
        drains.clone(),
        logs,
    ));
    asked.answer_from(source.clone());
    if predecessor.is_none() {
        capturer.adopt(&snapshot);
    }
    let heart = heartbeat::start(heartbeat, watched)?;
    let alone = Arc::new(Notify::new());
    let capture = reconcile::run(Reconcile {
        capturer,
        discovery,
        svids,
        identities,
        kernel: kernel.clone(),
        ready,
        paused: is_paused,
        alone: alone.clone(),
        own_cgroup: own.id(),
    });
    let capture = tokio::spawn(vital.task("the reconciler", capture));
    if let Some(mut old) = predecessor.take() {
        // Until every pod is captured here, whatever reaches the node's listeners is the old agent's.
        let trouble = tokio::select! {
            biased;
            Some(part) = ended.recv() => Some(format!("{part} ended, and the log says why")),
            ready = tokio::time::timeout_at(old.deadline(), is_ready.wait_for(|ready| *ready)) => {
                let limit = handover::LIMIT;
                let late = || format!("not every pod could be captured within {limit:?}: {}", source.not_captured());
                if matches!(ready, Ok(Ok(_))) { None } else { Some(late()) }
            }
        };
        if let Some(trouble) = trouble {
            capture.abort();
            let kept = old.give_up().await.is_ok();
            let silent = if kept { "" } else { " (the old agent does not answer any more)" };
            bail!("nothing was taken over{silent}: {trouble}");
        }
        if let Err(goes_on) = old.ready().await {
            capture.abort();
            return Err(goes_on.into());
        }
        let before = drains.clone();
        tokio::spawn(async move {
            old.gone(|told| before.hear(told)).await;
            alone.notify_one();
        });
    } else {
        alone.notify_one();
    }
    workers.accept(&listeners.tunnels)?;
    let admin =
        tokio::spawn(admin::serve(UnixListener::from_std(listeners.admin.try_clone()?)?, source.clone()));
    let metrics = metrics::start(listeners.metrics.try_clone()?, source, vital.guard("the metrics' thread"))?;
    tracing::info!(node = %node.name, %tunnel, metrics = %metrics_at, workers = count, "agent runs");
    service_ready();
    tokio::spawn(process::let_go(is_ready));

    let asked = UnixListener::from_std(listeners.handover.try_clone()?)?;
    let mut failed = None;
    let successor = tokio::select! {
        () = stop_signal() => {
            service_stopping();
            tracing::info!("agent stops; captured pods follow the mesh's agentDown setting until another runs");
            // New connects must not wait for the heartbeat to grow stale.
            heart.stop();
            None
        }
        successor = handover::succeeded(asked, &listeners, &hello, &paused) => {
            heart.leave();
            Some(successor)
        }
        Some(part) = ended.recv() => {
            tracing::error!(part, "ended, which no agent is whole without; the agent ends");
            heart.stop();
            failed = Some(part);
            None
        }
    };
    // The kernel is whatever agent comes next's, and what this one holds does not count any more.
    paused.send_replace(true);
    following.abort();
    metrics.end();
    drop(listeners);
    let is_succeeded = successor.is_some();
    if let Some(successor) = successor {
        admin.abort();
        tokio::spawn(handover::tell(successor, drains.clone()));
    } else {
        // Another agent may start from here on; until one does, this one is asked what it carries.
        handover_file.remove();
    }
    workers.drain();
    let drain = Duration::from_secs(args.drain);
    // Until another runs, pods do as without an agent: one that failed is not to be waited for as long.
    let drain = if failed.is_some() { drain.min(DRAIN_FAILED) } else { drain };
    drain::wait(&observer, &drains, drain).await;
    if !is_succeeded {
        admin_file.remove();
        if let Some(leave) = leave.filter(|_| failed.is_none()) {
            leave.leave(&args.pin_root, &kept, &handover_at).await;
        }
    }
    if let Some(part) = failed {
        bail!(
            "{part} ended, which no agent is whole without; the log says why; start the agent anew, \
               captured pods follow the mesh's agentDown setting until then"
        );
    }
    Ok(())
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn no_certificate(svids: &SvidStore, id: &lark_core::identity::SpiffeId) -> String {
    let error = svids.status().into_iter().find(|s| s.id == *id).and_then(|s| s.last_error);
    match error {
        Some(error) => format!("no certificate yet: {error}"),
        None => "no certificate yet: the CA was asked".to_owned(),
    }
}
