//! Established TCP connections of a namespace, from sock_diag (netlink, `INET_DIAG`).

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use crate::netlink::{self, REQUEST, REQUEST_ACK, REQUEST_DUMP};

/// One established connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Established {
    /// Its own end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Id of the cgroup (v2) that the socket was made in, if the kernel says so (Linux 5.8).
    pub cgroup: Option<u64>,
}

/// A connection with what its own end has counted and measured so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Its own end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Bytes that were sent, each once.
    pub sent: u64,
    /// Bytes that were received.
    pub received: u64,
    /// The smoothed round-trip time in microseconds; 0 before there is one.
    pub rtt_us: u32,
    /// Segments that were sent again.
    pub retransmits: u32,
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// include/uapi/linux/sock_diag.h.
const SOCK_DESTROY: u16 = 21;
const TCP_ESTABLISHED: u32 = 1;
const TCP_LISTEN: u32 = 10;
/// All states in which bytes move, or will: established, both of the half-closed ones, and handshakes
/// (include/net/tcp_states.h).
const OPEN: u32 = 1 << TCP_ESTABLISHED | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
const TCP_TIME_WAIT: u32 = 6;
/// Those of them in which the other end has closed: CLOSE_WAIT, LAST_ACK and CLOSING.
const ENDED: u32 = 1 << 8 | 1 << 9 | 1 << 11;
/// `INET_DIAG_NOCOOKIE` twice: whichever socket it is.
const NO_COOKIE: [u8; 8] = [0xff; 8];
/// `INET_DIAG_INFO`: `struct tcp_info` (include/uapi/linux/tcp.h), of which these are offsets.
const ATTRIBUTE_INFO: u16 = 2;
const RTT: usize = 68;
const TOTAL_RETRANS: usize = 100;
const BYTES_RECEIVED: usize = 128;
const BYTES_SENT: usize = 200;
const BYTES_RETRANS: usize = 208;
/// `INET_DIAG_CGROUP_ID` (include/uapi/linux/inet_diag.h).
const ATTRIBUTE_CGROUP: u16 = 21;
const MESSAGE: usize = 72;

/// What was found, and whether there is more of it than was asked for.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// As many as were asked for at most.
    pub connections: Vec<Established>,
    /// There are others.
    pub more: bool,
}

/// Established TCP connections of the calling thread's namespace, of those that are `wanted` at most `limit`.
///
/// # Errors
/// When the kernel's diagnostics cannot be asked.
pub fn established(limit: usize, wanted: impl Fn(&Established) -> bool) -> io::Result<Found> {
    in_states(1 << TCP_ESTABLISHED, limit, wanted)
}

/// The same, and those that are half closed or still shake hands.
///
/// # Errors
/// When the kernel's diagnostics cannot be asked.
pub fn open(limit: usize, wanted: impl Fn(&Established) -> bool) -> io::Result<Found> {
    in_states(OPEN, limit, wanted)
}

/// The TCP ports on which somebody listens in the calling thread's namespace.
///
/// # Errors
/// When the kernel's diagnostics cannot be asked.
pub fn listening() -> io::Result<HashSet<u16>> {
    let mut ports = HashSet::new();
    each(1 << TCP_LISTEN, |listener| {
        ports.insert(listener.local.port());
    })?;
    Ok(ports)
}

/// Open TCP connections of the calling thread's namespace with their payload so far (Linux 4.19).
///
/// # Errors
/// When the kernel's diagnostics cannot be asked, or there are more than `limit`: whoever compares them with what he
/// knows must not take one that is left out for one that has ended.
pub fn counted(limit: usize) -> io::Result<Vec<Counted>> {
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let request = request(u8::try_from(family).unwrap_or_default(), OPEN, 1 << (ATTRIBUTE_INFO - 1));
        netlink::dump(netlink::SOCK_DIAG, &request, |kind, message| {
            if kind == SOCK_DIAG_BY_FAMILY {
                found.extend(count(message));
            }
            if found.len() > limit {
                return Err(io::Error::other(format!("there are more than {limit} connections")));
            }
            Ok(())
        })?;
    }
    Ok(found)
}

