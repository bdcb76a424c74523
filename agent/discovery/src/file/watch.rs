//! Watching the file. Its directory is watched, not the file itself: editors and ConfigMaps replace
//! files and links. A slow poll covers file systems that tell nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lark_core::snapshot::Snapshot;
use notify::{RecursiveMode, Watcher};
use tokio::sync::{Notify, watch};

use super::parse::{FILE_MAX, FileError, parse};
use crate::{Discovery, Health};

/// Wait after a change, so that a file written in pieces is read once.
const SETTLE: Duration = Duration::from_millis(30);
/// Look at the file at least this often.
const POLL: Duration = Duration::from_secs(2);

/// Reads the file and watches it from a task of the current runtime.
///
/// # Errors
/// When the file cannot be used now. Later errors keep the last good snapshot and show in the health.
pub async fn watch(path: &Path) -> Result<Discovery, FileError> {
    let text = read(path).await?;
    let first = parse(path, &text, 1)?;
    let (snapshots, snapshot) = watch::channel(Arc::new(first));
    let (healths, health) = watch::channel(Health { error: None, since: SystemTime::now() });
    let state = State { path: path.to_owned(), text: Ok(text), generation: 1, snapshots, healths };
    tokio::spawn(state.run());
    Ok(Discovery { snapshot, health })
}

struct State {
    path: PathBuf,
    /// What was last read, good or not, so that nothing is told twice.
    text: Result<String, FileError>,
    generation: u64,
    snapshots: watch::Sender<Arc<Snapshot>>,
    healths: watch::Sender<Health>,
}

impl State {
    async fn run(mut self) {
        let changed = Arc::new(Notify::new());
        let watcher = watcher(&self.path, changed.clone());
        if let Err(error) = &watcher {
            tracing::warn!(path = %self.path.display(), %error, "changes are only seen by polling");
        }
        while !self.snapshots.is_closed() {
            tokio::select! {
                () = changed.notified() => tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(POLL) => {}
            }
            self.reload().await;
        }
    }

    async fn reload(&mut self) {
        let text = read(&self.path).await;
        if text == self.text {
            return;
        }
        let result = text.clone().and_then(|text| parse(&self.path, &text, self.generation + 1));
        self.text = text;
        let now = SystemTime::now();
        match result {
            Ok(snapshot) => {
                self.generation += 1;
                tracing::info!(path = %self.path.display(), generation = self.generation, "discovery file loaded");
                for unreadable in snapshot.policies().unreadable() {
                    tracing::error!(policy = %unreadable.policy, why = unreadable.why, "policy not usable; what it selects is closed");
                }
                self.snapshots.send_replace(Arc::new(snapshot));
                self.healths.send_replace(Health { error: None, since: now });
            }
            Err(error) => {
                tracing::error!(%error, "discovery file not usable; the last good state stays");
                self.healths.send_replace(Health { error: Some(error.to_string()), since: now });
            }
        }
    }
}

/// Tells of everything that may have changed the file. That it was read is no change: to look again for that would
/// be to look for ever.
fn watcher(path: &Path, changed: Arc<Notify>) -> notify::Result<notify::RecommendedWatcher> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if !event.is_ok_and(|event| event.kind.is_access()) {
            changed.notify_one();
        }
    })?;
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

async fn read(path: &Path) -> Result<String, FileError> {
    let failed = |what: String| FileError::Read { path: path.to_owned(), what };
    let size = tokio::fs::metadata(path).await.map_err(|e| failed(e.to_string()))?.len();
    if size > FILE_MAX {
        return Err(failed(format!("{size} bytes are more than the {FILE_MAX} that are read")));
    }
    tokio::fs::read_to_string(path).await.map_err(|e| failed(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_is_told_and_a_look_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mesh.yaml");
        std::fs::write(&path, "one").unwrap();
        let changed = Arc::new(Notify::new());
        let _watcher = watcher(&path, changed.clone()).unwrap();
        assert_eq!(read(&path).await.unwrap(), "one");
        let told = || tokio::time::timeout(Duration::from_millis(300), changed.notified());
        assert!(told().await.is_err(), "reading the file counts as a change of it");
        std::fs::write(&path, "two").unwrap();
        told().await.unwrap();
    }
}
