//! Logs: where lines go, which are written, and the last of them.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lark_core::view::LogView;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::writer::MakeWriterExt;

use super::fields::{Clock, PlainFields};
use crate::cli::agent::LogFormat;

/// Bytes of lines that are kept for a bug report.
const RECENT: usize = 256 * 1024;

/// The filter of an agent that runs.
#[derive(Clone)]
pub struct Logs(Arc<Inner>);

struct Inner {
    configured: String,
    set: Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>,
    changed: Mutex<Changed>,
    recent: Recent,
}

/// What is in force instead of the configured filter.
#[derive(Default)]
struct Changed {
    /// Changes so far: the end of one that was replaced must not end its successor.
    number: u64,
    now: Option<(String, Instant)>,
}

/// Starts logging to standard error.
pub fn init_logs(format: LogFormat, filter: &str) -> Logs {
    let (configured, parsed) = match EnvFilter::try_new(filter) {
        Ok(parsed) => (filter.to_owned(), parsed),
        Err(_) => ("info".to_owned(), EnvFilter::new("info")),
    };
    let recent = Recent::default();
    let builder = tracing_subscriber::fmt()
        .with_timer(Clock)
        .with_env_filter(parsed)
        .with_writer(io::stderr.and(recent.clone()));
    let failed = |error: tracing_subscriber::reload::Error| error.to_string();
    let set: Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync> = match format {
        LogFormat::Text => {
            let builder = builder.with_ansi(false).fmt_fields(PlainFields).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            Box::new(move |filter| handle.reload(filter).map_err(failed))
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            Box::new(move |filter| handle.reload(filter).map_err(failed))
        }
    };
    Logs(Arc::new(Inner { configured, set, changed: Mutex::default(), recent }))
}

impl Logs {
    fn changed(&self) -> std::sync::MutexGuard<'_, Changed> {
        self.0.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is in force.
    pub(super) fn view(&self) -> LogView {
        let changed = self.changed();
        let now = changed.now.as_ref();
        LogView {
            filter: now.map_or(&self.0.configured, |(filter, _)| filter).clone(),
            back_in_seconds: now.map(|(_, until)| until.saturating_duration_since(Instant::now()).as_secs()),
            configured: self.0.configured.clone(),
        }
    }

    /// Puts these levels in force for so many seconds, on top of what was configured; `reset` ends that.
    ///
    /// # Errors
    /// A sentence when it is no filter.
    pub(super) fn change(&self, filter: &str, seconds: u64) -> Result<LogView, String> {
        if filter == "reset" {
            self.back(None)?;
            return Ok(self.view());
        }
        if filter.is_empty() || seconds == 0 {
            return Err("say which levels, and for how many seconds".to_owned());
        }
        // Of two that name the same module the later one counts.
        let both = format!("{},{filter}", self.0.configured);
        let parsed = EnvFilter::try_new(&both)
            .map_err(|error| format!("{filter:?} is no filter like lark_tunnel=debug: {error}"))?;
        let time = Duration::from_secs(seconds);
        let number = {
            let mut changed = self.changed();
            (self.0.set)(parsed)?;
            changed.number += 1;
            changed.now = Some((both, Instant::now() + time));
            changed.number
        };
        tracing::info!(filter, seconds, "other log lines are written for a while");
        let logs = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            if let Err(error) = logs.back(Some(number)) {
                tracing::error!(error, "the log's levels cannot be set back");
            }
        });
        Ok(self.view())
    }

    /// Goes back to what was configured; if a change is given, only from that one.
    fn back(&self, from: Option<u64>) -> Result<(), String> {
        let mut changed = self.changed();
        if changed.now.is_none() || from.is_some_and(|number| number != changed.number) {
            return Ok(());
        }
        (self.0.set)(EnvFilter::new(&self.0.configured))?;
        changed.now = None;
        drop(changed);
        tracing::info!(filter = self.0.configured, "log lines are as configured again");
        Ok(())
    }

    /// The last lines.
    pub(super) fn recent(&self) -> String {
        let kept = self.0.recent.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, second) = kept.as_slices();
        let bytes = [first, second].concat();
        drop(kept);
        let text = String::from_utf8_lossy(&bytes);
        // The first line has lost its beginning.
        if bytes.len() < RECENT {
            text.into_owned()
        } else {
            text.split_once('\n').map_or("", |(_, rest)| rest).to_owned()
        }
    }
}

/// Keeps what is written last.
#[derive(Clone, Default)]
struct Recent(Arc<Mutex<VecDeque<u8>>>);

impl Write for Recent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes_kept = bytes.get(bytes.len().saturating_sub(RECENT)..).unwrap_or_default();
        let over = (kept.len() + bytes_kept.len()).saturating_sub(RECENT);
        kept.drain(..over);
        kept.extend(bytes_kept);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Recent {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
