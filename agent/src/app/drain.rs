//! The end of an agent: what it carries may finish.

use std::time::Duration;

use tokio::time::Instant;

use super::process::stop_signal;
use crate::observe::Observer;

/// Connects that were pointed at this agent a moment ago are still on their way through the kernel.
const STRAGGLERS: Duration = Duration::from_millis(300);
/// Connections named in the log when the time is over.
const NAMED: usize = 10;

/// Waits until no connection is open, until `limit` is over, or until a signal asks to end at once.
pub(super) async fn wait(observer: &Observer, limit: Duration) {
    let end = Instant::now() + limit;
    tokio::time::sleep(STRAGGLERS.min(limit)).await;
    let open = observer.open_connections();
    if open > 0 {
        tracing::info!(open, seconds = limit.as_secs(), "open connections may finish");
    }
    tokio::select! {
        () = finished(observer) => {}
        () = tokio::time::sleep_until(end) => {}
        () = stop_signal() => tracing::info!("asked again: ends at once"),
    }
    let left = observer.connections();
    if left.is_empty() {
        tracing::info!("all connections have finished; the agent ends");
        return;
    }
    tracing::warn!(open = left.len(), "the agent ends and resets what is still open");
    for connection in left.iter().take(NAMED) {
        tracing::warn!(
            source = format!("{}/{}", connection.source.namespace, connection.source.name),
            destination = format!("{}/{}", connection.destination.namespace, connection.destination.name),
            address = connection.destination_address,
            age_seconds = connection.age_seconds,
            "still open"
        );
    }
}

async fn finished(observer: &Observer) {
    while observer.open_connections() > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
