//! Payload that goes between the tunnel's socket and a pod's without coming into this process's memory: of large frames,
//! where the kernel carries the records and nobody looks at the bytes.

use std::task::{Context, Poll};

use lark_core::framing::{FRAME_HEADER, StreamId};
use lark_sys::splice::Pipe;
use tokio::time::Instant;

use super::serve::ServeError;
use super::{Engine, TunnelError};
use crate::pipes::{self, HOLDS};
use crate::record::{ROOM, Records, Spliced};

/// What is worth a way of its own: a pipe takes one record at a time, and each is a system call.
const LEAST: usize = 32 * 1024;

/// Where the received bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Anywhere.
    Unknown,
    /// In a frame of which a part went another way.
    Inside,
    /// Behind such a frame: probably before another of the kind.
    Behind,
}

impl Engine {
    /// How much to read, so that what is behind the header of a large frame need not be.
    pub(super) fn worth_reading(&mut self) -> usize {
        match self.place {
            Place::Behind if self.rest.is_empty() => FRAME_HEADER,
            _ => ROOM,
        }
    }

    /// The stream, and how much of its payload is to come, that can go to its pod unseen.
    fn unseen(&self) -> Option<(StreamId, usize)> {
        if !self.records.is_opened_by_kernel() {
            return None;
        }
        let (id, left) = self.h2.under_way()?;
        let worth = left >= LEAST || self.place == Place::Inside;
        let stream = self.streams.get(&id.value())?;
        (worth && stream.takes_unseen()).then_some((id, left))
    }

    /// Moves payload to its pod. Nothing if what comes next has to be read; else whether anything came.
    pub(super) fn poll_splice(&mut self, cx: &mut Context<'_>) -> Option<Result<bool, TunnelError>> {
        let Some((id, left)) = self.unseen() else {
            if self.place == Place::Inside {
                self.place = Place::Unknown;
            }
            return None;
        };
        // Without descriptors for a pipe, or with a small one, all is read.
        let mut lent = pipes::lend()?;
        let pipe = &mut lent.pipe;
        if !Records::fits(pipe) {
            lent.give_back();
            return None;
        }
        let result = match self.records.poll_splice(cx, pipe, left.min(HOLDS)) {
            Poll::Pending => Some(Ok(false)),
            Poll::Ready(Err(error)) => Some(Err(error.into())),
            Poll::Ready(Ok(Spliced::NotData)) => None,
            Poll::Ready(Ok(Spliced::Bytes)) => {
                self.silence.heard(Instant::now());
                self.moved += pipe.holds();
                let end = self.h2.passed(pipe.holds());
                self.place = if pipe.holds() < left { Place::Inside } else { Place::Behind };
                self.give(id, pipe);
                if let Some(end) = end {
                    self.event(end);
                }
                Some(Ok(true))
            }
        };
        lent.give_back();
        result
    }

    /// Sends what a pod has for the peer, once, as [`Self::forward`] does. Nothing if it has to be read.
    pub(super) fn forward_unseen(&mut self, number: u32, limit: usize) -> Option<Result<bool, ServeError>> {
        let mut lent = pipes::lend()?;
        let result = self.forward_by(&mut lent.pipe, number, limit.min(HOLDS));
        lent.give_back();
        result.transpose()
    }

    fn forward_by(&mut self, pipe: &mut Pipe, number: u32, most: usize) -> Result<Option<bool>, ServeError> {
        let Some(stream) = self.streams.get_mut(&number) else { return Ok(Some(false)) };
        let count = stream.fill(pipe, most).map_err(ServeError::Pod)?;
        if count == 0 {
            return Ok(None);
        }
        self.moved += count;
        // It is not known whether that was all.
        stream.waker.push();
        let header = self.h2.data_header(stream.id, count, false);
        let sent = self.write_control().and_then(|()| self.records.splice(&header, pipe));
        sent.map(|()| Some(true)).map_err(ServeError::Tunnel)
    }

    /// Gives a pod what is in the pipe, and keeps what it does not take.
    fn give(&mut self, id: StreamId, pipe: &mut Pipe) {
        let Some(stream) = self.streams.get_mut(&id.value()) else { return };
        let taken = match stream.splice(pipe) {
            Ok(taken) => taken,
            Err(error) => return self.pod_refused(id.value(), &error),
        };
        if taken > 0 {
            self.h2.consumed(id, taken);
        }
        if pipe.holds() == 0 {
            return;
        }
        let waiting = pipe.holds();
        if let Err(full) = self.held.hold(waiting) {
            return self.too_much(id, full);
        }
        match pipe.take() {
            Ok(left) => {
                if let Some(stream) = self.streams.get_mut(&id.value()) {
                    stream.keep_bytes(&left);
                }
            }
            Err(error) => {
                self.held.release(waiting);
                self.pod_failed(id.value(), &error);
            }
        }
    }
}
