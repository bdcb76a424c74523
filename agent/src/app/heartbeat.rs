//! The heartbeat: a thread of its own tells the kernel that the agent is alive, but only while every
//! worker turns its loop. A stuck worker therefore counts as a dead agent.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lark_bpf::Heartbeat;
use lark_core::constants::{HEARTBEAT_EVERY, HEARTBEAT_STALE};

/// Counts up with each turn of a worker's loop.
pub(super) type Pulse = Arc<AtomicU64>;

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
pub(super) fn start(mut map: Heartbeat, pulses: Vec<Pulse>) -> anyhow::Result<Heart> {
    map.beat()?;
    let stopped = Arc::<AtomicBool>::default();
    let map = Arc::new(Mutex::new(map));
    let heart = Heart { map: map.clone(), stopped: stopped.clone() };
    std::thread::Builder::new().name("lark-heart".to_owned()).spawn(move || beat(&map, &pulses, &stopped))?;
    Ok(heart)
}

fn beat(map: &Mutex<Heartbeat>, pulses: &[Pulse], stopped: &AtomicBool) {
    let limit = HEARTBEAT_STALE.as_millis() / HEARTBEAT_EVERY.as_millis().max(1);
    // What each worker's pulse was, and for how many beats it has not moved.
    let mut seen: Vec<(u64, u128)> = vec![(0, 0); pulses.len()];
    loop {
        std::thread::sleep(HEARTBEAT_EVERY);
        let mut stuck = false;
        for (pulse, (last, still)) in pulses.iter().zip(&mut seen) {
            let now = pulse.load(Ordering::Relaxed);
            *still = if now == *last { *still + 1 } else { 0 };
            *last = now;
            stuck |= *still >= limit;
        }
        let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
        // Asked with the lock held: after a stop nothing may be written.
        if stopped.load(Ordering::Acquire) {
            return;
        }
        if stuck {
            tracing::error!("a worker does not turn; the kernel is told nothing, so pods follow agentDown");
        } else if let Err(error) = map.beat() {
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
