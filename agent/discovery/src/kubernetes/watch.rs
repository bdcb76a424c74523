//! Watching the API. A watch a kind; what they tell goes into one [`World`], and after a moment into the
//! next snapshot. The first one is made when all kinds have been listed.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};
use lark_core::mode::Mtls;
use lark_core::policy::Policies;
use lark_core::snapshot::{MeshSettings, Snapshot};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::client::{Access, ConnectError, connect};
use super::failure::{self, Streak};
use super::object::{Fact, Reduced};
use super::store::Event;
use super::world::{Step, Told, World, news};
use crate::{Discovery, Health};

/// Wait after a change: a rollout tells many things at once.
const SETTLE: Duration = Duration::from_millis(20);
/// After a snapshot that took some time to make comes a rest of this many times as long, so that a storm of
/// changes costs a share of one core.
const REST: u32 = 4;
/// What the watches may be ahead of the snapshots, in events.
const QUEUE: usize = 1024;
/// Events taken in at once.
const BATCH: usize = 256;
/// Objects in one page of a list, as client-go asks for.
const PAGE: u32 = 500;
/// Wait before everything is listed anew because a watch could not be resumed.
const ANEW: Duration = Duration::from_secs(1);

/// What the API does not say.
#[derive(Debug, Clone)]
pub struct Mesh {
    /// Settings of the whole mesh.
    pub settings: MeshSettings,
    /// Whether workloads take plaintext whose labels, and whose namespace's, say nothing of it.
    pub mtls: Mtls,
    /// Port of every agent's tunnel listener.
    pub tunnel_port: u16,
}

/// Lists everything, then watches it from tasks of the current runtime. Returns with the first complete
/// state: what is missing until then may just not have been told. An API server that does not answer is
/// waited for, and said in the log.
///
/// # Errors
/// When there is no way to the API server at all.
pub async fn watch(access: &Access, mesh: Mesh) -> Result<Discovery, ConnectError> {
    let client = connect(access).await?;
    let (tell, told) = mpsc::channel(QUEUE);
    let mut watches = JoinSet::new();
    watches.spawn(follow(client.clone(), tell.clone(), Told::Namespace));
    watches.spawn(follow(client.clone(), tell.clone(), Told::Node));
    watches.spawn(follow(client.clone(), tell.clone(), Told::Pod));
    watches.spawn(follow(client.clone(), tell.clone(), Told::Service));
    watches.spawn(follow(client.clone(), tell.clone(), Told::Slice));
    watches.spawn(follow(client.clone(), tell.clone(), Told::Network));
    watches.spawn(follow(client, tell, Told::Authorization));
    let (snapshots, mut snapshot) = watch::channel(Arc::new(Snapshot::empty(mesh.settings.clone())));
    let (healths, health) = watch::channel(Health { error: None, since: SystemTime::now() });
    let state = State {
        world: World::new(mesh.settings.trust_domain.clone(), mesh.mtls, mesh.tunnel_port),
        settings: mesh.settings,
        snapshots,
        healths,
        streak: Streak::default(),
        broken: None,
        _watches: watches,
    };
    tokio::spawn(state.run(told));
    snapshot.wait_for(|s| s.generation > 0).await.map_err(|_| ConnectError::Stopped)?;
    snapshot.mark_unchanged();
    Ok(Discovery { snapshot, health })
}

