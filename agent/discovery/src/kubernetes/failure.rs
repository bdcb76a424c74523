//! What a failed watch means, in a word and a sentence.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::time::Duration;

use kube::runtime::watcher;
use lark_core::explain::Watch;
use tokio::time::Instant;

use super::world::{Step, Told};

/// A watch that fails for longer than this makes discovery not current; at once if who asks is not let in, the
/// server denies the kind or what it says cannot be read, which does not pass by itself.
const PATIENCE: Duration = Duration::from_secs(5);
/// A watch that has not failed for this long works: attempts are at most half a minute apart, and one that
/// hangs fails after ten seconds.
pub(super) const FORGOTTEN: Duration = Duration::from_secs(75);

/// Why a watch failed.
#[derive(Debug)]
pub(super) struct Failure {
    kind: &'static str,
    pub(super) cause: Watch,
    /// Whether it does not pass by itself.
    lasts: bool,
    said: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, cause, said, .. } = self;
        write!(f, "{kind} cannot be watched ({cause}): {said}. {}", cause.advice())
    }
}

/// Reads an error of the client.
pub(super) fn of(kind: &'static str, error: &watcher::Error) -> Failure {
    let (code, message) = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => (Some(status.code), Some(&status.message)),
        watcher::Error::WatchError(status) => (Some(status.code), Some(&status.message)),
        _ => (None, None),
    };
    let cause = match (code, error) {
        // A line of the stream that was no event: the client reads it as a status whose every field is missing.
        (Some(0), watcher::Error::WatchFailed(_)) => Watch::Unreadable,
        (Some(401), _) => Watch::Unauthorized,
        (Some(403), _) => Watch::Forbidden,
        (Some(410), _) => Watch::Expired,
        (Some(_), _) => Watch::ServerFailed,
        (None, watcher::Error::NoResourceVersion) => Watch::Unreadable,
        (
            None,
            watcher::Error::InitialListFailed(e)
            | watcher::Error::WatchStartFailed(e)
            | watcher::Error::WatchFailed(e),
        ) => client_side(e),
        (None, watcher::Error::WatchError(_)) => Watch::ServerFailed,
    };
    let said = match message.filter(|m| !m.is_empty()) {
        Some(message) => message.clone(),
        None if cause == Watch::Unreadable && code.is_some() => {
            "an event is in no form that is known".to_owned()
        }
        None => deepest(error),
    };
    let lasts = matches!(cause, Watch::Forbidden | Watch::Unauthorized | Watch::Unreadable);
    let lasts = lasts || is_absent(error);
    Failure { kind, cause, lasts, said: said.trim_end_matches('.').to_owned() }
}

fn client_side(error: &kube::Error) -> Watch {
    match error {
        kube::Error::SerdeError(_)
        | kube::Error::FromUtf8(_)
        | kube::Error::LinesCodecMaxLineLengthExceeded => Watch::Unreadable,
        kube::Error::Auth(_) => Watch::Unauthorized,
        _ => Watch::Unreachable,
    }
}

/// The cause at the bottom: what is above it only says on the way to what it happened.
pub(super) fn deepest(error: &dyn Error) -> String {
    let mut at = error;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}

/// Whether the watch cannot go on from where it was and does not notice that by itself: it was told so by
/// the answer's status and not by an event, or an event could not be read, so that what it said is missing.
pub(super) fn lost_its_place(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 410,
        watcher::Error::WatchFailed(kube::Error::Api(_)) => true,
        watcher::Error::WatchFailed(error) => client_side(error) == Watch::Unreadable,
        _ => false,
    }
}

/// Whether the cluster does not have the kind that was asked for.
pub(super) fn is_absent(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(kube::Error::Api(status))
    | watcher::Error::WatchStartFailed(kube::Error::Api(status))) = error
    else {
        return false;
    };
    status.code == 404
}

/// For how long each kind's watch has been failing.
#[derive(Debug, Default)]
pub(super) struct Streak(BTreeMap<&'static str, Failing>);

#[derive(Debug)]
struct Failing {
    since: Instant,
    last: Instant,
    lasts: bool,
    said: String,
}

impl Streak {
    /// Something arrived from a kind's watch.
    pub(super) fn heard(&mut self, told: &Told) {
        // A listing begins with an attempt, which says nothing.
        if !matches!(told.step(), Step::Listing) {
            self.0.remove(told.kind());
        }
    }

    /// A kind's watch failed. Returns whether that is new.
    pub(super) fn failed(&mut self, failure: &Failure, now: Instant) -> bool {
        self.forget(now);
        let since = self.0.get(failure.kind).map(|failing| failing.since);
        let failing = Failing {
            since: since.unwrap_or(now),
            last: now,
            lasts: failure.lasts,
            said: failure.to_string(),
        };
        self.0.insert(failure.kind, failing);
        since.is_none()
    }

    /// What makes discovery not current.
    pub(super) fn error(&mut self, now: Instant) -> Option<String> {
        self.forget(now);
        let counts = |f: &&Failing| f.lasts || f.last.duration_since(f.since) >= PATIENCE;
        let old = self.0.values().find(counts)?;
        Some(old.said.clone())
    }

    fn forget(&mut self, now: Instant) {
        self.0.retain(|_, failing| now.duration_since(failing.last) < FORGOTTEN);
    }
}
