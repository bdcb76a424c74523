//! A turn of the tunnel's loop.

use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::Stream as _;
use lark_core::framing::{ErrorCode, FRAME_HEADER, OpenError, StreamId};
use tokio::time::Instant;

use super::{Dialling, Engine, Open, Part, TunnelError};
use crate::fate::Outcome;
use crate::record::RecordError;
use crate::settings::TunnelSettings;
use crate::stream::Stream;

/// The timer's own precision.
const SOONEST: Duration = Duration::from_millis(1);

/// For how long is put off what hardly anybody waits for: an answer, which the peer needs only before it says more than
/// fits into the first record, and the end of a stream whose peer has ended before and was told nothing since.
const LATE: Duration = Duration::from_millis(2);

/// Bytes of ends that are put off at most.
const LATE_ENDS: usize = 64 * FRAME_HEADER;

/// Turns before others of the worker get theirs, and its reactor looks for what has arrived.
const TURNS: usize = 8;

/// The same in bytes, received and sent. A turn of large frames takes as long as many of small ones.
const MOVED: usize = 512 * 1024;

impl Engine {
    /// Ready when the tunnel is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TunnelError>> {
        self.ready.register(cx.waker());
        self.moved = 0;
        self.look_at_room();
        for stream in self.owing.drain(..).filter_map(|number| self.streams.get(&number)) {
            stream.waker.push();
        }
        let mut flushed = true;
        for _ in 0..TURNS {
            self.take_dials(cx);
            // Behind what may set it, and before what it may close.
            while self.timer.as_mut().poll(cx).is_ready() {
                let next = self.tick()?;
                self.timer.as_mut().reset(next);
            }
            let mut progress = match self.poll_receive(cx) {
                Err(TunnelError::Record(RecordError::Closed)) if self.streams.is_empty() => {
                    return Poll::Ready(Ok(()));
                }
                received => received?,
            };
            // Behind what may say that the tunnel is over: the peer would never see them.
            self.take_commands(cx);
            if progress {
                // A connection that is new comes before one that is over.
                self.take_dials(cx);
            }
            self.ready.take(&mut self.queue);
            let ready = self.queue.len();
            progress |= self.serve_ready()?;
            self.write_control()?;
            flushed = self.records.poll_flush(cx)?.is_ready();
            self.ready.take_ends(&mut self.queue);
            if !self.queue.is_empty() {
                progress |= self.serve_ready()?;
                self.write_control()?;
                flushed = self.records.poll_flush(cx)?.is_ready();
            }
            // Whoever found no room before the flush finds it now.
            progress |= flushed && !(self.ready.is_empty() && self.h2.output().is_empty());
            if flushed && self.is_over() {
                if self.late_ends.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                // Nothing else will take them along, and the peer has to have them before the tunnel closes.
                self.say_late();
                progress = true;
            }
            if !progress {
                if flushed {
                    self.leaving.release_all();
                } else {
                    self.count_waiting()?;
                }
                if !self.owing.is_empty() {
                    cx.waker().wake_by_ref();
                }
                return Poll::Pending;
            }
            crate::spin::moved(ready.max(1));
            if self.moved >= MOVED {
                break;
            }
        }
        if !flushed {
            self.count_waiting()?;
        }
        crate::spin::busy();
        // Again when the reactor has looked. Tokio polls a task that wakes itself up to 61 times before it looks, and
        // so long nobody sees what small messages bring.
        let _ = pin!(tokio::task::yield_now()).poll(cx);
        Poll::Pending
    }

    /// Gives pods what is left of streams that need the tunnel no more. Ready when nothing is.
    pub(super) fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.ready.register(cx.waker());
        self.ready.take(&mut self.queue);
        self.ready.take_ends(&mut self.queue);
        // Nothing is sent any more, so nothing but pods can fail, and those were told.
        let _ = self.serve_ready();
        if self.streams.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Nobody will open a stream any more, and none is left.
    fn is_over(&self) -> bool {
        self.streams.is_empty()
            && self.dials.is_empty()
            && match &self.part {
                Part::Dialling(part) => part.commands.is_none(),
                Part::Accepting(_) => self.h2.is_going_away(),
            }
    }

    /// Does what time makes due, and says when to look again.
    fn tick(&mut self) -> Result<Instant, TunnelError> {
        let now = Instant::now();
        let TunnelSettings { keepalive, idle, max_age, .. } = self.settings;
        let look = self.silence.look(now, keepalive).ok_or(TunnelError::Silent(keepalive))?;
        if look.ask {
            self.h2.ping(*b"lark-ka\0");
        }
        let mut next = look.again;
        let stuck = self.records.is_stuck().then(|| self.stuck.unwrap_or(now));
        self.stuck = stuck;
        if stuck.is_some_and(|since| now.duration_since(since) >= keepalive) {
            return Err(TunnelError::Stalled(keepalive));
        }
        if self.streams.is_empty() {
            let quiet = now.duration_since(self.idle_since);
            if quiet >= keepalive {
                self.release();
            }
            match idle.saturating_sub(quiet) {
                Duration::ZERO => self.close_commands(),
                left => next = next.min(now + left),
            }
        }
        if !self.h2.is_going_away() {
            let age = now.duration_since(self.began);
            let left = if self.proof.root_accepted() { self.proof.expires_in() } else { Duration::ZERO };
            let left = if self.records.wears_out() { Duration::ZERO } else { left };
            match left.min(max_age.saturating_sub(age)) {
                Duration::ZERO => self.retire(),
                left => next = next.min(now + left),
            }
        }
        match self.late_due {
            Some(due) if due <= now => {
                self.late_due = None;
                self.say_late();
            }
            Some(due) => next = next.min(due),
            None => {}
        }
        Ok(next.max(now + SOONEST))
    }

    /// Gives back the room of streams that are over: tables keep that of as many as there ever were at once.
    fn release(&mut self) {
        self.streams.shrink_to_fit();
        self.queue.shrink_to_fit();
        self.owing.shrink_to_fit();
        self.late_ends.shrink_to_fit();
        self.ready.release();
        self.h2.release();
    }

    /// Takes no more streams and says so; those that are open finish here, the next ones on another tunnel.
    fn retire(&mut self) {
        self.close_commands();
        self.h2.go_away(ErrorCode::NO_ERROR);
    }

    /// No new streams: whoever still sends one gets it back and takes another tunnel.
    fn close_commands(&mut self) {
        if let Part::Dialling(part) = &mut self.part {
            part.shared.going_away.set(true);
            if let Some(commands) = &mut part.commands {
                commands.close();
            }
        }
    }

    fn take_commands(&mut self, cx: &mut Context<'_>) {
        while let Part::Dialling(Dialling { commands: Some(commands), .. }) = &mut self.part {
            match commands.poll_recv(cx) {
                Poll::Ready(Some(open)) => self.open(open),
                Poll::Ready(None) => self.no_more_commands(),
                Poll::Pending => break,
            }
        }
        if let Part::Accepting(accepting) = &self.part
            && accepting.load.is_draining()
        {
            self.h2.go_away(ErrorCode::NO_ERROR);
        }
    }

    fn no_more_commands(&mut self) {
        if let Part::Dialling(part) = &mut self.part {
            part.commands = None;
        }
    }

    fn open(&mut self, open: Open) {
        let Open { carried, teller } = open;
        // The peer counts a stream until it is told of its end.
        self.h2.output().append(&mut self.late_ends);
        match self.h2.connect(&carried.wanted.request) {
            Ok(id) => {
                let number = id.value();
                let waker = self.ready.waker(number);
                waker.push();
                self.streams.insert(number, Box::new(Stream::dialled(id, waker, *carried, teller)));
            }
            Err(error) => {
                tracing::debug!(tunnel = self.name, %error, "a stream goes to another tunnel");
                if let Part::Dialling(part) = &self.part {
                    part.shared.streams_max.set(self.h2.peer_streams_max());
                }
                if !matches!(error, OpenError::PeerLimit(_)) {
                    self.going_away();
                }
                teller.over(Outcome::NotTaken(carried));
            }
        }
        if let Part::Dialling(part) = &self.part {
            part.shared.streams.set(self.streams.len());
        }
    }

    /// Answers that a stream is open, but with what its pod says, if that comes soon: a record and a wake-up less for
    /// each connection whose source speaks first.
    pub(super) fn answer_soon(&mut self, id: StreamId) {
        self.h2.open_late(id);
        self.soon();
    }

    /// Ends a stream that the peer has ended before, but with what else there is to say.
    pub(super) fn end_soon(&mut self, header: &[u8; FRAME_HEADER]) {
        self.late_ends.extend_from_slice(header);
        if self.late_ends.len() >= LATE_ENDS {
            self.h2.output().append(&mut self.late_ends);
        } else {
            self.soon();
        }
    }

    /// What was put off is due soon.
    fn soon(&mut self) {
        if self.late_due.is_none() {
            let due = Instant::now() + LATE;
            self.late_due = Some(due);
            if due < self.timer.deadline() {
                self.timer.as_mut().reset(due);
            }
        }
    }

    /// Says what was put off.
    pub(super) fn say_late(&mut self) {
        self.h2.answer_late();
        self.h2.output().append(&mut self.late_ends);
    }

    fn take_dials(&mut self, cx: &mut Context<'_>) {
        // A set that is empty has nobody to wake: who comes into it is polled in the same turn.
        while !self.dials.is_empty()
            && let Poll::Ready(Some((id, result))) = std::pin::Pin::new(&mut self.dials).poll_next(cx)
        {
            self.delivered(id, result);
        }
    }
}