/// What a watch sends.
enum Message {
    Told(Told),
    Failed(&'static str, watcher::Error),
    /// The server says that it does not have the kind; an empty listing of it.
    Absent(&'static str, watcher::Error, Box<[Told; 2]>),
}

/// Watches one kind for ever.
async fn follow<F: Fact>(client: Client, tell: mpsc::Sender<Message>, into: fn(Event<F>) -> Told) {
    let config = watcher::Config::default().page_size(PAGE);
    loop {
        let api: Api<Reduced<F>> = Api::all(client.clone());
        let mut stream = pin!(watcher(api, config.clone()).default_backoff());
        while let Some(item) = stream.next().await {
            let lost = item.as_ref().is_err_and(failure::lost_its_place);
            let message = match item {
                Ok(event) => Message::Told(into(reduced(event))),
                Err(error) if F::OPTIONAL && failure::is_absent(&error) => {
                    Message::Absent(F::PLURAL, error, Box::new([Event::Listing, Event::ListedAll].map(into)))
                }
                Err(error) => Message::Failed(F::PLURAL, error),
            };
            if tell.send(message).await.is_err() {
                return;
            }
            if lost {
                break;
            }
        }
        sleep(ANEW).await;
    }
}

fn reduced<F>(event: watcher::Event<Reduced<F>>) -> Event<F> {
    match event {
        watcher::Event::Init => Event::Listing,
        watcher::Event::InitApply(object) => Event::Listed(object.fact),
        watcher::Event::InitDone => Event::ListedAll,
        watcher::Event::Apply(object) => Event::Changed(object.fact),
        watcher::Event::Delete(object) => Event::Gone(object.fact),
    }
}

struct State {
    world: World,
    settings: MeshSettings,
    snapshots: watch::Sender<Arc<Snapshot>>,
    healths: watch::Sender<Health>,
    streak: Streak,
    /// Why the newest state makes no snapshot.
    broken: Option<String>,
    /// End with this.
    _watches: JoinSet<()>,
}

impl State {
    async fn run(mut self, mut told: mpsc::Receiver<Message>) {
        let mut batch = Vec::with_capacity(BATCH);
        // When the next snapshot is due, and not before when.
        let mut due: Option<Instant> = None;
        let mut rested = Instant::now();
        while !self.snapshots.is_closed() {
            tokio::select! {
                count = told.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    let mut changed = false;
                    for message in batch.drain(..) {
                        changed |= self.take(message);
                    }
                    if changed && due.is_none() {
                        due = Some(rested.max(Instant::now() + SETTLE));
                    }
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    due = None;
                    let begin = Instant::now();
                    self.publish();
                    rested = Instant::now() + begin.elapsed() * REST;
                }
                () = sleep(failure::FORGOTTEN) => {}
                () = self.snapshots.closed() => return,
            }
            self.tell_health();
        }
    }

    fn take(&mut self, message: Message) -> bool {
        match message {
            Message::Told(told) => {
                self.streak.heard(&told);
                let listed = told.step() == Step::ListedAll;
                self.world.take(told) || listed
            }
            // One answer must not open what policies close. Whoever removes the kind removes its objects first,
            // and the watch tells that.
            Message::Absent(_, _, none) if !self.world.knows_authorization() => {
                let [listing, listed] = *none;
                self.take(Message::Told(listing)) | self.take(Message::Told(listed))
            }
            Message::Failed(kind, error) | Message::Absent(kind, error, _) => {
                let failure = failure::of(kind, &error);
                if self.streak.failed(&failure, Instant::now()) {
                    tracing::warn!(kind, cause = %failure.cause, error = %failure, "a watch of the cluster's API failed; what is known stays in use and it is tried again");
                } else {
                    tracing::debug!(kind, cause = %failure.cause, error = %failure, "a watch of the cluster's API still fails");
                }
                false
            }
        }
    }

    fn publish(&mut self) {
        if !self.world.is_complete() {
            return;
        }
        let known = self.snapshots.borrow().clone();
        let generation = known.generation + 1;
        let base = if self.broken.is_some() || known.generation == 0 {
            // Nothing, or nothing that the changes would follow on: all of it anew.
            self.world.forget_told();
            Arc::new(Snapshot::empty(self.settings.clone()))
        } else {
            known
        };
        let policies = self.world.policies();
        let changes = news(&base, self.world.changes());
        if changes.is_empty() && policies.is_none() && base.generation > 0 {
            return;
        }
        match base.with(generation, changes) {
            Ok(snapshot) => {
                let snapshot = match policies {
                    Some(policies) => with_policies(snapshot, policies),
                    None => snapshot,
                };
                self.broken = None;
                tracing::debug!(generation, "the cluster's state changed");
                self.snapshots.send_replace(Arc::new(snapshot));
            }
            Err(error) => {
                tracing::error!(%error, "what the cluster's API tells makes no state; the last good one stays");
                self.broken = Some(error.to_string());
            }
        }
    }

    fn tell_health(&mut self) {
        let error = self.broken.clone().or_else(|| self.streak.error(Instant::now()));
        if self.healths.borrow().error != error {
            self.healths.send_replace(Health { error, since: SystemTime::now() });
        }
    }
}

fn with_policies(snapshot: Snapshot, policies: Policies) -> Snapshot {
    let snapshot = snapshot.with_policies(policies);
    for unreadable in snapshot.policies().unreadable() {
        tracing::error!(policy = %unreadable.policy, why = unreadable.why, "policy not usable; what it selects is closed");
    }
    snapshot
}
