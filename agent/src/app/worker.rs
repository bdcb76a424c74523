//! Workers: a thread each with a runtime of its own, its own tunnels and its own listeners in every pod.

use std::collections::HashMap;
use std::net::TcpListener as StdListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use lark_bpf::{Accepted, Claims, Kernel};
use lark_core::identity::TrustDomain;
use lark_core::snapshot::Snapshot;
use lark_identity::SvidStore;
use lark_tunnel::{Acceptor, Dialer, PodSocketListener, TunnelSettings};
use tokio::net::TcpListener;
use tokio::runtime::LocalOptions;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::accept::{Accepting, Arrived, Other, Seats, accept};
use super::heartbeat::{self, Pulse, Watched};
use super::vital::Vital;
use crate::capture::{Pod, PodListener, Pods, ToWorker};
use crate::deliver::Dial;
use crate::observe::Observer;
use crate::proxy::{Clients, Identities, Inbound, Known, Outbound, Standing, Tunnels};

/// What workers are made from.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) node: Arc<str>,
    pub(super) domain: TrustDomain,
    pub(super) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(super) pods: Arc<Pods>,
    pub(super) svids: SvidStore,
    pub(super) observer: Observer,
    pub(super) identities: Identities,
    pub(super) clients: Arc<Clients>,
    pub(super) settings: TunnelSettings,
    /// How long a worker looks for more before it sleeps.
    pub(super) spin: Duration,
    pub(super) vital: Vital,
}

/// What a worker is told.
pub(super) enum Message {
    Accept(StdListener),
    /// Another worker made the handshake.
    Carry(Arrived),
    Drain,
    Listen(Arc<Pod>, StdListener),
    Unlisten(Arc<str>),
}

/// The running workers.
pub(super) struct Workers {
    senders: Vec<mpsc::UnboundedSender<Message>>,
    pulses: Vec<Pulse>,
    seats: Seats,
}

/// Hands listeners to workers.
pub(super) struct Sender(Vec<mpsc::UnboundedSender<Message>>);

impl ToWorker for Sender {
    fn listen(&self, pod: &Arc<Pod>, listener: PodListener) {
        if let Some(sender) = self.0.get(listener.worker) {
            // A worker that is gone ends the agent.
            let _ = sender.send(Message::Listen(pod.clone(), listener.socket));
        }
    }

    fn unlisten(&self, uid: &Arc<str>) {
        for sender in &self.0 {
            let _ = sender.send(Message::Unlisten(uid.clone()));
        }
    }
}

impl Workers {
    pub(super) fn start(count: usize, kernel: &Kernel, shared: &Shared) -> anyhow::Result<Self> {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::unbounded_channel()).unzip();
        let pulses: Vec<_> = (0..count).map(|_| Pulse::default()).collect();
        let others: Arc<[Other]> =
            senders.iter().zip(&pulses).map(|(s, p)| Other::new(s, p.clone())).collect();
        let workers = Self { senders, pulses, seats: Seats::new(count) };
        for (number, (messages, pulse)) in receivers.into_iter().zip(&workers.pulses).enumerate() {
            let parts = Parts {
                shared: shared.clone(),
                accepted: kernel.accepted()?,
                claims: kernel.claims()?,
                messages,
                pulse: pulse.clone(),
                number,
                seats: workers.seats.clone(),
                others: others.clone(),
            };
            let guard = shared.vital.guard(&name(number));
            std::thread::Builder::new()
                .name(format!("lark-{}", name(number)))
                .spawn(move || {
                    let _guard = guard;
                    if let Err(error) = work(parts) {
                        tracing::error!(number, error = format!("{error:#}"), "a worker ended");
                    }
                })
                .context("a worker thread cannot be started")?;
        }
        Ok(workers)
    }

    /// How many accepted tunnels each carries.
    pub(super) fn seats(&self) -> Seats {
        self.seats.clone()
    }

    pub(super) fn sender(&self) -> Sender {
        Sender(self.senders.clone())
    }

    /// Tunnels are accepted from now on.
    pub(super) fn accept(&self, tunnels: &StdListener) -> anyhow::Result<()> {
        for sender in &self.senders {
            let own = tunnels.try_clone().context("the tunnel listener cannot be shared")?;
            let _ = sender.send(Message::Accept(own));
        }
        Ok(())
    }

    /// No tunnel is accepted any more, those that are open take no more streams and end with their last
    /// one. Connects that are still on their way to a listener are carried.
    pub(super) fn drain(&self) {
        for sender in &self.senders {
            let _ = sender.send(Message::Drain);
        }
    }

    pub(super) fn watched(&self) -> Vec<Watched> {
        let named = self.pulses.iter().enumerate();
        named.map(|(n, pulse)| Watched { name: name(n), pulse: pulse.clone(), carries: true }).collect()
    }
}

/// A worker's name, in logs and metrics.
fn name(number: usize) -> String {
    format!("worker-{number}")
}

