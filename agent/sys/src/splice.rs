//! Bytes between two sockets that never come into this process's memory (splice(2)).

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice};

/// A pipe on the way from one socket to another.
#[derive(Debug)]
pub struct Pipe {
    end: OwnedFd,
    begin: OwnedFd,
    holds: usize,
    slots: usize,
}

impl Pipe {
    /// One that holds about that many bytes, or what the system lets it.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn new(size: usize) -> io::Result<Self> {
        let (end, begin) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // fs.pipe-user-pages-soft bounds it for whoever has no CAP_SYS_RESOURCE; then it has what pipes have.
        let _ = fcntl_setpipe_size(&begin, size);
        let slots = fcntl_getpipe_size(&begin)? / rustix::param::page_size();
        Ok(Self { end, begin, holds: 0, slots })
    }

    /// Bytes in it.
    pub const fn holds(&self) -> usize {
        self.holds
    }

    /// How many pieces of memory fit into it, however small each is: as many as pages of its size.
    pub const fn slots(&self) -> usize {
        self.slots
    }

    /// Takes up to `most` bytes that wait in a socket. None taken means that they end there.
    ///
    /// # Errors
    /// What the system says; `WouldBlock` when nothing waits, or the pipe is full.
    pub fn fill(&mut self, from: &impl AsFd, most: usize) -> io::Result<usize> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let count = splice(from, None, &self.begin, None, most, flags)?;
        self.holds += count;
        Ok(count)
    }

    /// The same, where nothing taken may mean either. The kernel tells an error of a socket once, and here.
    ///
    /// # Errors
    /// What the system says, but for `WouldBlock` and `Interrupted`.
    pub fn fill_some(&mut self, from: &impl AsFd, most: usize) -> io::Result<usize> {
        match self.fill(from, most) {
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(0),
            filled => filled,
        }
    }

    /// Gives a socket as much of what is in it as the socket takes. With `more`, the caller has more to follow.
    ///
    /// # Errors
    /// What the system says; `WouldBlock` when nothing is taken.
    pub fn drain(&mut self, to: &impl AsFd, more: bool) -> io::Result<usize> {
        let mut flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        flags.set(SpliceFlags::MORE, more);
        let count = splice(&self.end, None, to, None, self.holds, flags)?;
        self.holds = self.holds.saturating_sub(count);
        Ok(count)
    }

    /// Reads all that is in it after all.
    ///
    /// # Errors
    /// What the system says.
    pub fn take(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.holds];
        let mut at = 0;
        while let Some(room) = bytes.get_mut(at..)
            && !room.is_empty()
        {
            let count = rustix::io::read(&self.end, room)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            at += count;
            self.holds = self.holds.saturating_sub(count);
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    #[test]
    fn bytes_pass_or_are_read_after_all() {
        let ((mut from, through), (out, mut to)) = (pair(), pair());
        from.write_all(b"0123456789").unwrap();
        let mut pipe = Pipe::new(1 << 16).unwrap();
        assert_eq!(pipe.fill(&through, 4).unwrap(), 4);
        assert_eq!(pipe.drain(&out, false).unwrap(), 4);
        let mut passed = [0; 4];
        to.read_exact(&mut passed).unwrap();
        assert_eq!(&passed, b"0123");
        assert_eq!(pipe.fill(&through, 100).unwrap(), 6);
        assert_eq!((pipe.holds(), pipe.take().unwrap()), (6, b"456789".to_vec()));
        assert_eq!(pipe.holds(), 0);
        through.set_nonblocking(true).unwrap();
        assert_eq!(pipe.fill(&through, 1).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(from);
        assert_eq!(pipe.fill(&through, 1).unwrap(), 0);
    }
}
