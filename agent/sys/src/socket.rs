//! Listeners and dialling sockets as the data path needs them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Connections the kernel queues before `accept`; it caps this at net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// A non-blocking listener in the calling thread's namespace. SO_REUSEADDR so that a restarted
/// agent gets its port back; never SO_REUSEPORT, which would let a pod's root join the group.
///
/// # Errors
/// What the system says; `AddrInUse` when somebody has the port.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    listen_as(address, |_| Ok(()))
}

/// The same for connections of other agents, with [`bound_queues`].
///
/// # Errors
/// As of [`listen`], and of [`bound_queues`].
pub fn listen_bounded(address: SocketAddr, window: u32) -> io::Result<TcpListener> {
    listen_as(address, |socket| bound_queues(socket, window))
}

fn listen_as(
    address: SocketAddr,
    prepare: impl FnOnce(&Socket) -> io::Result<()>,
) -> io::Result<TcpListener> {
    let socket =
        Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    prepare(&socket)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A non-blocking TCP socket in the calling thread's namespace, prepared for a pod's bytes and bound to a
/// loopback source of the destination's family. IPv4 sources are spread over 127/8 by `spread`, since each
/// has its own range of ports; the port itself is chosen at connect (IP_BIND_ADDRESS_NO_PORT).
///
/// # Errors
/// What the system says.
pub fn delivery_socket(destination: IpAddr, spread: u32) -> io::Result<TcpStream> {
    let source = match destination {
        // 127.1.0.1 to 127.200.255.254: never 127.0.0.0/16, where applications listen.
        IpAddr::V4(_) => {
            let [_, a, b, c] = spread.wrapping_mul(0x9e37_79b1).to_be_bytes();
            IpAddr::V4(Ipv4Addr::new(127, 1 + a % 200, b, 1 + c % 254))
        }
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    let socket = dialling_socket(destination)?;
    prepare_for_pod(&socket);
    bind_address_no_port(&socket)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    Ok(socket.into())
}

/// A non-blocking TCP socket in the calling thread's namespace, bound to nothing.
///
/// # Errors
/// What the system says.
pub fn plain_socket(destination: IpAddr) -> io::Result<TcpStream> {
    Ok(dialling_socket(destination)?.into())
}

/// IP_BIND_ADDRESS_NO_PORT (Linux 4.2, ip(7)); for IPv6 sockets too.
fn bind_address_no_port(socket: &Socket) -> io::Result<()> {
    set_int(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

/// setsockopt(2) for options that no library of ours has.
fn set_int(
    socket: &impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or_default();
    // SAFETY: the descriptor is open for the call, and the pointer and size describe `value`, which
    // outlives it.
    let result = unsafe {
        libc::setsockopt(
            std::os::fd::AsRawFd::as_raw_fd(&socket.as_fd()),
            level,
            option,
            std::ptr::from_ref(&value).cast(),
            size,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn dialling_socket(destination: IpAddr) -> io::Result<Socket> {
    let domain = if destination.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))
}

/// Begins to connect a non-blocking socket. True if that is done already, as it is on loopback: there the
/// handshake happens inside the call, and whoever waited for an event would lose a turn. False if it is
/// under way; the socket becomes writable when it is over.
///
/// # Errors
/// What the system says, a refusal that came at once among it.
pub fn begin_connect(socket: &TcpStream, address: SocketAddr) -> io::Result<bool> {
    match rustix::net::connect(socket, &address) {
        Ok(()) => return Ok(true),
        Err(rustix::io::Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let mut wanted = [rustix::event::PollFd::new(socket, rustix::event::PollFlags::OUT)];
    let now = rustix::event::Timespec::default();
    if rustix::event::poll(&mut wanted, Some(&now))? == 0 {
        return Ok(false);
    }
    match socket.take_error()? {
        Some(error) => Err(error),
        None => Ok(true),
    }
}

/// Reads what is there. For a socket that no event has been heard of yet.
///
/// # Errors
/// What the system says; `WouldBlock` when nothing is there.
pub fn read_now(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::net::recv(socket, buffer, rustix::net::RecvFlags::DONTWAIT)?.0)
}

/// Writes as much as is taken. For a socket that no event has been heard of yet.
///
/// # Errors
/// What the system says; `WouldBlock` when nothing is taken.
pub fn write_now(socket: &impl AsFd, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
    Ok(rustix::io::writev(socket, slices)?)
}

/// Makes a socket, or all that a listener will accept, ready to carry a pod's bytes: no delay for small
/// writes, a congestion control that does not pace on loopback, and a close that is a reset, since a pod
/// must not take an error for an end; and urgent data in its place. Accepted sockets inherit all of it (tcp(7); tcp_ca_openreq_child and
/// sk_clone_lock in Linux 5.10).
pub fn prepare_for_pod(socket: &impl AsFd) {
    set_nodelay(socket);
    set_congestion(socket, LOOPBACK_CONGESTION);
    reset_on_close(socket);
    keep_urgent_in_line(socket);
}

/// Lets reads find urgent data in its place among the other bytes (SO_OOBINLINE), of which it would be missing.
pub fn keep_urgent_in_line(socket: &impl AsFd) {
    // Fails only on what is no socket, and then there is nothing to read.
    let _ = SockRef::from(socket).set_out_of_band_inline(true);
}

/// What never leaves the machine must not be paced, as BBR does it: that halves loopback.
const LOOPBACK_CONGESTION: &str = "reno";

/// Makes the close of this socket a reset (SO_LINGER of zero): the other end must not take an
/// error for an end.
pub fn reset_on_close(socket: &impl AsFd) {
    // Fails only on what is no socket, and then there is nothing to reset.
    let _ = SockRef::from(socket).set_linger(Some(std::time::Duration::ZERO));
}

/// Makes the close of this socket an end again.
pub fn end_on_close(socket: &impl AsFd) {
    // Fails only on what is no socket, and then there is nothing to end.
    let _ = SockRef::from(socket).set_linger(None);
}

/// Sets the congestion control by name, if the kernel has it. On loopback legs this is worth
/// having (BBR paces there), never worth failing for.
pub fn set_congestion(socket: &impl AsFd, name: &str) {
    let _ = SockRef::from(socket).set_tcp_congestion(name.as_bytes());
}

/// No delay for small writes: whoever writes batches already.
pub fn set_nodelay(socket: &impl AsFd) {
    let _ = SockRef::from(socket).set_tcp_nodelay(true);
}

/// Bounds what of a connection between agents waits in the kernel: bytes that it has not sent yet, and
/// `window` bytes that the other end has not read yet. All streams of a tunnel share the connection, so whatever
/// waits there comes before the next small message of any of them. To be called before connect or listen, since
/// the window's scale and clamp are settled by then (`tcp_select_initial_window`, net/ipv4/tcp_output.c); what a
/// listener accepts inherits it. 0 leaves the window to the kernel.
///
/// # Errors
/// What the system says. Without CAP_NET_ADMIN the window ends at net.core.rmem_max.
pub fn bound_queues(socket: &impl AsFd, window: u32) -> io::Result<()> {
    set_int(socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, UNSENT_MAX)?;
    if window > 0 {
        // The kernel doubles it, and takes about half of that for its own account of the bytes. The second goes
        // up to net.core.rmem_max.
        let window = usize::try_from(window).unwrap_or(usize::MAX);
        rustix::net::sockopt::set_socket_recv_buffer_size_force(socket.as_fd(), window)
            .or_else(|_| rustix::net::sockopt::set_socket_recv_buffer_size(socket.as_fd(), window))?;
    }
    Ok(())
}

/// Bytes that the kernel may hold unsent: enough for the time that a writer needs to come round again.
const UNSENT_MAX: libc::c_int = 128 * 1024;

/// Whether the calling thread's namespace has 127.0.0.1 on a loopback that is up. Without it, a
/// redirect to loopback would leave by the default route.
pub fn loopback_is_up() -> bool {
    listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).is_ok_and(|listener| {
        listener
            .local_addr()
            .is_ok_and(|a| TcpStream::connect_timeout(&a, std::time::Duration::from_secs(1)).is_ok())
    })
}

/// Raises the limit of open descriptors to what the system allows, and returns it.
pub fn raise_descriptor_limit() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_spread_over_loopback_sources() {
        let sources: std::collections::HashSet<IpAddr> = (0..100)
            .map(|i| delivery_socket(Ipv4Addr::LOCALHOST.into(), i).unwrap().local_addr().unwrap().ip())
            .collect();
        assert!(sources.len() > 90, "{}", sources.len());
        assert!(sources.iter().all(|s| s.is_loopback() && *s != IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }

    #[test]
    fn a_connect_on_loopback_is_over_at_once() {
        let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let socket = delivery_socket(address.ip(), 7).unwrap();
        assert!(begin_connect(&socket, address).unwrap());
        assert_eq!(read_now(&socket, &mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(write_now(&socket, &[io::IoSlice::new(b"ab"), io::IoSlice::new(b"c")]).unwrap(), 3);
        drop(listener);
        let refused = begin_connect(&plain_socket(address.ip()).unwrap(), address).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn accepted_sockets_inherit_what_a_listener_was_prepared_with() {
        let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        listener.set_nonblocking(false).unwrap();
        prepare_for_pod(&listener);
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let accepted = SockRef::from(&accepted);
        assert!(accepted.tcp_nodelay().unwrap());
        assert_eq!(accepted.linger().unwrap(), Some(std::time::Duration::ZERO));
        assert!(accepted.out_of_band_inline().unwrap());
        let congestion = accepted.tcp_congestion().unwrap();
        assert_eq!(congestion.split(|b| *b == 0).next(), Some(LOOPBACK_CONGESTION.as_bytes()));
    }

    #[test]
    fn a_reset_is_seen_as_a_reset() {
        use std::io::Read;
        let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        listener.set_nonblocking(false).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        reset_on_close(&server);
        drop(server);
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