struct Parts {
    shared: Shared,
    accepted: Accepted,
    claims: Claims,
    messages: mpsc::UnboundedReceiver<Message>,
    pulse: Pulse,
    number: usize,
    seats: Seats,
    /// All workers, this one too.
    others: Arc<[Other]>,
}

fn work(parts: Parts) -> anyhow::Result<()> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(run(parts))
}

async fn run(parts: Parts) -> anyhow::Result<()> {
    let Parts { shared, accepted, claims, mut messages, pulse, number, seats, others } = parts;
    tokio::task::spawn_local(heartbeat::turn(pulse));
    let watcher: Rc<dyn lark_tunnel::Observer> = Rc::new(Tunnels(shared.observer.clone()));
    let dial = Rc::new(Dial::new(claims));
    let standing = Standing::new(shared.observer.clone());
    let (vital, worker) = (&shared.vital, name(number));
    tokio::task::spawn_local(vital.task(&worker, standing.clone().follow(shared.snapshot.clone())));
    let (tidied, ended) = (dial.clone(), dial.clone());
    tokio::task::spawn_local(vital.task(&worker, async move { tidied.tidy().await }));
    let outbound = Rc::new(Outbound {
        node: shared.node.clone(),
        snapshot: shared.snapshot.clone(),
        pods: shared.pods.clone(),
        accepted,
        dialer: Dialer::new(shared.svids.clone(), shared.settings.clone(), watcher.clone()),
        dial: dial.clone(),
        standing: standing.clone(),
        observer: shared.observer.clone(),
        load: Rc::default(),
        clients: shared.clients.clone(),
        held: shared.settings.held.clone(),
    });
    let dialer = outbound.dialer.clone();
    tokio::task::spawn_local(vital.task(&worker, async move { dialer.keep_warm().await }));
    if !shared.spin.is_zero() {
        tokio::task::spawn_local(lark_tunnel::spin(shared.spin));
    }
    let inbound: Rc<dyn lark_tunnel::Deliver> = Rc::new(Inbound::new(
        shared.node.clone(),
        shared.snapshot.clone(),
        shared.pods.clone(),
        dial,
        standing,
        shared.observer.clone(),
    ));
    let acceptor = Acceptor::new(
        shared.svids.clone(),
        shared.domain.clone(),
        Rc::new(Known::new(shared.identities.clone(), shared.snapshot.clone())),
        shared.settings.clone(),
        watcher,
    );
    let accepting = Rc::new(Accepting {
        worker: number,
        acceptor,
        inbound,
        observer: shared.observer.clone(),
        seats,
        workers: others,
    });
    let mut tunnels: Option<AbortHandle> = None;
    // The kernel's number of a pod, and its listeners' tasks.
    let mut listening: HashMap<Arc<str>, (u32, Vec<AbortHandle>)> = HashMap::new();
    while let Some(message) = messages.recv().await {
        match message {
            Message::Accept(listener) => {
                let listener = TcpListener::from_std(listener).context("tunnels cannot be accepted")?;
                let task = tokio::task::spawn_local(accept_tunnels(listener, accepting.clone()));
                tunnels = Some(task.abort_handle());
            }
            Message::Carry(tunnel) => {
                let accepting = accepting.clone();
                tokio::task::spawn_local(async move { accepting.carry(tunnel).await });
            }
            Message::Drain => {
                tunnels.iter().for_each(AbortHandle::abort);
                accepting.acceptor.drain();
                outbound.dialer.drain();
            }
            Message::Listen(pod, socket) => {
                let listener = TcpListener::from_std(socket)
                    .with_context(|| format!("connections of pod {} cannot be accepted", pod.name))?;
                let task = tokio::task::spawn_local(accept_pod(listener, pod.clone(), outbound.clone()));
                let (_, tasks) = listening.entry(pod.uid.clone()).or_insert_with(|| (pod.id, Vec::new()));
                tasks.push(task.abort_handle());
            }
            Message::Unlisten(uid) => {
                if let Some((pod, tasks)) = listening.remove(&uid) {
                    tasks.iter().for_each(AbortHandle::abort);
                    ended.forget(pod);
                }
            }
        }
    }
    Ok(())
}

async fn accept_pod(listener: TcpListener, pod: Arc<Pod>, outbound: Rc<Outbound>) {
    let listener = PodSocketListener::from(listener);
    accept(
        async || listener.accept().await,
        &pod.name,
        |socket, from| {
            tokio::task::spawn_local(outbound.clone().serve(pod.clone(), socket, from));
        },
    )
    .await;
}

async fn accept_tunnels(listener: TcpListener, accepting: Rc<Accepting>) {
    accept(
        async || listener.accept().await,
        "tunnels",
        |socket, peer| {
            let accepting = accepting.clone();
            tokio::task::spawn_local(async move { accepting.serve(socket, peer).await });
        },
    )
    .await;
}
