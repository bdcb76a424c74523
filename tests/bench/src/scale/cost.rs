use std::fs;

use anyhow::{Context, Result};

/// Resident memory of a process, in bytes.
pub(crate) fn resident(process: u32) -> Result<f64> {
    let file = format!("/proc/{process}/smaps_rollup");
    let text = fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).context("no Rss")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().context("Rss is no number")?;
    Ok(kib * 1024.0)
}

/// CPU time of a process so far, in seconds.
pub(crate) fn cpu(process: u32) -> Result<f64> {
    let mut nanoseconds = 0.0;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        // On the CPU, waiting for it, times there (Documentation/scheduler/sched-stats.rst).
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        let first = text.split(' ').next().context("an empty schedstat")?;
        nanoseconds += first.parse::<f64>().context("schedstat is no number")?;
    }
    Ok(nanoseconds * 1e-9)
}

/// What lies at that part of the sorted values.
pub(crate) fn quantile(sorted: &[f64], part: f64) -> f64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index from 0 to the last"
    )]
    let at = (sorted.len().saturating_sub(1) as f64 * part) as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}
