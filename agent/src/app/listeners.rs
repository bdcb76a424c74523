//! The node's own listeners: made here, or inherited from the agent that is taken over from.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::admin;

/// All of them, non-blocking.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) tunnels: TcpListener,
    pub(super) metrics: TcpListener,
    pub(super) admin: UnixListener,
    pub(super) handover: UnixListener,
}

/// Where a successor asks for the listeners: beside the admin socket.
pub(super) fn handover_path(admin: &Path) -> PathBuf {
    admin.with_extension("handover")
}

impl Listeners {
    /// Makes them.
    ///
    /// # Errors
    /// When one cannot be made; names it, and the flag that gives another.
    pub(super) async fn bind(admin: &Path, tunnels: SocketAddr, metrics: SocketAddr) -> anyhow::Result<Self> {
        let admin_listener = admin::bind(admin).await?;
        let handover = admin::bind(&handover_path(admin)).await?;
        let metrics = lark_sys::socket::listen(metrics).with_context(|| {
            format!(
                "cannot listen for metrics on {metrics}; is the port in use? --metrics-listen gives another"
            )
        })?;
        let tunnels = lark_sys::socket::listen(tunnels).with_context(|| {
            format!("cannot listen for tunnels on {tunnels}; is another agent running, or the address not this node's? --tunnel-listen gives another")
        })?;
        Ok(Self { tunnels, metrics, admin: admin_listener.into_std()?, handover: handover.into_std()? })
    }

    /// For a successor, in the order in which [`Self::inherit`] takes them.
    pub(super) fn descriptors(&self) -> [BorrowedFd<'_>; 4] {
        [self.tunnels.as_fd(), self.metrics.as_fd(), self.admin.as_fd(), self.handover.as_fd()]
    }

    /// From a predecessor's descriptors; `None` if they are not as many as they should be.
    pub(super) fn inherit(descriptors: Vec<OwnedFd>) -> Option<Self> {
        let [tunnels, metrics, admin, handover] = <[OwnedFd; 4]>::try_from(descriptors).ok()?;
        Some(Self {
            tunnels: tunnels.into(),
            metrics: metrics.into(),
            admin: admin.into(),
            handover: handover.into(),
        })
    }
}
