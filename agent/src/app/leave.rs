//! When Lark is uninstalled. An agent that ends leaves its hooks to the next one, unless there will be none: then
//! it is the last that can take them away.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use lark_core::snapshot::Snapshot;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::admin;

/// The Service without which Lark is uninstalled: the controller's, by which agents get certificates.
pub(super) struct Leave {
    namespace: String,
    name: String,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    /// Finished once the Service was there: the absence of one that never was tells nothing.
    seen: JoinHandle<()>,
}

impl Leave {
    /// Reads the flag's value, and looks for the Service from now on.
    ///
    /// # Errors
    /// When it is of no known form.
    pub(super) fn without(service: &str, snapshot: watch::Receiver<Arc<Snapshot>>) -> anyhow::Result<Self> {
        let (namespace, name) = service
            .split_once('/')
            .filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty())
            .with_context(|| format!("--leave-without {service} must be NAMESPACE/NAME"))?;
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        let seen = tokio::spawn({
            let (mut snapshot, namespace, name) = (snapshot.clone(), namespace.clone(), name.clone());
            async move {
                if snapshot.wait_for(|s| s.service_named(&namespace, &name).is_some()).await.is_err() {
                    // Nobody will tell.
                    std::future::pending::<()>().await;
                }
            }
        });
        Ok(Self { namespace, name, snapshot, seen })
    }

    fn is_uninstalled(&self) -> bool {
        self.seen.is_finished() && self.snapshot.borrow().service_named(&self.namespace, &self.name).is_none()
    }

    /// Takes hooks, pins and what is kept for the next agent away, if Lark is uninstalled and no other agent is in
    /// charge of them by now.
    pub(super) async fn leave(&self, pins: &Path, kept: &[PathBuf], handover: &Path) {
        if !self.is_uninstalled() || admin::answers(handover).await {
            return;
        }
        let service = format!("{}/{}", self.namespace, self.name);
        match remove(pins, kept) {
            Ok(()) => {
                tracing::info!(
                    service,
                    "Lark is uninstalled: nothing of it is left in the kernel of this node"
                );
            }
            Err(error) => {
                tracing::error!(
                    service,
                    error = format!("{error:#}"),
                    "Lark is uninstalled, and something of it is left on this node: remove it by hand"
                );
            }
        }
    }
}

fn remove(pins: &Path, kept: &[PathBuf]) -> anyhow::Result<()> {
    lark_bpf::uninstall(pins).with_context(|| format!("{} cannot be removed", pins.display()))?;
    // The directory above is Lark's too, unless others have something in it.
    if let Some(above) = pins.parent() {
        let _ = std::fs::remove_dir(above);
    }
    for file in kept {
        match std::fs::remove_file(file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("{} cannot be removed", file.display()));
            }
            _ => {}
        }
    }
    Ok(())
}
