//! When the reconciler runs: at each change of discovery, of certificates or of pods' cgroups, and now and then.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lark_abi::Config;
use lark_bpf::Kernel;
use lark_core::constants::HEARTBEAT_STALE;
use lark_core::snapshot::{AgentDown, Snapshot};
use lark_discovery::Discovery;
use lark_identity::SvidStore;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use crate::capture::Capturer;
use crate::proxy::Identities;

/// How often the reconciler looks without being told of a change: where pods are not watched, and for what the
/// kernel does not tell.
const EVERY: Duration = Duration::from_millis(500);

pub(super) struct Reconcile {
    pub(super) capturer: Capturer,
    pub(super) discovery: Discovery,
    pub(super) svids: SvidStore,
    pub(super) identities: Identities,
    pub(super) kernel: Arc<Mutex<Kernel>>,
    /// Told when everything that is wanted has been dealt with.
    pub(super) ready: watch::Sender<bool>,
    /// True while another agent takes over: nothing of the kernel's is changed.
    pub(super) paused: watch::Receiver<bool>,
    /// Told once no other agent is on this node.
    pub(super) alone: Arc<Notify>,
    pub(super) own_cgroup: u64,
}

pub(super) async fn run(mut r: Reconcile) {
    let mut certificates = r.svids.changed();
    let mut generation = 0;
    // The identities whose names are answered to, each of which is a hash.
    let mut known = BTreeSet::new();
    let mut told = None;
    loop {
        if *r.paused.borrow_and_update() {
            if r.paused.wait_for(|paused| !paused).await.is_err() {
                return;
            }
            r.capturer.retake();
        }
        let snapshot = r.discovery.snapshot.borrow_and_update().clone();
        certificates.mark_unchanged();
        let wanted = r.capturer.identities(&snapshot);
        if wanted != known {
            r.identities.set(&wanted);
            known.clone_from(&wanted);
        }
        r.svids.want(wanted);
        if snapshot.generation != generation {
            generation = snapshot.generation;
            let mut kernel = r.kernel.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = kernel.set_config(config(&snapshot)) {
                tracing::error!(%error, "the kernel's settings cannot be written");
            }
        }
        if r.capturer.reconcile(&snapshot) {
            r.ready.send_replace(true);
        }
        told = told.or_else(|| told_by(&r.capturer));
        let every = Instant::now() + if r.capturer.is_whole() { EVERY } else { Duration::ZERO };
        loop {
            let due = r.capturer.until_look().map_or(every, |until| every.min(Instant::now() + until));
            tokio::select! {
                changed = r.discovery.snapshot.changed() => if changed.is_err() { return },
                changed = certificates.changed() => if changed.is_err() { return },
                changed = r.paused.changed() => if changed.is_err() { return },
                () = r.alone.notified() => alone(&mut r),
                () = readable(told.as_ref()) => {
                    r.capturer.heed();
                    continue;
                }
                () = sleep_until(due) => {}
            }
            break;
        }
    }
}

/// A descriptor of its own for the reactor.
#[expect(deprecated, reason = "its successor is unsafe, for what is no owned descriptor")]
fn told_by(capturer: &Capturer) -> Option<AsyncFd<OwnedFd>> {
    let own = capturer.told_by()?.try_clone_to_owned();
    match own.and_then(AsyncFd::new) {
        Ok(told) => Some(told),
        Err(error) => {
            tracing::debug!(%error, "what the kernel tells of cgroups cannot be waited for");
            None
        }
    }
}

async fn readable(told: Option<&AsyncFd<OwnedFd>>) {
    let Some(told) = told else { return std::future::pending().await };
    match told.readable().await {
        // All of it is read next; what comes from now on makes it ready again.
        Ok(mut ready) => ready.clear_ready(),
        Err(_gone) => std::future::pending().await,
    }
}

/// What agents before this one left in the kernel goes.
fn alone(r: &mut Reconcile) {
    let snapshot = r.discovery.snapshot.borrow().clone();
    r.capturer.adopt(&snapshot);
    let mut kernel = r.kernel.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(error) = kernel.detach_other_agents(r.own_cgroup) {
        tracing::error!(%error, "the program of an agent before this one cannot be detached");
    }
}

/// The settings that the hooks read.
pub(super) fn config(snapshot: &Snapshot) -> Config {
    Config {
        layout: lark_abi::LAYOUT_VERSION,
        flags: match snapshot.mesh.agent_down {
            AgentDown::Untouched => 0,
            AgentDown::Refuse => Config::REFUSE_WHEN_DOWN,
        },
        heartbeat_stale_ns: u64::try_from(HEARTBEAT_STALE.as_nanos()).unwrap_or(u64::MAX),
    }
}
