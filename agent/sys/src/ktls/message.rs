//! Records with their kind, by control messages.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::{mem, ptr};

use super::DATA;

/// Room for a control message of one byte, and aligned as one.
#[repr(C, align(8))]
struct Control([u8; SPACE]);

// SAFETY: it computes a length from a length.
const SPACE: usize = unsafe { libc::CMSG_SPACE(1) } as usize;

/// Sends bytes as records of that kind, and says how many were taken. With `more`, what follows may be of the same
/// record.
///
/// # Errors
/// What the system says; `WouldBlock` when nothing is taken.
pub fn send(socket: &impl AsFd, kind: u8, bytes: &[u8], more: bool) -> io::Result<usize> {
    let mut slice = libc::iovec { iov_base: ptr::from_ref(bytes).cast_mut().cast(), iov_len: bytes.len() };
    let mut control = Control([0; SPACE]);
    let mut message = header(&mut slice);
    if kind != DATA {
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = SPACE as _;
        // SAFETY: the header describes `control`, which has room and alignment for a message of one byte, so there is a
        // first one and its data is inside.
        unsafe {
            let head = libc::CMSG_FIRSTHDR(&raw const message);
            (*head).cmsg_level = libc::SOL_TLS;
            (*head).cmsg_type = libc::TLS_SET_RECORD_TYPE;
            (*head).cmsg_len = libc::CMSG_LEN(1) as _;
            *libc::CMSG_DATA(head) = kind;
        }
    }
    let flags = libc::MSG_NOSIGNAL | if more { libc::MSG_MORE } else { 0 };
    // SAFETY: the descriptor is open for the call; the header describes `bytes`, which the kernel only reads, and
    // `control`, both of which outlive it.
    let sent = unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const message, flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Receives what is there, of one kind: of data as much as is there, of others one record. None read means that the
/// other end has closed.
///
/// # Errors
/// What the system says, see [`super::Refused`]; `WouldBlock` when nothing is there.
pub fn receive(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, u8)> {
    let mut slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = Control([0; SPACE]);
    let mut message = header(&mut slice);
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = SPACE as _;
    // SAFETY: the descriptor is open for the call; the header describes `buffer` and `control`, which outlive it and
    // which nobody else uses meanwhile.
    let read = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, 0) };
    let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel has set the header's length to what it wrote into `control`; if that holds a message, its head
    // is whole, and one of this kind has a byte of data.
    let kind = unsafe {
        let head = libc::CMSG_FIRSTHDR(&raw const message);
        let told = !head.is_null()
            && (*head).cmsg_level == libc::SOL_TLS
            && (*head).cmsg_type == libc::TLS_GET_RECORD_TYPE;
        if told { *libc::CMSG_DATA(head) } else { DATA }
    };
    Ok((read, kind))
}

fn header(slice: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: a header of zeros is one without address, buffers and control messages.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = slice;
    message.msg_iovlen = 1;
    message
}
