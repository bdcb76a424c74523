//! The heartbeat: a thread of its own tells the kernel that the agent is alive, but only while every
//! worker turns its loop. A stuck worker therefore counts as a dead agent. The control runtime is watched
//! too: while it is stuck traffic flows as it did, but nothing new is captured, so it is said.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lark_bpf::Heartbeat;
use lark_core::constants::{HEARTBEAT_EVERY, HEARTBEAT_STALE};

/// Of one runtime's loop.
#[derive(Debug, Clone, Default)]
pub(super) struct Pulse(Arc<Beats>);

#[derive(Debug, Default)]
struct Beats {
    /// Counts up with each turn.
    turns: AtomicU64,
    /// It has not moved for as long as counts.
    stuck: AtomicBool,
}

impl Pulse {
    /// Whether the runtime does not turn, as far as the heart has seen.
    pub(super) fn is_stuck(&self) -> bool {
        self.0.stuck.load(Ordering::Relaxed)
    }
}

/// A runtime that is watched.
#[derive(Clone)]
pub(super) struct Watched {
    pub(super) name: String,
    pub(super) pulse: Pulse,
    /// Whether the kernel is told nothing while it is stuck.
    pub(super) carries: bool,
}

/// Beats a pulse for as long as the current runtime turns.
pub(super) async fn turn(pulse: Pulse) {
    loop {
        pulse.0.turns.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(HEARTBEAT_EVERY / 2).await;
    }
}

/// The running thread.
pub(super) struct Heart {
    map: Arc<Mutex<Heartbeat>>,
    stopped: Arc<AtomicBool>,
}

/// Beats once and starts the thread. To be called when no pod leads to the listeners of an agent before
/// any more, and before the first pod is captured: a pod whose agent never beat would connect as if its
/// agent were dead.
///
/// # Errors
/// When the kernel's map cannot be written, or there is no thread.
pub(super) fn start(mut map: Heartbeat, watched: Vec<Watched>) -> anyhow::Result<Heart> {
    map.beat()?;
    let stopped = Arc::<AtomicBool>::default();
    let map = Arc::new(Mutex::new(map));
    let heart = Heart { map: map.clone(), stopped: stopped.clone() };
    std::thread::Builder::new()
        .name("lark-heart".to_owned())
        .spawn(move || beat(&map, &watched, &stopped))?;
    Ok(heart)
}

fn beat(map: &Mutex<Heartbeat>, watched: &[Watched], stopped: &AtomicBool) {
    let limit = HEARTBEAT_STALE.as_millis() / HEARTBEAT_EVERY.as_millis().max(1);
    // What each pulse was, and for how many beats it has not moved.
    let mut seen: Vec<(u64, u128)> = vec![(0, 0); watched.len()];
    loop {
        std::thread::sleep(HEARTBEAT_EVERY);
        let mut stuck = false;
        for (watched, (last, still)) in watched.iter().zip(&mut seen) {
            let now = watched.pulse.0.turns.load(Ordering::Relaxed);
            if now == *last {
                *still += 1;
            } else {
                if *still >= limit {
                    tracing::warn!(runtime = watched.name, "turns again");
                }
                (*last, *still) = (now, 0);
            }
            if *still == limit {
                let then = if watched.carries {
                    "the kernel is told nothing, so pods follow agentDown"
                } else {
                    "what is captured goes on, nothing new is captured"
                };
                tracing::error!(runtime = watched.name, then, "does not turn");
            }
            watched.pulse.0.stuck.store(*still >= limit, Ordering::Relaxed);
            stuck |= watched.carries && *still >= limit;
        }
        let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
        // Asked with the lock held: after a stop nothing may be written.
        if stopped.load(Ordering::Acquire) {
            return;
        }
        if !stuck && let Err(error) = map.beat() {
            tracing::error!(%error, "the heartbeat cannot be written");
        }
    }
}

impl Heart {
    /// Stops without a word to the kernel: another agent beats from now on.
    pub(super) fn leave(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// Stops, and tells the kernel so.
    pub(super) fn stop(&self) {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        self.stopped.store(true, Ordering::Release);
        if let Err(error) = map.stop() {
            tracing::error!(%error, "the heartbeat cannot be stopped");
        }
        drop(map);
        // Connects that were redirected a moment ago are still being accepted.
        std::thread::sleep(Duration::from_millis(50));
    }
}
