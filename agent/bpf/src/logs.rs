//! The programs' rare messages, by aya-log.

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::unix::AsyncFd;

/// Polls the programs' ring buffer from the current runtime and hands messages to the `log` crate,
/// which tracing collects. An object without messages has none, which is no error.
pub(crate) fn spawn(ebpf: &mut Ebpf) {
    let logger = match EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(error) => {
            tracing::debug!(%error, "the programs have no log buffer");
            return;
        }
    };
    // SAFETY: the logger owns the ring buffer's descriptor and keeps it open until it is dropped, which
    // is after the registration that owns the logger.
    let Ok(mut logger) = (unsafe { AsyncFd::register(logger) }) else { return };
    tokio::spawn(async move {
        while let Ok(mut guard) = logger.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    });
}
