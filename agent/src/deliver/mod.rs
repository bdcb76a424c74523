//! The last step: a connection from inside the destination pod's own namespace, whose application is
//! told the true source.

mod ready;

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lark_bpf::Claims;
use lark_core::constants::DELIVER_TIMEOUT;
use lark_core::explain::told;
use lark_core::reason::Reason;
use lark_sys::connections::{cgroup_of_listener, is_answered};
use lark_sys::socket::{begin_connect, delivery_socket, plain_socket};
use tokio::net::TcpStream;

use crate::capture::Pod;

use ready::{Family, Ready};

/// How often sockets that nobody took are closed.
const TIDY_EVERY: Duration = Duration::from_millis(500);

/// Why a dial led nowhere.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The pod's hooks are gone, so its application could not be told who calls.
    #[error("the hooks of {pod} are not attached; `lark check` says why")]
    HooksNotLive {
        /// The pod.
        pod: String,
    },
    /// The agent itself listens there.
    #[error("{address} is a listener of the agent's own in {pod}")]
    OwnListener {
        /// Where to.
        address: SocketAddr,
        /// The pod.
        pod: String,
    },
    /// Its namespace cannot be entered.
    #[error(transparent)]
    Namespace(#[from] lark_sys::netns::NetNsError),
    /// The claimed source could not be recorded.
    #[error("the source address could not be recorded: {0}")]
    Claim(#[from] lark_bpf::MapError),
    /// The claim was not published when the socket connected.
    #[error(
        "the source address was not handed over in the kernel: the map of deliveries is full or the agent's own hook was removed; see `lark bpf`"
    )]
    NotPublished,
    /// The application's listener does not run the pod's hooks.
    #[error(
        "the listener of {address} was made outside of the cgroup of {pod} (by socket activation, perhaps), so its application cannot be told who calls; let it make its listener itself"
    )]
    ForeignListener {
        /// Where to.
        address: SocketAddr,
        /// The pod.
        pod: String,
    },
    /// It did not answer.
    #[error("{address} did not accept a connection within {limit:?}")]
    TimedOut {
        /// Where to.
        address: SocketAddr,
        /// The limit.
        limit: Duration,
    },
    /// It refused.
    #[error("nothing listens on {address} in the pod")]
    Refused {
        /// Where to.
        address: SocketAddr,
    },
    /// Something else.
    #[error("connecting to {address} failed: {}", told(source, source.raw_os_error()))]
    Failed {
        /// Where to.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

impl DialError {
    /// The reason of the closed set.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::HooksNotLive { .. } | Self::NotPublished | Self::ForeignListener { .. } => {
                Reason::HooksNotLive
            }
            Self::OwnListener { .. } => Reason::AuthorityAgent,
            Self::TimedOut { .. } => Reason::DialTimeout,
            Self::Refused { .. } => Reason::DialRefused,
            Self::Namespace(_) | Self::Claim(_) | Self::Failed { .. } => Reason::DialFailed,
        }
    }
}

/// A worker's way to applications.
pub struct Dial {
    claims: RefCell<Claims>,
    ready: RefCell<Ready<std::net::TcpStream>>,
}

impl std::fmt::Debug for Dial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dial")
    }
}

impl Dial {
    /// With a worker's own descriptor of the map of claims.
    pub fn new(claims: Claims) -> Self {
        Self { claims: RefCell::new(claims), ready: RefCell::default() }
    }

    /// Closes sockets that were made ahead and are not needed, for ever: a namespace must not live long
    /// because of them.
    pub async fn tidy(&self) {
        loop {
            tokio::time::sleep(TIDY_EVERY).await;
            self.ready.borrow_mut().sweep();
        }
    }

    /// Closes what was made ahead for a pod that is no more.
    pub fn forget(&self, pod: u32) {
        self.ready.borrow_mut().forget(pod);
    }

    /// Connects to an address of `pod` from a loopback source inside its namespace; `source` is what the
    /// application will be told.
    ///
    /// # Errors
    /// When there is no connection; nothing was sent then.
    pub async fn deliver(
        self: &Rc<Self>,
        pod: &Arc<Pod>,
        address: SocketAddr,
        source: SocketAddr,
    ) -> Result<TcpStream, DialError> {
        if !pod.hooks_live() {
            return Err(DialError::HooksNotLive { pod: pod.name.clone() });
        }
        if pod.is_listener(address.port()) {
            return Err(DialError::OwnListener { address, pod: pod.name.clone() });
        }
        let socket = self.socket(pod, address)?;
        self.claims.borrow_mut().claim(&socket, source)?;
        let nobody = |socket: &std::net::TcpStream| address.is_ipv6() && nobody_listens(pod, socket, address);
        let stream = connect(socket, address, nobody).await?;
        if !self.claims.borrow().is_published(&stream)? {
            return Err(DialError::NotPublished);
        }
        self.ensure_told(pod, &stream, address)?;
        Ok(stream)
    }

