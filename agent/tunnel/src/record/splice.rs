//! Data into a pipe that the kernel has opened, and out of one that it is to seal.

use std::io;
use std::task::{Context, Poll};

use lark_sys::ktls::{self, DATA};
use lark_sys::splice::Pipe;
use tokio::io::Interest;

use super::{RecordError, Records};

/// Pieces of memory that a record may be in: as many as a packet has (MAX_SKB_FRAGS), and its beginning. More of them
/// than there is place for in the pipe are cut, and `tls_sw_splice_read` forgets what was cut off.
const PIECES: usize = 18;

/// What came of it.
pub(crate) enum Spliced {
    /// The pipe has bytes.
    Bytes,
    /// The next record holds no data: it has to be read.
    NotData,
}

impl Records {
    /// Whether the kernel opens what is received, so that it can be spliced.
    pub(crate) const fn is_opened_by_kernel(&self) -> bool {
        self.kernel.receives()
    }

    /// Whether a frame can be spliced: the kernel seals it, and nothing waits before it.
    pub(crate) fn takes_splices(&self) -> bool {
        self.kernel.sends() && !self.protocol.owes_keys && !self.has_waiting()
    }

    /// Sends a header and the payload that is in the pipe, which is empty after it. What the socket does not take now
    /// is kept; the caller has asked whether this can be.
    pub(crate) fn splice(&mut self, header: &[u8], pipe: &mut Pipe) -> Result<(), RecordError> {
        // Frames of control, mostly.
        while self.has_waiting() {
            match self.send() {
                Ok(()) => self.sent = true,
                Err(RecordError::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(RecordError::Io(e)) => return Err(self.refused(e)),
                Err(e) => return Err(e),
            }
        }
        if !self.takes_splices() || self.kernel.is_used_up() {
            let bytes = [header, &pipe.take()?].concat();
            return self.write(&bytes);
        }
        self.unsent += header.len() + pipe.holds();
        let count = taken(ktls::send(&self.socket, DATA, header, true)).map_err(|e| self.refused(e))?;
        self.count_sealed(count);
        let mut left = header.get(count..).unwrap_or_default().to_vec();
        while left.is_empty() && pipe.holds() > 0 {
            let count = taken(pipe.drain(&self.socket, false)).map_err(|e| self.refused(e))?;
            if count == 0 {
                break;
            }
            self.sent = true;
            self.count_sealed(count);
        }
        left.extend(pipe.take()?);
        self.protocol.waiting.extend(&left);
        Ok(())
    }

    /// Whether what a record holds finds place in that pipe.
    pub(crate) const fn fits(pipe: &Pipe) -> bool {
        has_place(0, pipe.slots())
    }

    /// Takes up to `most` bytes of data into an empty pipe, in which a record must fit. Pending when nothing has arrived.
    pub(crate) fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
        most: usize,
    ) -> Poll<Result<Spliced, RecordError>> {
        let taken = loop {
            std::task::ready!(self.socket.poll_read_ready(cx))?;
            match self.socket.try_io(Interest::READABLE, || pipe.fill(&self.socket, most)) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                taken => break taken,
            }
        };
        match taken {
            // The end, or a record of nothing: a read tells which.
            Ok(0) => return Poll::Ready(Ok(Spliced::NotData)),
            Ok(_) => {}
            // So says `tls_sw_splice_read` (net/tls/tls_sw.c) of records of other kinds, and leaves them.
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => return Poll::Ready(Ok(Spliced::NotData)),
            Err(e) => return Poll::Ready(Err(self.refused(e))),
        }
        // Each call takes one record, and loses of it what finds no place in the pipe.
        let mut records = 1;
        while pipe.holds() < most && has_place(records, pipe.slots()) {
            match pipe.fill(&self.socket, most - pipe.holds()) {
                Ok(count) if count > 0 => records += 1,
                // What came to its end, or is no data, says so again when it is next asked.
                Ok(_) => break,
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::InvalidInput) => {
                    break;
                }
                // The kernel tells this once.
                Err(e) => return Poll::Ready(Err(self.refused(e))),
            }
        }
        Poll::Ready(Ok(Spliced::Bytes))
    }
}

/// Whether one more record surely finds place behind so many others.
const fn has_place(records: usize, slots: usize) -> bool {
    (records + 1) * PIECES <= slots
}

/// Nothing is taken by a socket that is full.
fn taken(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_pieces_records_have_they_find_place() {
        for slots in 0..=1024 {
            let records = (0..).find(|records| !has_place(*records, slots)).unwrap_or_default();
            assert!(records * PIECES <= slots, "{records} records in {slots} places");
            assert!((records + 1) * PIECES > slots, "there is place for more than {records} in {slots}");
        }
        // A pipe as it comes has sixteen places (PIPE_DEF_BUFFERS): not one record is sure of them.
        assert!(!has_place(0, 16) && has_place(0, 18));
    }
}
