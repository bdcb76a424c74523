use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

pub(crate) use rustix::event::epoll::EventFlags as Flags;

/// Bytes of one message of echo and connect.
pub(crate) const MESSAGE: usize = 64;

/// Longest silence of a path before it is called dead.
const SILENCE: Duration = Duration::from_secs(15);

/// Events taken at a time.
const BATCH: usize = 256;

/// Level-triggered epoll; each descriptor has a number.
pub(crate) struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poll {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, events: Vec::with_capacity(BATCH) })
    }

    pub(crate) fn add(&self, socket: &impl AsFd, number: usize, flags: Flags) -> Result<()> {
        Ok(epoll::add(&self.epoll, socket, epoll::EventData::new_u64(number as u64), flags)?)
    }

    pub(crate) fn change(&self, socket: &impl AsFd, number: usize, flags: Flags) -> Result<()> {
        Ok(epoll::modify(&self.epoll, socket, epoll::EventData::new_u64(number as u64), flags)?)
    }

    pub(crate) fn remove(&self, socket: &impl AsFd) -> Result<()> {
        Ok(epoll::delete(&self.epoll, socket)?)
    }

    /// The next events, until `end` at the latest; none when it has come.
    pub(crate) fn wait(&mut self, end: Option<Instant>) -> Result<impl Iterator<Item = (usize, Flags)> + '_> {
        self.events.clear();
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        let timeout = left.map(Timespec::try_from).transpose().context("a time that is too long")?;
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.events.iter().filter_map(|e| Some((usize::try_from(e.data.u64()).ok()?, e.flags))))
    }

    /// As [`Self::wait`]; a path that stays silent is an error.
    pub(crate) fn hear(&mut self) -> Result<Vec<(usize, Flags)>> {
        let events: Vec<_> = self.wait(Some(Instant::now() + SILENCE))?.collect();
        ensure!(!events.is_empty(), "nothing came for {} s", SILENCE.as_secs());
        Ok(events)
    }
}

/// A non-blocking listener.
pub(crate) fn listen(address: SocketAddr, congestion: &str) -> Result<TcpListener> {
    let listener = lark_sys::socket::listen(address).with_context(|| format!("listen on {address}"))?;
    // Accepted sockets inherit it.
    pin(&listener, congestion)?;
    Ok(listener)
}

/// A socket whose connect has begun.
pub(crate) fn dial(to: SocketAddr, congestion: &str) -> Result<TcpStream> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(to), kind, Some(Protocol::TCP))?;
    pin(&socket, congestion)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&to.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) => return Err(error).with_context(|| format!("connect to {to}")),
    }
    Ok(socket.into())
}

/// Sockets that are all connected, and the poll that has each by its index, for `flags`.
pub(crate) fn dial_all(
    to: SocketAddr,
    count: usize,
    congestion: &str,
    flags: Flags,
) -> Result<(Poll, Vec<TcpStream>)> {
    let mut poll = Poll::new()?;
    let mut sockets = Vec::with_capacity(count);
    for number in 0..count {
        let socket = dial(to, congestion)?;
        poll.add(&socket, number, Flags::OUT)?;
        sockets.push(socket);
    }
    let mut connecting = count;
    while connecting > 0 {
        for (number, _) in poll.hear()? {
            let socket = sockets.get(number).context("an event of no socket")?;
            if let Some(error) = socket.take_error()? {
                bail!("connect to {to}: {error}");
            }
            poll.change(socket, number, Flags::empty())?;
            connecting -= 1;
        }
    }
    for (number, socket) in sockets.iter().enumerate() {
        poll.change(socket, number, flags)?;
    }
    Ok((poll, sockets))
}

fn pin(socket: &impl AsFd, congestion: &str) -> Result<()> {
    SockRef::from(socket)
        .set_tcp_congestion(congestion.as_bytes())
        .with_context(|| format!("congestion control {congestion} cannot be set; `sysctl net.ipv4.tcp_available_congestion_control` lists what can"))
}

/// What a non-blocking call did; `None` when it would block.
pub(crate) fn now<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Median and 99th percentile of times in nanoseconds, as microseconds.
pub(crate) fn percentiles(times: &mut [u64]) -> Result<(f64, f64)> {
    times.sort_unstable();
    let at = |hundredth: usize| {
        let nanos = times.get(times.len().saturating_sub(1) * hundredth / 100);
        nanos.map(|n| Duration::from_nanos(*n).as_secs_f64() * 1e6).context("nothing was measured")
    };
    Ok((at(50)?, at(99)?))
}

/// Nanoseconds since then.
pub(crate) fn nanos(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let mut times: Vec<u64> = (1..=101).rev().map(|n| n * 1000).collect();
        assert_eq!(super::percentiles(&mut times).unwrap(), (51.0, 100.0));
        assert!(super::percentiles(&mut []).is_err());
    }
}
