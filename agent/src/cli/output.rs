//! Tables, JSON and YAML on standard output.

use std::io::Write;

use clap::ValueEnum;
use serde::Serialize;

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns.
    Table,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// A table: header and rows.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(|h| (*h).to_owned()).collect()] }
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|cell| plain(cell)).collect());
    }

    /// Aligned by the number of characters; the last column is as long as it is.
    pub(super) fn render(&self) -> String {
        self.painted(|_, _| "")
    }

    /// The same for a screen: each cell, by its row and column, with these graphic renditions (ECMA-48, SGR).
    pub(super) fn painted(&self, paint: impl Fn(usize, usize) -> &'static str) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| {
            self.rows.iter().filter_map(|r| r.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                match paint(number, column) {
                    "" => line.push_str(cell),
                    rendition => line.push_str(&format!("\x1b[{rendition}m{cell}\x1b[0m")),
                }
                line.push_str(&" ".repeat(width.saturating_sub(cell.chars().count()) + 3));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Prints a value in the wanted form; `table` makes the table.
pub(super) fn print<T: Serialize>(
    value: &T,
    format: Format,
    table: impl FnOnce(&T) -> String,
) -> anyhow::Result<()> {
    let text = match format {
        Format::Table => table(value),
        Format::Json => format!("{}\n", serde_json::to_string_pretty(value)?),
        Format::Yaml => serde_saphyr::to_string(value)?,
    };
    write(text.as_bytes())
}

/// Writes to standard output. A reader that went away (`| head`) is no failure.
pub(super) fn write(bytes: &[u8]) -> anyhow::Result<()> {
    write_more(bytes).map(|_| ())
}

/// The same at once, for output that goes on; false if the reader went away.
pub(super) fn write_more(bytes: &[u8]) -> anyhow::Result<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(e.into()),
        Ok(()) => Ok(true),
    }
}

/// Text for a terminal: what others have said steers none.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Says something beside the answer, on standard error.
pub(super) fn aside(text: &str) {
    // Where nobody listens there is nothing to tell.
    let _ = writeln!(std::io::stderr().lock(), "lark: {text}");
}

/// The time of day, UTC, of milliseconds since the epoch.
pub(super) fn clock(ms: u64) -> String {
    let seconds = ms / 1000;
    format!("{:02}:{:02}:{:02}.{:03}Z", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60, ms % 1000)
}

/// A duration in seconds as people say it.
pub(super) fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{}h", seconds / 86400, seconds % 86400 / 3600),
    }
}

/// Bytes as people say them.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut scaled = count;
    let mut rest = 0;
    let mut unit = 0;
    while scaled >= 1024 && unit + 1 < UNITS.len() {
        rest = scaled % 1024;
        scaled /= 1024;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or("B");
    if unit == 0 { format!("{scaled} {name}") } else { format!("{scaled}.{} {name}", rest * 10 / 1024) }
}

/// An empty cell would move columns together for the eye.
pub(super) fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}
