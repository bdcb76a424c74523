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
    let socket =
        Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A non-blocking TCP socket in the calling thread's namespace, bound to a loopback source of the
/// destination's family. IPv4 sources are spread over 127/8 by `spread`, since each has its own
/// range of ports; the port itself is chosen at connect (IP_BIND_ADDRESS_NO_PORT).
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
    let on: libc::c_int = 1;
    let size = libc::socklen_t::try_from(size_of_val(&on)).unwrap_or_default();
    // SAFETY: the descriptor is open for the call, and the pointer and size describe `on`, which
    // outlives it.
    let result = unsafe {
        libc::setsockopt(
            std::os::fd::AsRawFd::as_raw_fd(socket),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            std::ptr::from_ref(&on).cast(),
            size,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn dialling_socket(destination: IpAddr) -> io::Result<Socket> {
    let domain = if destination.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))
}

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
