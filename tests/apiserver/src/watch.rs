//! A watch: what changed after a revision, then what changes, an event a line.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::registry::{Refusal, Resource};
use super::{Shared, locked};

/// Bookmarks come this often. The API server's own come about once a minute, and at the end of a watch.
const BOOKMARK: Duration = Duration::from_millis(500);

/// What was asked for.
pub(crate) struct Watch {
    pub(crate) resource: Resource,
    pub(crate) namespace: Option<String>,
    pub(crate) revision: u64,
    pub(crate) bookmarks: bool,
    pub(crate) timeout: Duration,
    pub(crate) kind: String,
    pub(crate) api_version: String,
}

/// The answer's body: lines as they come.
pub(crate) struct Lines(pub(crate) mpsc::Receiver<Bytes>);

impl Body for Lines {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

fn line(kind: &str, object: &Value) -> Bytes {
    // As the API does it, the type first.
    format!("{{\"type\":{},\"object\":{object}}}\n", json!(kind)).into()
}

impl Watch {
    /// Tells everything until the time is over or nobody listens.
    pub(crate) async fn run(mut self, shared: Arc<Shared>, tell: mpsc::Sender<Bytes>) {
        let mut stirred = shared.stirred.subscribe();
        let end = tokio::time::sleep(self.timeout);
        tokio::pin!(end);
        loop {
            stirred.mark_unchanged();
            let held = locked(&shared.faults).held.contains(&self.resource.1);
            let changes = {
                let registry = locked(&shared.registry);
                registry.since(self.revision, &self.resource, self.namespace.as_deref())
            };
            let Some(changes) = changes else {
                let message = format!("too old resource version: {}", self.revision);
                let expired = Refusal::new(410, "Expired", message).status();
                let _told = tell.send(line("ERROR", &expired)).await;
                return;
            };
            for change in changes.into_iter().filter(|_| !held) {
                self.revision = change.revision;
                if tell.send(line(change.kind, &change.object)).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                _ = stirred.changed() => {}
                () = tokio::time::sleep(BOOKMARK), if self.bookmarks && !held => {
                    let revision = locked(&shared.registry).revision;
                    if self.is_behind(&shared, revision) {
                        continue;
                    }
                    self.revision = revision;
                    if tell.send(self.bookmark()).await.is_err() {
                        return;
                    }
                }
                () = &mut end => return,
                () = tell.closed() => return,
            }
        }
    }

    /// Whether something up to that revision has not been told yet.
    fn is_behind(&self, shared: &Shared, revision: u64) -> bool {
        let registry = locked(&shared.registry);
        let since = registry.since(self.revision, &self.resource, self.namespace.as_deref());
        since.is_none_or(|changes| changes.iter().any(|c| c.revision <= revision))
    }

    fn bookmark(&self) -> Bytes {
        let object = json!({
            "kind": self.kind, "apiVersion": self.api_version,
            "metadata": { "resourceVersion": self.revision.to_string(), "creationTimestamp": null }
        });
        line("BOOKMARK", &object)
    }
}
