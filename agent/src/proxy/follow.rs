//! What followers of connections that no agent carries have in common: they hear of beginnings and ends from the
//! pods' hooks, and look now and then what the kernel has counted. While another agent follows, they rest.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lark_abi::{FollowedEvent, FollowedSocket};
use lark_bpf::FollowedEvents;
use lark_core::explain::Ending;
use lark_sys::connections::{Counted, counted};
use tokio::sync::watch;

use crate::capture::Pod;

/// How often open connections are counted, and looked for those whose beginning or end was not told ...
const LOOK: Duration = Duration::from_secs(1);
/// ... unless that took more than this share of the time.
const SHARE: u32 = 50;

/// Connections of a pod's namespace that are read to count those that are followed. It may have made more than that
/// just to keep the agent busy, with itself for example: of those that are open nothing is counted then, and of each
/// its hook tells all when it ends.
const COUNTED_MAX: usize = 65_536;

/// Somebody who follows connections of one kind.
pub(super) trait Follower {
    /// The kind, for the log.
    const KIND: &'static str;

    /// One began or ended.
    fn hear(&mut self, event: &FollowedEvent);

    /// Counts what is open, and compares it with what the kernel has.
    fn look(&mut self);

    /// Forgets what is open: another agent follows from now on.
    fn leave(&mut self);
}

/// Follows for as long as the agent runs.
pub(super) async fn follow<F: Follower>(
    mut follower: F,
    mut events: FollowedEvents,
    mut paused: watch::Receiver<bool>,
) {
    // A moment, and not a time from each event: those that come all the time must not put it off.
    let mut next = tokio::time::Instant::now() + LOOK;
    loop {
        if *paused.borrow_and_update() {
            follower.leave();
            if paused.wait_for(|paused| !paused).await.is_err() {
                return;
            }
        }
        tokio::select! {
            event = events.next() => match event {
                Ok(event) => follower.hear(&event),
                Err(error) => {
                    tracing::error!(%error, kind = F::KIND, "connections of this kind cannot be followed any more");
                    return;
                }
            },
            () = tokio::time::sleep_until(next) => {
                let began = Instant::now();
                follower.look();
                next = tokio::time::Instant::now() + LOOK.max(began.elapsed() * SHARE);
            }
            changed = paused.changed() => if changed.is_err() { return },
        }
    }
}

/// How one has ended, from what its hook has seen of both ends.
pub(super) fn ending(event: &FollowedEvent) -> Ending {
    match event.seen & (FollowedSocket::END_IN | FollowedSocket::END_OUT) {
        0 | FollowedSocket::END_IN => Ending::Reset,
        // The kernel does not wait for the other end once this one has closed its socket.
        _ => Ending::Clean,
    }
}

/// What the kernel has counted of a pod's connections, by their ends as the pod's own sockets have them; nothing if
/// it does not tell, or too much.
pub(super) fn counts(pod: &Pod) -> Option<HashMap<(SocketAddr, SocketAddr), Counted>> {
    let found = pod.netns.within(|| counted(COUNTED_MAX)).ok()?.ok()?;
    Some(found.into_iter().map(|c| ((c.local, c.remote), c)).collect())
}

/// What is open, by the pod at whose end it is followed.
pub(super) fn by_pod<T>(
    open: impl Iterator<Item = (Arc<Pod>, T)>,
) -> impl Iterator<Item = (Arc<Pod>, Vec<T>)> {
    let mut pods: HashMap<u32, (Arc<Pod>, Vec<T>)> = HashMap::new();
    for (pod, one) in open {
        pods.entry(pod.id).or_insert_with(|| (pod, Vec::new())).1.push(one);
    }
    pods.into_values()
}
