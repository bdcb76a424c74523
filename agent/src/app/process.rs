//! What every role of the binary needs of its process: runtime, logs, signals, the last word.

use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;

/// How long starting up may take until it counts as over in any case: a pod may wait for its certificate for
/// good.
const SETTLED: Duration = Duration::from_secs(10);

/// How often is looked whether there is anything to do.
const LOOK: Duration = Duration::from_secs(2);
/// How long there must have been nothing: the first connection after it waits for its code to be
/// mapped again, which was not measured.
const QUIET: Duration = Duration::from_secs(10);
/// CPU time in a [`LOOK`] that counts as nothing to do, one part in a hundred of a core.
const NOTHING: Duration = Duration::from_millis(20);

pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Before anything secret is read or made: nobody gets this process's memory, in a core file or otherwise.
///
/// # Errors
/// When the system refuses; then nothing secret may be touched.
pub fn keep_private() -> anyhow::Result<()> {
    lark_sys::memory::keep_private()
        .context("core dumps of this process, which holds keys, cannot be turned off")
}

/// Tells a service manager, if one started us, that this process serves. That it cannot be told stops
/// nothing.
pub fn service_ready() {
    told(lark_sys::service::ready());
}

/// Tells a service manager that this process stops; not to be told by one that another takes over from.
pub fn service_stopping() {
    told(lark_sys::service::stopping());
}

fn told(result: std::io::Result<()>) {
    if let Err(error) = result {
        tracing::warn!(%error, "the service manager at $NOTIFY_SOCKET cannot be told");
    }
}

/// Lets go of code that is not run and memory that is not used: once starting up is over, when `ready` says that every
/// pod is captured or after [`SETTLED`], and from then on whenever the agent has had nothing to do for [`QUIET`].
pub(super) async fn let_go(mut ready: watch::Receiver<bool>) {
    let _ = tokio::time::timeout(SETTLED, ready.wait_for(|ready| *ready)).await;
    let mut idle = Idle::default();
    loop {
        lark_sys::memory::let_go_of_free_memory();
        if let Err(error) = lark_sys::memory::let_go_of_code() {
            tracing::debug!(%error, "code that is not run stays mapped, some MiB of memory");
        }
        loop {
            tokio::time::sleep(LOOK).await;
            if idle.begins(lark_sys::cpu::used()) {
                break;
            }
        }
    }
}

/// Whether a process that is looked at each [`LOOK`] has nothing to do.
#[derive(Debug, Default)]
struct Idle {
    used: Duration,
    quiet: Duration,
    /// Used since it was last found quiet: some of what was let go of has come back.
    since: Duration,
}

impl Idle {
    /// Whether it has had nothing to do for [`QUIET`] now, once for each time that it had something.
    fn begins(&mut self, used: Duration) -> bool {
        let spent = used.saturating_sub(std::mem::replace(&mut self.used, used));
        self.since = self.since.saturating_add(spent);
        self.quiet = if spent > NOTHING { Duration::ZERO } else { self.quiet.saturating_add(LOOK) };
        let begins = self.quiet >= QUIET && self.since > NOTHING;
        if begins {
            (self.quiet, self.since) = (Duration::ZERO, Duration::ZERO);
        }
        begins
    }
}

/// Resolves at SIGTERM or SIGINT.
pub async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Runs a future on a runtime of the calling thread, which takes local tasks too.
///
/// # Errors
/// The future's, or when there is no runtime.
pub fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build_local(tokio::runtime::LocalOptions::default())?.block_on(future)
}

/// The last word of a failed command: one line on standard error.
pub fn complain(error: &anyhow::Error) {
    use std::io::Write;
    let mut line = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        // Many errors say their cause themselves.
        if !line.contains(&cause) {
            line.push_str(": ");
            line.push_str(&cause);
        }
    }
    // The system's words alone help nobody.
    let system = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    if let Some(system) = system.filter(|system| line.ends_with(&system.to_string())) {
        let bare = line.len() - system.to_string().len();
        let told = lark_core::explain::told(system, system.raw_os_error());
        line.truncate(bare);
        line.push_str(&told);
    }
    let _ = writeln!(std::io::stderr().lock(), "lark: {line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_let_go_of_once_for_each_time_of_quiet() {
        let (mut idle, mut used) = (Idle::default(), Duration::ZERO);
        let mut looks = |count: u32, work: Duration| {
            (0..count)
                .filter(|_| {
                    used += work;
                    idle.begins(used)
                })
                .count()
        };
        let (little, much) = (NOTHING / 2, NOTHING * 2);
        let quiet = u32::try_from(QUIET.as_millis() / LOOK.as_millis()).unwrap();
        assert_eq!(looks(1, much), 0);
        assert_eq!(looks(quiet - 1, Duration::ZERO), 0);
        assert_eq!(looks(1, Duration::ZERO), 1);
        assert_eq!(looks(10 * quiet, Duration::ZERO), 0, "nothing has come back since");
        assert_eq!(looks(10 * quiet, little), 10, "a little at a time comes back too");
        assert_eq!(looks(10 * quiet, much), 0);
    }
}
