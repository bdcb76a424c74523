//! The node's own listeners: made here, or inherited from the agent that is taken over from.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::admin::{self, AdminError};

/// All of them, non-blocking.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) tunnels: TcpListener,
    pub(super) metrics: TcpListener,
    pub(super) admin: UnixListener,
    pub(super) handover: UnixListener,
}

/// Where a successor asks for the listeners: beside the admin socket. Who answers there is the agent in
/// charge; one that only drains does not.
pub(super) fn handover_path(admin: &Path) -> PathBuf {
    admin.with_extension("handover")
}

impl Listeners {
    /// Makes them.
    ///
    /// # Errors
    /// When another agent is in charge here, or one cannot be made; names it, and the flag that gives another.
    pub(super) async fn bind(
        admin: &Path,
        tunnels: SocketAddr,
        window: u32,
        metrics: SocketAddr,
    ) -> anyhow::Result<Self> {
        let handover_at = handover_path(admin);
        if admin::answers(&handover_at).await {
            return Err(AdminError::InUse { path: admin.to_owned() }.into());
        }
        let handover = admin::bind(&handover_at)?.into_std()?;
        let admin = admin::bind(admin)?.into_std()?;
        let metrics = lark_sys::socket::listen(metrics).with_context(|| {
            format!(
                "cannot listen for metrics on {metrics}; is the port in use? --metrics-listen gives another"
            )
        })?;
        let tunnels = lark_sys::socket::listen_bounded(tunnels, window).with_context(|| {
            format!("cannot listen for tunnels on {tunnels}; is another agent running, or the address not this node's? --tunnel-listen gives another")
        })?;
        Ok(Self { tunnels, metrics, admin, handover })
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

/// The file of a Unix socket, which another agent may have replaced by its own meanwhile.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    own: Option<(u64, u64)>,
}

impl SocketFile {
    /// The one that is there now.
    pub(super) fn of(path: &Path) -> Self {
        Self { path: path.to_owned(), own: identity(path) }
    }

    /// Removes it, unless it is another's now.
    pub(super) fn remove(&self) {
        if self.own.is_some() && identity(&self.path) == self.own {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_another_agent_has_replaced_stays() -> std::io::Result<()> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("admin.sock");
        let _first = UnixListener::bind(&path)?;
        let first = SocketFile::of(&path);
        std::fs::rename(&path, directory.path().join("aside"))?;
        let _second = UnixListener::bind(&path)?;
        let second = SocketFile::of(&path);
        first.remove();
        assert!(path.exists());
        second.remove();
        assert!(!path.exists());
        second.remove();
        Ok(())
    }
}
