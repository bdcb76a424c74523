//! Which tunnel a stream takes, and when tunnels are opened and given up. Time is an argument: the
//! time since any fixed moment.
//!
//! Invariants:
//! - Streams share a tunnel only if source identity, destination identity and node agree.
//! - One handshake at a time for each such key; whoever comes meanwhile waits for its outcome.
//! - A tunnel that must take no more streams is forgotten; those on it may finish.
//! - A key without tunnels, handshake, recent use and recent failure costs nothing after the next sweep.

use std::net::SocketAddr;
use std::time::Duration;

use crate::identity::SpiffeId;
use hashbrown::HashMap;

/// What a tunnel is for: streams share one only if all three agree.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// Who calls.
    pub source: SpiffeId,
    /// Who must be proved at the other end.
    pub destination: SpiffeId,
    /// Where the other agent accepts tunnels.
    pub node: SocketAddr,
}

/// What is known of an open tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// How long until the first of both SVIDs expires; zero when one has.
    pub expires_in: Duration,
    /// Whether the roots are still those under which it was proved.
    pub root_accepted: bool,
    /// Streams on it.
    pub streams: usize,
    /// Streams that the peer takes at once.
    pub streams_max: usize,
    /// Whether either end said that it takes no more.
    pub going_away: bool,
}

/// What to do with a tunnel when a stream wants one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Put the stream on it.
    Use,
    /// It is full: another one, and keep this.
    Full,
    /// It takes no new streams for ever; those on it may finish.
    Retire,
}

/// Decides for one tunnel of that age.
pub fn choose(facts: &Facts, age: Duration, max_age: Duration) -> Choice {
    if facts.going_away || !facts.root_accepted || facts.expires_in.is_zero() || age >= max_age {
        Choice::Retire
    } else if facts.streams >= facts.streams_max {
        Choice::Full
    } else {
        Choice::Use
    }
}

/// How long nobody dials a node again after that many failures in a row: the first connection after
/// the wait tries anew, those before it get the last failure's reason at once. Below the second in
/// which an application tries again.
pub fn pause(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        n => Duration::from_millis(50).saturating_mul(1 << (n - 1).min(4)),
    }
}

/// How long before its end a tunnel gets a successor ahead of need.
const LEAD: Duration = Duration::from_secs(30);

/// How long nothing is opened ahead of need for a key after that many failures in a row. Nobody waits
/// for it, so a node that is gone is left in peace.
fn patience(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.min(6))
}

/// What a stream that wants a tunnel does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Want<T, W, R> {
    /// Goes on this one.
    Use(T),
    /// A handshake is under way: waits for its outcome, then asks again.
    Wait(W),
    /// Opens one, and tells the pool so by [`Pool::opening`] before anybody else asks.
    Open,
    /// Is refused: the last attempt failed just now, for this reason.
    Failed(R),
    /// Is refused: that many tunnels are open for this key, and all are full.
    Full(usize),
}

/// Limits of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A tunnel takes no new stream at this age.
    pub max_age: Duration,
    /// Most tunnels for one key.
    pub tunnels: usize,
    /// A key is kept warm for this long after its last stream came.
    pub warm: Duration,
    /// Most keys that are kept warm.
    pub ahead: usize,
}

#[derive(Debug)]
struct Slot<T, W, R> {
    tunnels: Vec<(Duration, T)>,
    opening: Option<W>,
    failures: u32,
    failed: Option<(Duration, R)>,
    used: Option<Duration>,
}

impl<T, W, R> Slot<T, W, R> {
    fn new() -> Self {
        Self { tunnels: Vec::new(), opening: None, failures: 0, failed: None, used: None }
    }

    fn is_warm(&self, now: Duration, warm: Duration) -> bool {
        self.used.is_some_and(|used| now.saturating_sub(used) < warm)
    }

    fn is_spent(&self, now: Duration) -> bool {
        // A failure is remembered for a while longer than it counts, so that the next pause is longer.
        let forgotten = |at: &Duration| now.saturating_sub(*at) > FAILURE_REMEMBERED;
        self.tunnels.is_empty()
            && self.opening.is_none()
            && self.failed.as_ref().is_none_or(|(at, _)| forgotten(at))
    }
}

const FAILURE_REMEMBERED: Duration = Duration::from_secs(10);
/// Keys below which nothing is swept.
const SWEEP_AT_LEAST: usize = 64;

/// The tunnels `T` of one worker, handshakes under way as `W` (what others wait on), failures as `R`.
#[derive(Debug)]
pub struct Pool<T, W, R> {
    limits: Limits,
    slots: HashMap<PoolKey, Slot<T, W, R>>,
    sweep_at: usize,
}

impl<T: Clone, W: Clone, R: Clone> Pool<T, W, R> {
    /// A pool without tunnels.
    pub fn new(limits: Limits) -> Self {
        Self { limits, slots: HashMap::new(), sweep_at: SWEEP_AT_LEAST }
    }

