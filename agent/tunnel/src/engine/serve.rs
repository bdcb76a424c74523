//! What a stream does in its share of a turn.

use std::io;

use lark_core::framing::FRAME_HEADER;

use super::{Engine, FRAME, Part, QUANTUM, SHARED_QUANTUM, TunnelError};
use crate::ended::End;
use crate::record::RecordError;
use crate::stream::{FromPod, Stream};

/// Reads of what a pod that takes no more has said before.
const LAST_WORDS: u32 = 16;

pub(super) enum ServeError {
    Pod(io::Error),
    Tunnel(RecordError),
}

impl Engine {
    /// Gives every stream that has something to do its share of this turn, one after the other. True
    /// if any moved bytes.
    pub(super) fn serve_ready(&mut self) -> Result<bool, TunnelError> {
        let mut progress = false;
        let waiting = self.queue.len();
        let quantum = if waiting > 1 { SHARED_QUANTUM } else { QUANTUM };
        for _ in 0..waiting {
            let Some(number) = self.queue.pop_front() else { break };
            match self.serve(number, quantum) {
                Ok(moved) => progress |= moved,
                Err(ServeError::Pod(error)) => {
                    self.pod_failed(number, &error);
                    progress = true;
                }
                Err(ServeError::Tunnel(error)) => return Err(error.into()),
            }
        }
        Ok(progress)
    }

    fn serve(&mut self, number: u32, quantum: usize) -> Result<bool, ServeError> {
        let Some(stream) = self.streams.get_mut(&number) else { return Ok(false) };
        stream.waker.taken();
        let (drained, result) = stream.drain();
        if drained > 0 {
            self.held.release(drained);
            self.h2.consumed(stream.id, drained);
        }
        if let Err(error) = result {
            self.pod_refused(number, &error);
            return Ok(true);
        }
        let moved = self.forward(number, quantum)?;
        if self.streams.get(&number).is_some_and(|stream| stream.is_done()) {
            self.finish(number, End::Clean, None);
        }
        Ok(drained > 0 || moved)
    }

    /// The pod takes no more. What it said before, the answer to a request that it did not read to the end mostly, is
    /// still to be read, and the kernel would tell an end where it has told a failure already: so it is sent as far as
    /// the peer takes it at once, and then the failure.
    pub(super) fn pod_refused(&mut self, number: u32, error: &io::Error) {
        for _ in 0..LAST_WORDS {
            let Some(stream) = self.streams.get_mut(&number) else { return };
            if stream.owes_end() || stream.is_read() {
                break;
            }
            stream.look_anyway();
            if !matches!(self.forward(number, QUANTUM), Ok(true)) {
                break;
            }
        }
        self.pod_failed(number, error);
    }

    /// Sends what the pod has for the peer, once. True if anything was.
    fn forward(&mut self, number: u32, quantum: usize) -> Result<bool, ServeError> {
        let Some(stream) = self.streams.get_mut(&number) else { return Ok(false) };
        if stream.is_read() {
            return if stream.is_done() { Ok(false) } else { watch(stream) };
        }
        if self.records.unsent() >= self.send_limit {
            stream.waker.push();
            return Ok(false);
        }
        let most = quantum.min(self.send_limit);
        let room = self.h2.capacity(stream.id).min(self.h2.max_frame()).min(most);
        if !stream.early().is_empty() {
            if room == 0 {
                return watch(stream);
            }
            let count = stream.early().len().min(room);
            let mut frame = frame();
            if let (Some(payload), Some(early)) =
                (frame.get_mut(FRAME_HEADER..FRAME_HEADER + count), stream.early().get(..count))
            {
                payload.copy_from_slice(early);
            }
            stream.early_sent(count);
            stream.waker.push();
            return self.send(number, frame, count);
        }
        if stream.owes_end() {
            stream.end_sent();
            // Once more, for the watch or the end.
            stream.waker.push_end();
            let (id, may_wait) = (stream.id, stream.may_end_late());
            let header = self.h2.data_header(id, 0, true);
            if may_wait {
                self.end_soon(&header);
                return Ok(true);
            }
            // Behind control frames, and before ends that were put off: one record for all of them.
            self.h2.output().extend_from_slice(&header);
            self.write_control().map_err(ServeError::Tunnel)?;
            return Ok(true);
        }
        let limit = room.min(stream.may_read());
        if limit == 0 {
            return watch(stream);
        }
        let stream = if self.records.takes_splices() && stream.gives_unseen(limit) {
            if let Some(moved) = self.forward_unseen(number, limit) {
                return moved;
            }
            let Some(stream) = self.streams.get_mut(&number) else { return Ok(false) };
            stream
        } else {
            stream
        };
        let mut frame = frame();
        match stream.read(frame.get_mut(FRAME_HEADER..FRAME_HEADER + limit).unwrap_or_default()) {
            Err(error) => {
                FRAME.set(frame);
                Err(ServeError::Pod(error))
            }
            Ok(FromPod::Nothing) => {
                FRAME.set(frame);
                Ok(false)
            }
            Ok(FromPod::End) => {
                FRAME.set(frame);
                if matches!(self.part, Part::Accepting(_)) || stream.may_end_late() {
                    stream.waker.push_end();
                } else {
                    self.owing.push(number);
                }
                Ok(true)
            }
            Ok(FromPod::Bytes { count, more }) => {
                if more {
                    stream.waker.push();
                }
                self.send(number, frame, count)
            }
        }
    }

    /// Sends `count` bytes that lie in the frame behind the room for its header.
    fn send(&mut self, number: u32, mut frame: Vec<u8>, count: usize) -> Result<bool, ServeError> {
        let Some(stream) = self.streams.get(&number) else { return Ok(false) };
        self.moved += count;
        if let Some(room) = frame.first_chunk_mut() {
            *room = self.h2.data_header(stream.id, count, false);
        }
        let mut whole = FRAME_HEADER + count;
        // The stream's HEADERS may be among the control frames.
        let written = self.write_control().and_then(|()| {
            let ends = frame.get_mut(whole..whole + self.late_ends.len());
            let fits = ends.is_some();
            if let Some(ends) = ends {
                ends.copy_from_slice(&self.late_ends);
                whole += ends.len();
            }
            self.records.write(frame.get(..whole).unwrap_or_default())?;
            if fits {
                self.late_ends.clear();
            }
            Ok(())
        });
        FRAME.set(frame);
        written.map(|()| true).map_err(ServeError::Tunnel)
    }
}

/// Room for the largest frame. What of it no pod ever filled is no memory in use.
fn frame() -> Vec<u8> {
    let frame = FRAME.take();
    // It is there, but for the first time.
    if frame.is_empty() { vec![0; FRAME_HEADER + QUANTUM] } else { frame }
}

/// Nothing is read from the pod at present, but its reset would be news.
fn watch(stream: &mut Stream) -> Result<bool, ServeError> {
    stream.check().map(|()| false).map_err(ServeError::Pod)
}
