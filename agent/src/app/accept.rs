//! From the tunnels' listener to the worker that carries what was accepted.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lark_core::spread::{Pair, Spread};
use lark_tunnel::{Acceptor, Proved, ServeError};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::worker::Message;
use crate::observe::Observer;

/// The accepted tunnels of all workers. Locked when one opens or closes.
#[derive(Debug, Clone)]
pub(super) struct Seats(Arc<Mutex<Spread>>);

impl Seats {
    pub(super) fn new(workers: usize) -> Self {
        Self(Arc::new(Mutex::new(Spread::new(workers))))
    }

    fn spread(&self) -> MutexGuard<'_, Spread> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, pair: Pair, here: usize) -> Seat {
        let worker = self.spread().take(&pair, here);
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

/// The accepting end of one worker.
pub(super) struct Accepting {
    pub(super) worker: usize,
    pub(super) acceptor: Acceptor,
    pub(super) inbound: Rc<dyn lark_tunnel::Deliver>,
    pub(super) observer: Observer,
    pub(super) seats: Seats,
    /// All workers by their numbers. They end when nobody else has anything for them.
    pub(super) workers: Vec<mpsc::WeakUnboundedSender<Message>>,
}

impl Accepting {
    /// Makes the handshake here, and a tunnel where the fewest of its pair are.
    pub(super) async fn serve(&self, socket: TcpStream, peer: SocketAddr) {
        let proved = match self.acceptor.accept(socket, peer).await {
            Ok(proved) => proved,
            Err(error) => return self.tell(&error),
        };
        let seat = self.seats.take(proved.pair(), self.worker);
        let other = if seat.worker == self.worker { None } else { self.workers.get(seat.worker) };
        match other.and_then(mpsc::WeakUnboundedSender::upgrade) {
            // A worker that is gone takes its tunnels with it, and this one, which is then dialled again.
            Some(sender) => drop(sender.send(Message::Carry(Box::new(proved), seat))),
            None => self.carry(proved, seat).await,
        }
    }

    /// Carries a tunnel here until its end.
    pub(super) async fn carry(&self, proved: Proved, _seat: Seat) {
        if let Err(error) = self.acceptor.carry(proved, self.inbound.clone()).await {
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
