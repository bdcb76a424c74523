//! The end of an agent: what it carries may finish. Meanwhile it says what that is: in the log, in
//! `lark status` and `lark connections`, and to the agent that took over from it, which shows it as its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lark_core::view::{ConnectionView, DrainingView};
use tokio::time::Instant;

use super::process::stop_signal;
use crate::observe::Observer;

/// Connects that were pointed at this agent a moment ago are still on their way through the kernel.
const STRAGGLERS: Duration = Duration::from_millis(300);
/// For how long tunnels without connections may still tell their ends the last of them. Both close once it is told,
/// so that only one who does not read is waited for.
const TAIL: Duration = Duration::from_secs(2);
/// Connections named in the log at a time.
const NAMED: usize = 10;
/// Connections named to others, the oldest ones.
const TOLD: usize = 32;

/// The agents of this node that drain, as far as this one knows. Cheap to clone.
#[derive(Clone)]
pub(super) struct Drains(Arc<Mutex<Known>>);

struct Known {
    observer: Observer,
    /// When this agent resets what is still open, once it drains.
    own: Option<Instant>,
    /// What the agent before this one said last, and when.
    before: (Vec<DrainingView>, Instant),
}

impl Drains {
    pub(super) fn new(observer: Observer) -> Self {
        Self(Arc::new(Mutex::new(Known { observer, own: None, before: (Vec::new(), Instant::now()) })))
    }

    /// Whether this agent drains.
    pub(super) fn is_own(&self) -> bool {
        self.locked().own.is_some()
    }

    /// What the agent before this one says of itself and of those before it; nothing once it has ended.
    pub(super) fn hear(&self, before: Vec<DrainingView>) {
        self.locked().before = (before, Instant::now());
    }

    /// All of them, this agent first.
    pub(super) fn views(&self) -> Vec<DrainingView> {
        self.views_at(Instant::now())
    }

    fn views_at(&self, now: Instant) -> Vec<DrainingView> {
        let known = self.locked();
        let own = known.own.map(|end| own(&known.observer, end.saturating_duration_since(now)));
        let (before, heard) = &known.before;
        let since = now.saturating_duration_since(*heard).as_secs();
        let before = before
            .iter()
            .cloned()
            .map(|view| DrainingView { ends_in_seconds: view.ends_in_seconds.saturating_sub(since), ..view });
        own.into_iter().chain(before).collect()
    }

    /// The connections that agents before this one carry, with a note that says so.
    pub(super) fn carried_before(&self) -> Vec<ConnectionView> {
        let own = std::process::id();
        let before = self.views().into_iter().filter(|view| view.process != own);
        before
            .flat_map(|view| {
                let note = format!(
                    "carried by the agent before this one, process {}, which resets it in {} s if it is still open",
                    view.process, view.ends_in_seconds
                );
                view.connections.into_iter().map(move |c| ConnectionView { note: note.clone(), ..c })
            })
            .collect()
    }

    fn begin(&self, end: Instant) {
        self.locked().own = Some(end);
    }

    fn is_over(&self) -> bool {
        let known = self.locked();
        // One before this one that still drains says so to nobody once this one has ended.
        known.observer.open_connections() == 0 && known.before.0.is_empty()
    }

    /// No tunnel is open.
    fn has_closed(&self) -> bool {
        self.locked().observer.open_tunnels() <= 0
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn own(observer: &Observer, left: Duration) -> DrainingView {
    let mut connections = observer.connections();
    let connections_open = connections.len();
    connections.sort_by_key(|c| std::cmp::Reverse(c.age_seconds));
    connections.truncate(TOLD);
    DrainingView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        process: std::process::id(),
        ends_in_seconds: left.as_secs(),
        connections_open,
        connections,
    }
}

/// Waits until no connection is open, until `limit` is over, or until a signal asks to end at once.
pub(super) async fn wait(observer: &Observer, drains: &Drains, limit: Duration) {
    let end = Instant::now() + limit;
    drains.begin(end);
    tokio::time::sleep(STRAGGLERS.min(limit)).await;
    let held = observer.connections();
    if !held.is_empty() {
        tracing::info!(open = held.len(), seconds = limit.as_secs(), "open connections may finish");
        held.iter().take(NAMED).for_each(|c| name("may finish", c));
    }
    tokio::select! {
        () = finished(drains) => {}
        () = tokio::time::sleep_until(end) => {}
        () = stop_signal() => tracing::info!("asked again: ends at once"),
    }
    let left = observer.connections();
    if left.is_empty() {
        tracing::info!("all connections have finished; the agent ends");
        return;
    }
    tracing::warn!(open = left.len(), "the agent ends and resets what is still open");
    left.iter().take(NAMED).for_each(|c| name("still open, and reset", c));
}

fn name(what: &str, connection: &ConnectionView) {
    tracing::info!(
        source = format!("{}/{}", connection.source.namespace, connection.source.name),
        destination = format!("{}/{}", connection.destination.namespace, connection.destination.name),
        address = connection.destination_address,
        age_seconds = connection.age_seconds,
        "{what}"
    );
}

async fn finished(drains: &Drains) {
    let mut over = None;
    loop {
        // A stream that is being decided is no connection yet, but its tunnel is open.
        let since = *if drains.is_over() {
            over.get_or_insert_with(Instant::now)
        } else {
            over.insert(Instant::now())
        };
        if drains.is_over() && (drains.has_closed() || since.elapsed() >= TAIL) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn before(ends_in_seconds: u64) -> DrainingView {
        DrainingView {
            version: "0.0.9".to_owned(),
            process: 1,
            ends_in_seconds,
            connections_open: 0,
            connections: Vec::new(),
        }
    }

    #[test]
    fn what_an_agent_before_said_ages_and_is_over_when_it_ends() -> Result<(), prometheus::Error> {
        let drains = Drains::new(Observer::new()?);
        assert_eq!(drains.views(), []);
        drains.hear(vec![before(20)]);
        let later = drains.locked().before.1 + Duration::from_secs(5);
        assert_eq!(drains.views_at(later), [before(15)]);
        // This one waits for it, and tells of both.
        drains.begin(later + Duration::from_secs(30));
        let told = drains.views_at(later);
        let told: Vec<_> = told.iter().map(|v| (v.process, v.ends_in_seconds)).collect();
        assert_eq!(told, [(std::process::id(), 30), (1, 15)]);
        assert!(!drains.is_over());
        drains.hear(Vec::new());
        assert!(drains.is_over());
        Ok(())
    }
}