fn count(message: &[u8]) -> Option<Counted> {
    let Established { local, remote, .. } = parse(message)?;
    let info = netlink::attribute(message.get(MESSAGE..)?, ATTRIBUTE_INFO)?;
    let long = |at: usize| Some(u64::from_ne_bytes(info.get(at..at + 8)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_ne_bytes(info.get(at..at + 4)?.try_into().ok()?));
    let sent = long(BYTES_SENT)?.saturating_sub(long(BYTES_RETRANS)?);
    // The kernel counts the other end's close as a byte (RFC 9293, 3.4).
    let has_ended = message.get(1).is_some_and(|state| 1 << state & ENDED != 0);
    let received = long(BYTES_RECEIVED)?.saturating_sub(u64::from(has_ended));
    Some(Counted { local, remote, sent, received, rtt_us: word(RTT)?, retransmits: word(TOTAL_RETRANS)? })
}

fn in_states(states: u32, limit: usize, wanted: impl Fn(&Established) -> bool) -> io::Result<Found> {
    let mut found = Found::default();
    each(states, |socket| {
        if !wanted(&socket) {
            return;
        }
        if found.connections.len() < limit {
            found.connections.push(socket);
        } else {
            found.more = true;
        }
    })?;
    Ok(found)
}

fn each(states: u32, mut told: impl FnMut(Established)) -> io::Result<()> {
    for family in [libc::AF_INET, libc::AF_INET6] {
        let request = request(u8::try_from(family).unwrap_or_default(), states, 0);
        netlink::dump(netlink::SOCK_DIAG, &request, |kind, message| {
            if kind == SOCK_DIAG_BY_FAMILY {
                parse(message).into_iter().for_each(&mut told);
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Resets a TCP connection of the calling thread's namespace, named by its two ends as the socket to be
/// reset has them: its owner gets ECONNABORTED, the other end a reset. `false` if there is none such any
/// more (Linux 4.5 with CONFIG_INET_DIAG_DESTROY; needs CAP_NET_ADMIN over the namespace).
///
/// Where no connection has these ends the kernel takes whoever *listens* on `local`
/// (`inet_diag_find_one_icsk`, net/ipv4/inet_diag.c, falls through to the listeners), so the socket is
/// looked at first and then named by its cookie: a listener is never reset.
///
/// # Errors
/// When the kernel refuses or cannot do it.
pub fn destroy(local: SocketAddr, remote: SocketAddr) -> io::Result<bool> {
    destroy_on(local, remote, 0)
}

/// The first device of every namespace (`loopback_net_init`, drivers/net/loopback.c).
const LOOPBACK: u32 = 1;

/// The same for a socket that is bound to the loopback device.
///
/// # Errors
/// When the kernel refuses or cannot do it.
pub fn destroy_on_loopback(local: SocketAddr, remote: SocketAddr) -> io::Result<bool> {
    destroy_on(local, remote, LOOPBACK)
}

fn destroy_on(local: SocketAddr, remote: SocketAddr, interface: u32) -> io::Result<bool> {
    let socket = netlink::open(netlink::SOCK_DIAG)?;
    let look = exact(SOCK_DIAG_BY_FAMILY, REQUEST, local, remote, interface, NO_COOKIE);
    let Some(cookie) = ask(&socket, &look, |message| connection_cookie(message, local, remote))?.flatten()
    else {
        return Ok(false);
    };
    let reset = exact(SOCK_DESTROY, REQUEST_ACK, local, remote, interface, cookie);
    Ok(ask(&socket, &reset, |_| ())?.is_some())
}

/// Whether somebody in the calling thread's namespace would answer a connect from `source` to `destination`: a
/// listener, or the other end of that very connection. The kernel looks for the socket as for a SYN
/// (`inet_diag_find_one_icsk`, net/ipv4/inet_diag.c), hooks for look-ups (`sk_lookup`) included; only a listener that
/// is bound to a device is not found.
///
/// # Errors
/// When the kernel's diagnostics cannot be asked.
pub fn is_answered(source: SocketAddr, destination: SocketAddr) -> io::Result<bool> {
    let socket = netlink::open(netlink::SOCK_DIAG)?;
    let look = exact(SOCK_DIAG_BY_FAMILY, REQUEST, destination, source, 0, NO_COOKIE);
    Ok(ask(&socket, &look, |_| ())?.is_some())
}

/// In which cgroup (v2) the listener was made that would answer a connect from an address to `destination`. Nothing if
/// there is none, or the kernel does not say.
///
/// # Errors
/// When the kernel's diagnostics cannot be asked.
pub fn cgroup_of_listener(source: IpAddr, destination: SocketAddr) -> io::Result<Option<u64>> {
    let socket = netlink::open(netlink::SOCK_DIAG)?;
    // No connection comes from that port, so none is found.
    let source = SocketAddr::new(source, 0);
    // Then one that is bound to the loopback device, which is where the connect arrives.
    for interface in [0, LOOPBACK] {
        let look = exact(SOCK_DIAG_BY_FAMILY, REQUEST, destination, source, interface, NO_COOKIE);
        if let Some(found) = ask(&socket, &look, |message| parse(message)?.cgroup)?.flatten() {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Sends one request and reads its answer; nothing if there is no such socket, or another one by now.
fn ask<T>(socket: &OwnedFd, request: &[u8], read: impl Fn(&[u8]) -> T) -> io::Result<Option<T>> {
    rustix::net::send(socket, request, rustix::net::SendFlags::empty())?;
    let mut answer = [0_u8; 1024];
    let (length, _) = rustix::net::recv(socket, &mut answer, rustix::net::RecvFlags::empty())?;
    let silent = || io::Error::other("the kernel did not answer a sock_diag request");
    let (kind, message, _) = answer.get(..length).and_then(netlink::split).ok_or_else(silent)?;
    if kind != netlink::ERROR {
        return Ok(Some(read(message)));
    }
    match netlink::refusal(message) {
        None => Ok(Some(read(message))),
        Some(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESTALE)) => Ok(None),
        Some(error) => Err(error),
    }
}

/// The cookie of the socket that an answer is about, if it is the connection with these ends.
fn connection_cookie(message: &[u8], local: SocketAddr, remote: SocketAddr) -> Option<[u8; 8]> {
    let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    let found = parse(message)?;
    let is_it = found.local == canonical(local) && found.remote == canonical(remote);
    let lives = message.get(1).is_some_and(|state| u32::from(*state) != TCP_TIME_WAIT);
    if is_it && lives { message.get(44..52)?.try_into().ok() } else { None }
}

/// `inet_diag_req_v2`: family, TCP, any state, the four-tuple, the interface that it is bound to or 0, and the
/// cookie of the one that is meant.
fn exact(
    kind: u16,
    flags: u16,
    local: SocketAddr,
    remote: SocketAddr,
    interface: u32,
    cookie: [u8; 8],
) -> Vec<u8> {
    let address = |address: IpAddr| {
        let mut bytes = [0; 16];
        match address {
            IpAddr::V4(v4) => bytes[..4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => bytes = v6.octets(),
        }
        bytes
    };
    let family = if local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut bytes = Vec::with_capacity(56);
    bytes.extend([u8::try_from(family).unwrap_or_default(), 6, 0, 0]);
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend(local.port().to_be_bytes());
    bytes.extend(remote.port().to_be_bytes());
    bytes.extend(address(local.ip()));
    bytes.extend(address(remote.ip()));
    bytes.extend(interface.to_ne_bytes());
    bytes.extend(cookie);
    netlink::message(kind, flags, &bytes)
}

/// `inet_diag_req_v2`: family, TCP, what is to be told besides, a set of states, wildcard id.
fn request(family: u8, states: u32, more: u8) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(56);
    bytes.extend([family, 6, more, 0]);
    bytes.extend(states.to_ne_bytes());
    bytes.extend([0; 48]);
    netlink::message(SOCK_DIAG_BY_FAMILY, REQUEST_DUMP, &bytes)
}

fn parse(message: &[u8]) -> Option<Established> {
    let family = i32::from(*message.first()?);
    let port = |at: usize| Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?));
    let address = |at: usize| -> Option<IpAddr> {
        if family == libc::AF_INET {
            let octets: [u8; 4] = message.get(at..at + 4)?.try_into().ok()?;
            Some(Ipv4Addr::from(octets).into())
        } else {
            let octets: [u8; 16] = message.get(at..at + 16)?.try_into().ok()?;
            Some(Ipv6Addr::from(octets).to_canonical())
        }
    };
    let local = SocketAddr::new(address(8)?, port(4)?);
    let remote = SocketAddr::new(address(24)?, port(6)?);
    let cgroup = netlink::attribute(message.get(MESSAGE..)?, ATTRIBUTE_CGROUP)
        .and_then(|bytes| Some(u64::from_ne_bytes(bytes.try_into().ok()?)));
    Some(Established { local, remote, cgroup })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_connection_is_listed_with_both_ends_and_its_cgroup() {
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(loopback).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let _server = listener.accept().unwrap();
            let is_mine = |c: &Established| {
                c.local == client.local_addr().unwrap() && c.remote == client.peer_addr().unwrap()
            };
            let Found { connections, more } = established(1, is_mine).unwrap();
            let [mine] = connections.as_slice() else { panic!("{connections:?}") };
            assert!(!more && established(0, is_mine).unwrap().more);
            assert_eq!(mine.cgroup, Some(crate::cgroup::own().unwrap().id()));
            let (from, to) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
            assert_eq!(cgroup_of_listener(from.ip(), to).unwrap(), mine.cgroup);
            assert_eq!(cgroup_of_listener(to.ip(), from).unwrap(), None, "nobody listens there");
            assert!(listening().unwrap().contains(&listener.local_addr().unwrap().port()));
            io::Write::write_all(&mut &client, b"twelve bytes").unwrap();
            let ends = (client.local_addr().unwrap(), client.peer_addr().unwrap());
            let sent = counted(usize::MAX).unwrap().into_iter().find(|c| (c.local, c.remote) == ends);
            assert_eq!(sent.map(|c| (c.sent, c.received, c.retransmits)), Some((12, 0, 0)));
            // By loopback; the handshake alone gives one.
            let rtt = sent.map(|c| c.rtt_us).unwrap();
            assert!((1..1_000_000).contains(&rtt), "{rtt}");
            client.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(open(usize::MAX, is_mine).unwrap().connections.len(), 1);
            // Its end is no payload of the other one's.
            let other = counted(usize::MAX).unwrap().into_iter().find(|c| (c.remote, c.local) == ends);
            assert_eq!(other.map(|c| (c.sent, c.received)), Some((0, 12)));
            assert!(counted(1).is_err(), "both ends are here, and one is not all");
        }
    }

    #[test]
    fn a_connect_is_answered_where_somebody_listens() {
        for [loopback, other] in [["127.0.0.1:0", "127.0.0.7:0"], ["[::1]:0", "[::1]:0"]] {
            let listener = TcpListener::bind(loopback).unwrap();
            let address = listener.local_addr().unwrap();
            let mut source: SocketAddr = other.parse().unwrap();
            // Whichever, but the listener's own.
            source.set_port(address.port() ^ 1);
            assert!(is_answered(source, address).unwrap());
            drop(listener);
            assert!(!is_answered(source, address).unwrap());
        }
    }

    #[test]
    fn a_destroyed_connection_is_a_reset_for_the_other_end_and_gone() {
        use std::io::Read;
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(loopback).unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            let (local, remote) = (server.local_addr().unwrap(), server.peer_addr().unwrap());
            assert!(destroy(local, remote).unwrap());
            assert_eq!(client.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
            assert_eq!(server.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
            assert!(!destroy(local, remote).unwrap());
            // Whoever listens on one of these ends has nothing to do with it.
            let mut again = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, _) = listener.accept().unwrap();
            drop(server);
            assert_eq!(again.read(&mut [0]).unwrap(), 0);
        }
    }
}
