//! A turn of the tunnel's loop.

use std::task::{Context, Poll};

use futures_util::stream::Stream as _;
use lark_core::framing::StreamId;
use tokio::time::Instant;

use super::{Engine, FRAME, Open, Outcome, QUANTUM, SHARED_QUANTUM, TunnelError, tell};
use crate::settings::Side;
use crate::stream::{EARLY, FromPod, Stream};

/// Turns before others of the worker get theirs.
const TURNS: usize = 8;
/// Length of a DATA frame's header.
const HEADER: usize = lark_core::framing::FRAME_HEADER;

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
            let mut progress = false;
            match self.records.poll_read(cx, &mut self.plain) {
                Poll::Ready(Ok(())) => {
                    self.heard = Instant::now();
                    self.receive()?;
                    progress = true;
                }
                Poll::Ready(Err(error)) => {
                    // What was decrypted before the end still counts.
                    let received = self.receive();
                    let over = self.streams.is_empty() && matches!(error, crate::record::RecordError::Closed);
                    return Poll::Ready(if over { Ok(()) } else { received.and(Err(error.into())) });
                }
                Poll::Pending => {}
            }
            self.ready.take(&mut self.queue);
            progress |= self.serve_ready()?;
            self.write_control()?;
            let flushed = self.records.poll_flush(cx)?.is_ready();
            progress |= flushed && !self.queue.is_empty();
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

    /// Nobody will open a stream any more, and none is left.
    fn is_over(&self) -> bool {
        self.streams.is_empty()
            && self.dials.is_empty()
            && match self.side {
                Side::Client => self.commands.is_none(),
                Side::Server => self.h2.is_going_away(),
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
        // A pod whose stream has no window is not read, so its reset would go unnoticed.
        let failed: Vec<(u32, std::io::Error)> =
            self.streams.iter().filter_map(|(n, s)| Some((*n, s.pending_error()?))).collect();
        for (number, error) in failed {
            if let Some(id) = self.id(number) {
                self.pod_failed(number, id, &error);
            }
        }
        if self.streams.is_empty() {
            if self.plain.capacity() > 0 && self.plain.is_empty() {
                self.plain = Vec::new();
            }
            if self.side == Side::Client && now.duration_since(self.idle_since) >= self.settings.idle {
                self.shared.going_away.set(true);
                if let Some(commands) = &mut self.commands {
                    // Whoever still sends gets his stream back and takes another tunnel.
                    commands.close();
                }
            }
        }
        Ok(())
    }

    fn take_commands(&mut self, cx: &mut Context<'_>) {
        while let Some(commands) = &mut self.commands {
            match commands.poll_recv(cx) {
                Poll::Ready(Some(open)) => self.open(open),
                Poll::Ready(None) => self.commands = None,
                Poll::Pending => break,
            }
        }
    }

    fn open(&mut self, open: Open) {
        let Open { request, pod, counters, on_open, outcome } = open;
        match self.h2.connect(&request) {
            Ok(id) => {
                let number = id.value();
                let mut stream = Stream::new(Side::Client, self.ready.waker(number));
                stream.on_open = Some(on_open);
                stream.on_end = Some(tell(outcome));
                stream.attach(pod, counters);
                self.streams.insert(number, stream);
                self.ids.insert(number, id);
            }
            Err(error) => {
                tracing::debug!(%error, "a stream goes to another tunnel");
                self.shared.streams_max.set(self.h2.peer_streams_max());
                self.shared.going_away.set(self.h2.is_going_away());
                let _ = outcome.send(Outcome::NotOpened(Box::new((request, pod, counters, on_open))));
            }
        }
        self.shared.streams.set(self.streams.len());
    }

    fn take_dials(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some((id, result))) = std::pin::Pin::new(&mut self.dials).poll_next(cx) {
            self.dialled(id, result);
        }
    }

    /// Gives every stream that has something to do its share of this turn. True if any moved bytes.
    fn serve_ready(&mut self) -> Result<bool, TunnelError> {
        let mut progress = false;
        let waiting = self.queue.len();
        let quantum = if waiting > 1 { SHARED_QUANTUM } else { QUANTUM };
        for _ in 0..waiting {
            let Some(number) = self.queue.pop_front() else { break };
            let Some(id) = self.id(number) else { continue };
            match self.serve(number, id, quantum) {
                Ok(moved) => progress |= moved,
                Err(ServeError::Pod(error)) => self.pod_failed(number, id, &error),
                Err(ServeError::Tunnel(error)) => return Err(error.into()),
            }
        }
        Ok(progress)
    }

    fn serve(&mut self, number: u32, id: StreamId, quantum: usize) -> Result<bool, ServeError> {
        let Some(stream) = self.streams.get_mut(&number) else { return Ok(false) };
        stream.waker.taken();
        let drained = stream.drain().map_err(ServeError::Pod)?;
        if drained > 0 {
            self.h2.consumed(id, drained);
        }
        let read = self.forward(number, id, quantum)?;
        if self.streams.get(&number).is_some_and(Stream::is_done) {
            self.finish(number, crate::ended::End::Clean, None);
        }
        Ok(drained > 0 || read)
    }

    /// Reads the pod once and frames what it gave.
    fn forward(&mut self, number: u32, id: StreamId, quantum: usize) -> Result<bool, ServeError> {
        let Some(stream) = self.streams.get_mut(&number) else { return Ok(false) };
        if stream.pod_ended || stream.pod.is_none() {
            return Ok(false);
        }
        if !self.records.has_room() {
            stream.waker.push();
            return Ok(false);
        }
        let mut limit = self.h2.capacity(id).min(self.h2.max_frame()).min(quantum);
        if !stream.answered {
            limit = limit.min(EARLY - stream.early);
        }
        if limit == 0 {
            return Ok(false);
        }
        let mut frame = FRAME.take();
        frame.resize(HEADER + QUANTUM, 0);
        let result = stream.read(frame.get_mut(HEADER..HEADER + limit).unwrap_or_default());
        let outcome = match result {
            Err(error) => Err(ServeError::Pod(error)),
            Ok(FromPod::Nothing) => Ok(false),
            Ok(FromPod::End) => {
                stream.pod_ended = true;
                let header = self.h2.data_header(id, 0, true);
                self.write_control()
                    .and_then(|()| self.records.write(&header))
                    .map_err(ServeError::Tunnel)?;
                Ok(true)
            }
            Ok(FromPod::Bytes { count, more }) => {
                if !stream.answered {
                    stream.early += count;
                }
                if more {
                    stream.waker.push();
                }
                let header = self.h2.data_header(id, count, false);
                if let Some(room) = frame.first_chunk_mut::<HEADER>() {
                    *room = header;
                }
                let bytes = frame.get(..HEADER + count).unwrap_or_default();
                // The stream's HEADERS may be among the control frames.
                self.write_control().and_then(|()| self.records.write(bytes)).map_err(ServeError::Tunnel)?;
                Ok(true)
            }
        };
        FRAME.set(frame);
        outcome
    }
}

enum ServeError {
    Pod(std::io::Error),
    Tunnel(std::io::Error),
}