    /// What a stream for `key` does now. Forgets tunnels that take no more.
    pub fn want(&mut self, key: &PoolKey, now: Duration, facts: impl Fn(&T) -> Facts) -> Want<T, W, R> {
        let Some(slot) = self.slots.get_mut(key) else { return Want::Open };
        slot.used = Some(now);
        let mut usable = None;
        slot.tunnels.retain(|(opened, tunnel)| {
            match choose(&facts(tunnel), now.saturating_sub(*opened), self.limits.max_age) {
                Choice::Retire => return false,
                Choice::Use if usable.is_none() => usable = Some(tunnel.clone()),
                Choice::Use | Choice::Full => {}
            }
            true
        });
        if let Some(tunnel) = usable {
            slot.failures = 0;
            return Want::Use(tunnel);
        }
        if let Some(opening) = &slot.opening {
            return Want::Wait(opening.clone());
        }
        if slot.tunnels.len() >= self.limits.tunnels {
            return Want::Full(slot.tunnels.len());
        }
        match &slot.failed {
            Some((at, why)) if now.saturating_sub(*at) < pause(slot.failures) => Want::Failed(why.clone()),
            _ => Want::Open,
        }
    }

    /// A handshake for `key` begins; `wait` is what others wait on.
    pub fn opening(&mut self, key: PoolKey, now: Duration, wait: W) {
        if self.slots.len() >= self.sweep_at {
            let warm = self.limits.warm;
            self.slots.retain(|_, slot| !slot.is_spent(now) || slot.is_warm(now, warm));
            self.sweep_at = (self.slots.len() * 2).max(SWEEP_AT_LEAST);
        }
        let slot = self.slots.entry(key).or_insert_with(Slot::new);
        slot.opening = Some(wait);
        // Opened for a stream, if not ahead of need, which leaves an earlier use as it is.
        slot.used.get_or_insert(now);
    }

    /// Keys for which a tunnel is to be opened although no stream asks: those used lately whose tunnel is
    /// lost or ends soon, the most recently used first.
    pub fn ahead(&mut self, now: Duration, facts: impl Fn(&T) -> Facts) -> Vec<PoolKey> {
        let Limits { max_age, warm, ahead, .. } = self.limits;
        let mut keys: Vec<(&PoolKey, &Slot<T, W, R>)> =
            self.slots.iter().filter(|(_, slot)| slot.is_warm(now, warm)).collect();
        keys.sort_unstable_by_key(|(_, slot)| std::cmp::Reverse(slot.used));
        keys.truncate(ahead);
        let lasts = |(opened, tunnel): &(Duration, T)| {
            let mut facts = facts(tunnel);
            facts.expires_in = facts.expires_in.saturating_sub(LEAD);
            let age = now.saturating_sub(*opened).saturating_add(LEAD);
            choose(&facts, age, max_age) != Choice::Retire
        };
        let is_needed = |slot: &Slot<T, W, R>| {
            let rests =
                slot.failed.as_ref().is_some_and(|(at, _)| now.saturating_sub(*at) < patience(slot.failures));
            slot.opening.is_none() && !rests && !slot.tunnels.iter().any(lasts)
        };
        keys.into_iter().filter(|(_, slot)| is_needed(slot)).map(|(key, _)| key.clone()).collect()
    }

    /// The handshake under way succeeded. What failed before is forgotten with the first stream that the tunnel takes.
    pub fn opened(&mut self, key: &PoolKey, now: Duration, tunnel: T) {
        let slot = self.slots.entry(key.clone()).or_insert_with(Slot::new);
        slot.opening = None;
        slot.failed = None;
        slot.tunnels.push((now, tunnel));
    }

    /// The handshake under way failed.
    pub fn failed(&mut self, key: &PoolKey, now: Duration, why: R) {
        let slot = self.slots.entry(key.clone()).or_insert_with(Slot::new);
        slot.opening = None;
        slot.failures = slot.failures.saturating_add(1);
        slot.failed = Some((now, why));
    }

    /// A stream has waited in vain for tunnels that were over as soon as they were open. As if a handshake had failed,
    /// unless there is hope for the next stream: another handshake under way, or tunnels, full ones.
    pub fn gave_up(&mut self, key: &PoolKey, now: Duration, why: R) {
        let is_hopeless =
            self.slots.get(key).is_none_or(|slot| slot.opening.is_none() && slot.tunnels.is_empty());
        if is_hopeless {
            self.failed(key, now, why);
        }
    }

    /// No handshake began after all, for a reason that is known at once and may be gone at once: the next
    /// stream asks anew, and no pause counts.
    pub fn not_tried(&mut self, key: &PoolKey) {
        if let Some(slot) = self.slots.get_mut(key) {
            slot.opening = None;
        }
    }

    /// Tunnels for which `gone` says so have ended.
    pub fn closed(&mut self, key: &PoolKey, gone: impl Fn(&T) -> bool) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.tunnels.retain(|(_, tunnel)| !gone(tunnel));
    }

    /// Open tunnels that may take streams.
    pub fn tunnels(&self) -> usize {
        self.slots.values().map(|slot| slot.tunnels.len()).sum()
    }

    /// Keys about which something is remembered.
    pub fn keys(&self) -> usize {
        self.slots.len()
    }

    /// Forgets all tunnels, and keeps none warm: those with streams end with their last one.
    pub fn clear(&mut self) {
        for slot in self.slots.values_mut() {
            slot.tunnels.clear();
            slot.used = None;
        }
    }
}

#[cfg(test)]
mod tests;
