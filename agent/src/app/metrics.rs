//! Metrics and health, on a thread of their own: anybody may ask for them, as often as he likes, and takes none of the
//! control runtime's turns by that, but for the locks of what is counted.

use std::net::TcpListener;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::process::block_on;
use super::vital::Guard;
use crate::admin::{self, Source};

/// The thread, for as long as this is held.
pub(super) struct Metrics(oneshot::Sender<()>);

impl Metrics {
    /// Nobody is answered any more.
    pub(super) fn end(self) {
        drop(self.0);
    }
}

/// Serves them, and has `guard` dropped should that ever end by itself.
pub(super) fn start(
    listener: TcpListener,
    source: Arc<dyn Source>,
    guard: Guard,
) -> std::io::Result<Metrics> {
    let (held, ended) = oneshot::channel();
    let serve = async move {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        tokio::select! {
            () = admin::serve_metrics(listener, source) => {}
            _ = ended => {}
        }
        Ok(())
    };
    let turn = move || {
        let _guard = guard;
        if let Err(error) = block_on(serve) {
            tracing::error!(error = format!("{error:#}"), "metrics and health cannot be served");
        }
    };
    std::thread::Builder::new().name("lark-metrics".to_owned()).spawn(turn)?;
    Ok(Metrics(held))
}
