//! The agent's listeners inside a pod's namespace.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use lark_abi::{Address, PodEntry};

use super::pod::Pod;

/// Which connects a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// To IPv4 destinations.
    V4,
    /// To IPv6 destinations.
    V6,
}

/// A listener for one worker.
#[derive(Debug)]
pub struct PodListener {
    /// The listening socket.
    pub socket: TcpListener,
    /// The worker it is for.
    pub worker: usize,
}

impl PodListener {
    /// The port in the pod.
    pub(super) fn port(&self) -> Option<u16> {
        self.socket.local_addr().ok().map(|address| address.port())
    }
}

/// Why a pod has no listeners.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListenError {
    /// Its namespace cannot be entered.
    #[error(transparent)]
    Namespace(#[from] lark_sys::netns::NetNsError),
    /// Its loopback is down: redirected connects would leave by the default route.
    #[error("127.0.0.1 does not answer in the pod's network namespace; its loopback interface must be up")]
    NoLoopback,
    /// A socket could not listen.
    #[error("no listener at {address} in the pod's network namespace: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Opens a pod's listeners and describes them to the connect hooks: one a worker on 127.0.0.1 and, where
/// the pod has IPv6, on ::1; and one on each family's own address for sockets bound to a device.
pub(super) fn open(pod: &Pod, workers: usize) -> Result<(Vec<PodListener>, PodEntry), ListenError> {
    pod.netns.within(|| {
        if !lark_sys::socket::loopback_is_up() {
            return Err(ListenError::NoLoopback);
        }
        let mut listeners = Vec::new();
        let mut listen = |ip: IpAddr, worker: usize| {
            let address = SocketAddr::new(ip, 0);
            let socket = lark_sys::socket::listen(address)
                .map_err(|source| ListenError::Listen { address, source })?;
            let port = socket.local_addr().map_err(|source| ListenError::Listen { address, source })?.port();
            listeners.push(PodListener { socket, worker });
            Ok::<u16, ListenError>(port)
        };
        let mut entry = PodEntry {
            pod_id: pod.id,
            workers: u32::try_from(workers).unwrap_or(1),
            ..own_addresses(&pod.addresses)
        };
        for worker in 0..workers {
            let v4 = listen(Ipv4Addr::LOCALHOST.into(), worker)?;
            // Without IPv6 in the namespace there is nothing to capture either.
            let v6 = listen(Ipv6Addr::LOCALHOST.into(), worker).unwrap_or(0);
            if let (Some(slot4), Some(slot6)) =
                (entry.loopback_v4.get_mut(worker), entry.loopback_v6.get_mut(worker))
            {
                (*slot4, *slot6) = (v4, v6);
            }
        }
        if let Some(ip) = own(&pod.addresses, true) {
            entry.device_v4 = listen(ip, 0)?;
        }
        if let Some(ip) = own(&pod.addresses, false) {
            entry.device_v6 = listen(ip, 0)?;
        }
        Ok((listeners, entry))
    })?
}

fn own(addresses: &[IpAddr], v4: bool) -> Option<IpAddr> {
    addresses.iter().map(IpAddr::to_canonical).find(|a| a.is_ipv4() == v4)
}

/// An entry that knows the pod's addresses and nothing else.
pub(super) fn own_addresses(addresses: &[IpAddr]) -> PodEntry {
    PodEntry {
        own_v4: own(addresses, true).map_or(Address::UNSPECIFIED, Address::from),
        own_v6: own(addresses, false).map_or(Address::UNSPECIFIED, Address::from),
        ..PodEntry::default()
    }
}
