//! Descriptors from one process to another over a Unix socket (SCM_RIGHTS, unix(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

/// Most descriptors in one message.
pub const DESCRIPTORS_MAX: usize = 16;

/// Sends a short message with descriptors. The receiver gets descriptors of its own.
///
/// # Errors
/// When the socket does not take the whole message at once, or the other end is gone.
pub fn send(socket: impl AsFd, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)?;
    if sent == message.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives what [`send`] sent. Nothing read means that the other end is gone.
///
/// # Errors
/// When the socket fails.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let read =
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    Ok((read.bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_listener_passes_to_the_other_end() -> io::Result<()> {
        let (one, two) = UnixStream::pair()?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        send(&one, b"take it", &[listener.as_fd()])?;
        drop(listener);
        let mut buffer = [0; 64];
        let (read, descriptors) = receive(&two, &mut buffer)?;
        assert_eq!(&buffer[..read], b"take it");
        let taken: Vec<_> = descriptors.into_iter().map(std::net::TcpListener::from).collect();
        assert_eq!(taken.len(), 1);
        std::net::TcpStream::connect(address)?;
        Ok(())
    }

    #[test]
    fn an_end_that_is_gone_is_told() -> io::Result<()> {
        let (one, two) = UnixStream::pair()?;
        drop(one);
        assert_eq!(receive(&two, &mut [0; 8])?.0, 0);
        assert!(send(&two, b"x", &[]).is_err());
        Ok(())
    }
}
