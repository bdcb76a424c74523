//! What the kernel says of a process.

use std::fs;

use anyhow::{Context, Result};

/// Resident memory in MiB.
///
/// # Errors
/// When there is no such process.
pub(crate) fn resident(pid: u32) -> Result<f64> {
    let file = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).context("no Rss")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().context("Rss is no number")?;
    Ok(kib / 1024.0)
}
