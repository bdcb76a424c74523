//! A turn of the tunnel's loop.

use std::task::{Context, Poll};

use futures_util::stream::Stream as _;
use lark_core::framing::{ErrorCode, OpenError};
use tokio::time::Instant;

use super::{Dialling, Engine, Open, Part, TunnelError};
use crate::fate::Outcome;
use crate::record::RecordError;
use crate::stream::Stream;

/// Turns before others of the worker get theirs.
const TURNS: usize = 8;

impl Engine {
    /// Ready when the tunnel is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TunnelError>> {
        self.ready.register(cx.waker());
        for _ in 0..TURNS {
            while self.timer.poll_tick(cx).is_ready() {
                self.tick()?;
            }
            self.take_commands(cx);
            self.take_dials(cx);
            let mut progress = match self.poll_receive(cx) {
                Err(TunnelError::Record(RecordError::Closed)) if self.streams.is_empty() => {
                    return Poll::Ready(Ok(()));
                }
                received => received?,
            };
            self.ready.take(&mut self.queue);
            progress |= self.serve_ready()?;
            self.write_control()?;
            let flushed = self.records.poll_flush(cx)?.is_ready();
            // Whoever found no room before the flush finds it now.
            progress |= flushed && !(self.ready.is_empty() && self.h2.output().is_empty());
            if flushed && self.is_over() {
                return Poll::Ready(Ok(()));
            }
            if !progress {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Gives pods what is left of streams that need the tunnel no more. Ready when nothing is.
    pub(super) fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.ready.register(cx.waker());
        self.ready.take(&mut self.queue);
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

    fn tick(&mut self) -> Result<(), TunnelError> {
        let now = Instant::now();
        let silent = now.duration_since(self.heard);
        if silent >= self.settings.keepalive {
            return Err(TunnelError::Silent(self.settings.keepalive));
        }
        if silent >= self.settings.keepalive / 3 {
            self.h2.ping(*b"lark-ka\0");
        }
        if self.streams.is_empty() && now.duration_since(self.idle_since) >= self.settings.idle {
            self.close_commands();
        }
        Ok(())
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
        match self.h2.connect(&carried.request) {
            Ok(id) => {
                let number = id.value();
                let waker = self.ready.waker(number);
                waker.push();
                self.streams.insert(number, Stream::dialled(id, waker, carried, teller));
            }
            Err(error) => {
                tracing::debug!(tunnel = self.name, %error, "a stream goes to another tunnel");
                if let Part::Dialling(part) = &self.part {
                    part.shared.streams_max.set(self.h2.peer_streams_max());
                }
                if !matches!(error, OpenError::PeerLimit(_)) {
                    self.going_away();
                }
                teller.over(Outcome::NotTaken(Box::new(carried)));
            }
        }
        if let Part::Dialling(part) = &self.part {
            part.shared.streams.set(self.streams.len());
        }
    }

    fn take_dials(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some((id, result))) = std::pin::Pin::new(&mut self.dials).poll_next(cx) {
            self.delivered(id, result);
        }
    }
}
