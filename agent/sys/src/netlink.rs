//! The little of netlink (RFC 3549) that is asked here: requests, dumps, attributes.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Length of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;
/// `NLM_F_REQUEST`.
pub(crate) const REQUEST: u16 = 0x1;
/// `NLM_F_REQUEST | NLM_F_ACK`.
pub(crate) const REQUEST_ACK: u16 = 0x1 | 0x4;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
pub(crate) const REQUEST_DUMP: u16 = 0x1 | 0x300;
/// `NLMSG_ERROR`: an answer's kind.
pub(crate) const ERROR: u16 = 2;
const DONE: u16 = 3;

/// `NETLINK_ROUTE`, whose number is zero.
pub(crate) const ROUTE: Option<Protocol> = None;
/// `NETLINK_SOCK_DIAG`.
pub(crate) const SOCK_DIAG: Option<Protocol> = Some(rustix::net::netlink::SOCK_DIAG);

/// A socket of the calling thread's namespace.
pub(crate) fn open(protocol: Option<Protocol>) -> io::Result<OwnedFd> {
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, protocol)?;
    Ok(socket)
}

/// A message with its header.
pub(crate) fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

/// Asks for a dump and hands each message of it to `each`, with its kind. After an error of `each` nothing more is
/// read.
///
/// # Errors
/// When the kernel refuses, or `each` does.
pub(crate) fn dump(
    protocol: Option<Protocol>,
    request: &[u8],
    mut each: impl FnMut(u16, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let socket = open(protocol)?;
    rustix::net::send(&socket, request, SendFlags::empty())?;
    let mut buffer = vec![0_u8; 64 * 1024];
    loop {
        let (length, _) = rustix::net::recv(&socket, &mut buffer, RecvFlags::empty())?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while let Some((kind, body, next)) = split(rest) {
            match kind {
                DONE => return Ok(()),
                ERROR => return Err(refusal(body).unwrap_or_else(|| io::ErrorKind::InvalidData.into())),
                kind => each(kind, body)?,
            }
            rest = next;
        }
        if length == 0 {
            return Ok(());
        }
    }
}

/// The error that a message of kind [`ERROR`] tells; nothing if it only says that all went well.
pub(crate) fn refusal(body: &[u8]) -> Option<io::Error> {
    let status =
        body.get(..4).and_then(|bytes| bytes.try_into().ok()).map_or(-libc::EBADMSG, i32::from_ne_bytes);
    (status != 0).then(|| io::Error::from_raw_os_error(-status))
}

/// Splits one message off: its kind, its body, what follows.
pub(crate) fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?)).ok()?;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEADER..length)?;
    let aligned = length.next_multiple_of(4).min(bytes.len());
    Some((kind, body, bytes.get(aligned..)?))
}

/// The attribute of that kind (`struct nlattr`), if it is there.
pub(crate) fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    while let (Some(length), Some(kind)) = (bytes.get(..2), bytes.get(2..4)) {
        let length = usize::from(u16::from_ne_bytes(length.try_into().ok()?));
        if u16::from_ne_bytes(kind.try_into().ok()?) == wanted {
            return bytes.get(4..length);
        }
        bytes = bytes.get(length.next_multiple_of(4).max(4)..)?;
    }
    None
}

/// The same, as a number.
pub(crate) fn number(bytes: &[u8], wanted: u16) -> Option<u32> {
    Some(u32::from_ne_bytes(attribute(bytes, wanted)?.try_into().ok()?))
}