    /// Makes sure that the application is told who calls, or will be when it is there: its hook takes that as its end of
    /// the connection is made. One that has not, for the application has more to accept than it may, or waits for the
    /// first byte, is known by the cgroup of its listener.
    ///
    /// # Errors
    /// When it is not told, or it cannot be known.
    fn ensure_told(&self, pod: &Pod, stream: &TcpStream, address: SocketAddr) -> Result<(), DialError> {
        let failed = |source| DialError::Failed { address, source };
        let source = stream.local_addr().map_err(failed)?;
        let netns = pod.netns_cookie().map_err(failed)?;
        if self.claims.borrow().is_taken(netns, source, address)? {
            return Ok(());
        }
        match pod.netns.within(|| cgroup_of_listener(source.ip(), address))?.map_err(failed)? {
            Some(id) if pod.cgroup.ids_below().contains(&id) => Ok(()),
            Some(_) => Err(DialError::ForeignListener { address, pod: pod.name.clone() }),
            // It has closed meanwhile.
            None => Err(DialError::Refused { address }),
        }
    }

    /// A socket inside the pod's namespace, made for this delivery or ahead of it.
    fn socket(
        self: &Rc<Self>,
        pod: &Arc<Pod>,
        address: SocketAddr,
    ) -> Result<std::net::TcpStream, DialError> {
        let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
        let taken = self.ready.borrow_mut().take(pod.id, family, |count| make(pod, address, count))?;
        if taken.is_last {
            self.make_more(pod, address, family);
        }
        // As many were made as were asked for.
        taken.socket.ok_or_else(|| DialError::Failed { address, source: io::ErrorKind::NotFound.into() })
    }

    /// Makes sockets for the next deliveries, in a task of its own: this one goes first.
    fn make_more(self: &Rc<Self>, pod: &Arc<Pod>, address: SocketAddr, family: Family) {
        let (dial, pod) = (self.clone(), pod.clone());
        tokio::task::spawn_local(async move {
            let added = dial.ready.borrow_mut().add(pod.id, family, |count| make(&pod, address, count));
            if let Err(error) = added {
                // The next delivery makes its own, or fails by the same.
                tracing::debug!(pod = pod.name, %error, "no sockets made ahead");
            }
        });
    }

    /// Connects to an address outside the mesh from inside `pod`'s namespace, as the pod would.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn pass_through(&self, pod: &Pod, address: SocketAddr) -> Result<TcpStream, DialError> {
        let socket = pod
            .netns
            .within(|| plain_socket(address.ip()))?
            .map_err(|source| DialError::Failed { address, source })?;
        connect(socket, address, |_| false).await
    }
}

/// Sockets for deliveries to a pod, in one visit of its namespace; of the address only the family counts.
fn make(pod: &Pod, address: SocketAddr, count: usize) -> Result<Vec<std::net::TcpStream>, DialError> {
    let one = |_| delivery_socket(address.ip(), pod.next_source());
    let made = pod.netns.within(|| (0..count).map(one).collect::<io::Result<_>>())?;
    made.map_err(|source| DialError::Failed { address, source })
}

/// Whether a delivery that is not answered at once never will be: to `::1` the kernel's reset does not arrive
/// ([`lark_abi::Address::loses_resets_of`]), so the kernel is asked for who would answer.
fn nobody_listens(pod: &Pod, socket: &std::net::TcpStream, address: SocketAddr) -> bool {
    let Ok(source) = socket.local_addr() else { return false };
    // What cannot be found out is waited for.
    pod.netns.within(|| is_answered(source, address)).is_ok_and(|answered| matches!(answered, Ok(false)))
}

/// Connects; `is_vain` is asked if that is not over at once, and true makes it a refusal.
async fn connect(
    socket: std::net::TcpStream,
    address: SocketAddr,
    is_vain: impl FnOnce(&std::net::TcpStream) -> bool,
) -> Result<TcpStream, DialError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::ConnectionRefused => DialError::Refused { address },
        _ => DialError::Failed { address, source },
    };
    let is_connected = begin_connect(&socket, address).map_err(failed)?;
    if !is_connected && is_vain(&socket) {
        return Err(DialError::Refused { address });
    }
    let stream = TcpStream::from_std(socket).map_err(failed)?;
    if !is_connected {
        let connected = async {
            stream.writable().await?;
            stream.take_error()?.map_or(Ok(()), Err)
        };
        tokio::time::timeout(DELIVER_TIMEOUT, connected)
            .await
            .map_err(|_| DialError::TimedOut { address, limit: DELIVER_TIMEOUT })?
            .map_err(failed)?;
    }
    Ok(stream)
}
