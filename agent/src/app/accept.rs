//! From the tunnels' listener to the worker that carries what was accepted.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lark_core::spread::{Pair, Spread};
use lark_tunnel::{Acceptor, Proved, ServeError};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::heartbeat::Pulse;
use super::worker::Message;
use crate::observe::Observer;

/// Most tunnels on their way to a worker. More stay where they were accepted: the worker has much to do, or is stuck.
const CROSSING_MAX: usize = 64;

/// The accepted tunnels of all workers. Locked when one opens or closes, and to be told of.
#[derive(Debug, Clone)]
pub(super) struct Seats(Arc<Mutex<Spread>>);

impl Seats {
    pub(super) fn new(workers: usize) -> Self {
        Self(Arc::new(Mutex::new(Spread::new(workers))))
    }

    fn spread(&self) -> MutexGuard<'_, Spread> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, pair: Pair, here: usize, takes: impl Fn(usize) -> bool) -> Seat {
        let worker = self.spread().take(&pair, here, takes);
        Seat { seats: self.clone(), pair, worker }
    }

    /// How many tunnels each worker carries.
    pub(super) fn taken(&self) -> Vec<usize> {
        self.spread().tunnels().to_vec()
    }
}

/// A tunnel's place, until it is dropped.
pub(super) struct Seat {
    seats: Seats,
    pair: Pair,
    worker: usize,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.spread().give(&self.pair, self.worker);
    }
}

/// A worker, as the others see it.
#[derive(Clone)]
pub(super) struct Other {
    /// It ends when nobody else has anything for it.
    messages: mpsc::WeakUnboundedSender<Message>,
    pulse: Pulse,
    crossing: Arc<AtomicUsize>,
}

impl Other {
    pub(super) fn new(messages: &mpsc::UnboundedSender<Message>, pulse: Pulse) -> Self {
        Self { messages: messages.downgrade(), pulse, crossing: Arc::default() }
    }

    fn takes_tunnels(&self) -> bool {
        let ends = || self.messages.upgrade().is_none_or(|messages| messages.is_closed());
        !self.pulse.is_stuck() && self.crossing.load(Ordering::Relaxed) < CROSSING_MAX && !ends()
    }

    /// Sends it a tunnel. Gives that back if the worker has just ended.
    fn send(&self, mut tunnel: Arrived) -> Option<Arrived> {
        let Some(messages) = self.messages.upgrade() else { return Some(tunnel) };
        tunnel.crossing = Some(Crossing::new(&self.crossing));
        match messages.send(Message::Carry(tunnel)) {
            Err(mpsc::error::SendError(Message::Carry(tunnel))) => Some(tunnel),
            _ => None,
        }
    }
}

/// Counts a tunnel that is on its way, until it is dropped.
struct Crossing(Arc<AtomicUsize>);

impl Crossing {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Crossing {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A tunnel whose handshake is done, with its place.
pub(super) struct Arrived {
    proved: Box<Proved>,
    seat: Seat,
    crossing: Option<Crossing>,
}

/// The accepting end of one worker.
pub(super) struct Accepting {
    pub(super) worker: usize,
    pub(super) acceptor: Acceptor,
    pub(super) inbound: Rc<dyn lark_tunnel::Deliver>,
    pub(super) observer: Observer,
    pub(super) seats: Seats,
    /// All workers by their numbers.
    pub(super) workers: Arc<[Other]>,
}

impl Accepting {
    /// Makes the handshake here, and a tunnel where the fewest of its pair are.
    pub(super) async fn serve(&self, socket: TcpStream, peer: SocketAddr) {
        let proved = match self.acceptor.accept(socket, peer).await {
            Ok(proved) => Box::new(proved),
            Err(error) => return self.tell(&error),
        };
        let takes = |worker| self.workers.get(worker).is_some_and(Other::takes_tunnels);
        let seat = self.seats.take(proved.pair(), self.worker, takes);
        let other = if seat.worker == self.worker { None } else { self.workers.get(seat.worker) };
        let arrived = Arrived { proved, seat, crossing: None };
        let here = match other {
            Some(other) => other.send(arrived).map(|arrived| self.keep(arrived)),
            None => Some(arrived),
        };
        if let Some(arrived) = here {
            self.carry(arrived).await;
        }
    }

    /// Has the place of a tunnel here, not with the worker that has ended.
    fn keep(&self, arrived: Arrived) -> Arrived {
        let seat = self.seats.take(arrived.proved.pair(), self.worker, |_| false);
        Arrived { seat, crossing: None, ..arrived }
    }

    /// Carries a tunnel here until its end.
    pub(super) async fn carry(&self, arrived: Arrived) {
        let Arrived { proved, seat: _seat, crossing } = arrived;
        drop(crossing);
        if let Err(error) = self.acceptor.carry(*proved, self.inbound.clone()).await {
            self.tell(&error);
        }
    }

    fn tell(&self, error: &ServeError) {
        if let Some(left_out) = self.observer.line() {
            tracing::warn!(reason = %error.reason(), cause = error.cause().label(), %error, left_out, "no tunnel");
        }
    }
}

/// Accepts for ever; an error (descriptors exhausted, most of all) is waited out.
pub(super) async fn accept<S>(
    next: impl AsyncFn() -> std::io::Result<(S, SocketAddr)>,
    of: &str,
    mut serve: impl FnMut(S, SocketAddr),
) {
    loop {
        match next().await {
            Ok((socket, peer)) => serve(socket, peer),
            Err(error) => {
                tracing::warn!(of, %error, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_takes_tunnels_while_it_lives_and_few_are_on_their_way() {
        let (messages, receiver) = mpsc::unbounded_channel();
        let other = Other::new(&messages, Pulse::default());
        assert!(other.takes_tunnels());
        let mut crossing: Vec<_> = (0..CROSSING_MAX).map(|_| Crossing::new(&other.crossing)).collect();
        assert!(!other.takes_tunnels(), "so many are on their way");
        crossing.pop();
        assert!(other.takes_tunnels());
        drop(receiver);
        assert!(!other.takes_tunnels(), "it has ended");
        let (messages, _receiver) = mpsc::unbounded_channel();
        let other = Other::new(&messages, Pulse::default());
        drop(messages);
        assert!(!other.takes_tunnels(), "it is about to end");
    }

    #[test]
    fn a_place_is_free_when_its_tunnel_is_over() -> Result<(), Box<dyn std::error::Error>> {
        let pair = Pair {
            node: [192, 168, 0, 1].into(),
            client: "spiffe://cluster.local/ns/shop/sa/web".parse()?,
            server: "spiffe://cluster.local/ns/shop/sa/db".parse()?,
        };
        let seats = Seats::new(2);
        let first = seats.take(pair.clone(), 1, |_| true);
        let second = seats.take(pair.clone(), 1, |_| true);
        assert_eq!((first.worker, second.worker, seats.taken()), (1, 0, vec![1, 1]));
        drop(first);
        let again = seats.take(pair, 0, |_| true);
        assert_eq!((again.worker, seats.taken()), (1, vec![1, 1]));
        drop((again, second));
        assert_eq!(seats.taken(), [0, 0]);
        Ok(())
    }
}
