//! Lines on their way to standard error, and the last of them.
//!
//! Lines of the access log are gathered for a moment, so that a worker does not call the system once for each
//! connection; whoever writes any other line writes what was gathered before it too, so their order is that in which
//! they came.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

/// Bytes of lines that are kept for a bug report.
const RECENT: usize = 256 * 1024;
/// How long a line of the access log may wait for others.
const GATHER: Duration = Duration::from_millis(50);
/// Bytes that may wait: with more, whoever writes waits for standard error, as a bound.
const WAITING: usize = 64 * 1024;
/// The target whose lines may wait.
const ACCESS: &str = "access";

/// Where lines go. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Lines(Arc<Inner>);

#[derive(Default)]
struct Inner {
    waiting: Mutex<Vec<u8>>,
    some: Condvar,
    /// Locked while lines are written, before `waiting` is: they do not overtake each other.
    out: Mutex<VecDeque<u8>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Bytes are in order whatever became of who wrote them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lines {
    /// With a thread that writes what waits. Without it, if there is none to be had, nothing waits long: the next
    /// other line or the bound writes it.
    pub(super) fn start() -> Self {
        let lines = Self::default();
        let theirs = lines.clone();
        let spawned = std::thread::Builder::new().name("lark-log".to_owned()).spawn(move || {
            loop {
                theirs.wait();
                std::thread::sleep(GATHER);
                theirs.write_out();
            }
        });
        // There is no log to say so in yet.
        drop(spawned);
        lines
    }

    fn wait(&self) {
        let waiting = locked(&self.0.waiting);
        drop(self.0.some.wait_while(waiting, |waiting| waiting.is_empty()));
    }

    /// Writes what waits.
    pub(super) fn write_out(&self) {
        let mut recent = locked(&self.0.out);
        let bytes = std::mem::take(&mut *locked(&self.0.waiting));
        // Nobody can be told that standard error is gone.
        let _ = io::stderr().lock().write_all(&bytes);
        keep(&mut recent, &bytes);
    }

    /// The last lines.
    pub(super) fn recent(&self) -> String {
        self.write_out();
        let bytes: Vec<u8> = locked(&self.0.out).iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        // The first line has lost its beginning.
        if bytes.len() < RECENT {
            text.into_owned()
        } else {
            text.split_once('\n').map_or("", |(_, rest)| rest).to_owned()
        }
    }
}

fn keep(recent: &mut VecDeque<u8>, bytes: &[u8]) {
    let bytes = bytes.get(bytes.len().saturating_sub(RECENT)..).unwrap_or_default();
    let over = (recent.len() + bytes.len()).saturating_sub(RECENT);
    recent.drain(..over);
    recent.extend(bytes);
}

/// Takes one line.
pub(super) struct Line<'a> {
    lines: &'a Lines,
    may_wait: bool,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut waiting = locked(&self.lines.0.waiting);
        let is_first = waiting.is_empty();
        waiting.extend_from_slice(bytes);
        let is_much = waiting.len() > WAITING;
        drop(waiting);
        if is_much || !self.may_wait {
            self.lines.write_out();
        } else if is_first {
            self.lines.0.some.notify_one();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { lines: self, may_wait: false }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line<'a> {
        Line { lines: self, may_wait: meta.target() == ACCESS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(lines: &Lines, may_wait: bool, text: &str) {
        Line { lines, may_wait }.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn lines_that_wait_come_before_the_next_one() {
        let lines = Lines::default();
        write(&lines, true, "one\n");
        assert_eq!(*locked(&lines.0.waiting), b"one\n");
        write(&lines, false, "two\n");
        assert!(locked(&lines.0.waiting).is_empty());
        assert_eq!(lines.recent(), "one\ntwo\n");
    }

    #[test]
    fn what_waits_and_what_is_kept_is_bounded() {
        let lines = Lines::default();
        let line = "x".repeat(1023) + "\n";
        for _ in 0..1_000 {
            write(&lines, true, &line);
            assert!(locked(&lines.0.waiting).len() <= WAITING);
        }
        let recent = lines.recent();
        assert!(recent.len() <= RECENT && recent.len() > RECENT / 2);
        assert!(recent.lines().all(|line| line.len() == 1023));
    }

    #[test]
    fn what_waits_is_written_soon() {
        let lines = Lines::start();
        write(&lines, true, "waits\n");
        while !locked(&lines.0.waiting).is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
