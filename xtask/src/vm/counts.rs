//! System calls and bytes, from the kernel's own histograms of what two agents did.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};

/// Calls by which payload comes into the process or leaves it; by the others it passes or nothing does.
const COPYING: [&str; 10] =
    ["read", "readv", "recvfrom", "recvmsg", "write", "writev", "sendto", "sendmsg", "pread64", "pwrite64"];

#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    calls: u64,
    bytes: u64,
}

/// How, who, which call.
type Counts = BTreeMap<(String, String, String), Count>;

/// A table of what a GiB costs each end, of a transfer of that many MiB.
///
/// # Errors
/// When nothing was counted.
pub(super) fn table(said: &[String], mib: u64) -> Result<String> {
    let counts = counts(said)?;
    let (per_gib, amount) = (1024.0 / as_f64(mib), as_f64(mib * 1024 * 1024));
    let mut text = String::from(
        "| end | records | calls a GiB | bytes copied for each | calls |\n|---|---|--:|--:|---|\n",
    );
    for who in ["dials", "accepts"] {
        for how in ["off", "demanded"] {
            // The emulated machine's clock is read by a call, a real one's is not.
            let of = || counts.iter().filter(|((h, w, c), _)| h == how && w == who && c != "clock_gettime");
            ensure!(of().next().is_some(), "the machine counted nothing of {who} with {how}");
            let calls: u64 = of().map(|(_, count)| count.calls).sum();
            let copied: u64 =
                of().filter(|((.., call), _)| COPYING.contains(&call.as_str())).map(|(_, c)| c.bytes).sum();
            let mut each: Vec<_> = of().filter(|(_, c)| c.calls * 100 > calls).collect();
            each.sort_by_key(|(_, count)| std::cmp::Reverse(count.calls));
            let each: Vec<String> = each
                .iter()
                .map(|((.., call), c)| format!("{call} {:.0}", as_f64(c.calls) * per_gib))
                .collect();
            let end = if who == "dials" { "sends" } else { "receives" };
            let records = if how == "off" { "agent" } else { "kernel" };
            let _ = writeln!(
                text,
                "| {end} | {records} | {:.0} | {:.2} | {} |",
                as_f64(calls) * per_gib,
                as_f64(copied) / amount,
                each.join(", ")
            );
        }
    }
    Ok(text)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

fn counts(said: &[String]) -> Result<Counts> {
    let mut counts = Counts::new();
    let mut how = "";
    for line in said {
        if let Some(rest) = line.strip_prefix("LARK-VM: counted ") {
            how = rest;
            continue;
        }
        let Some((kind, row)) = line.split_once(' ').filter(|(kind, _)| ["calls", "bytes"].contains(kind))
        else {
            continue;
        };
        let (who, call, hits, sum) = row_of(row).with_context(|| format!("not a row of counts: {line}"))?;
        let count = counts.entry((how.to_owned(), who, call)).or_default();
        if kind == "calls" {
            count.calls += hits;
        } else {
            count.bytes += sum.unwrap_or(0);
        }
    }
    Ok(counts)
}

/// Pure: name of the thread, of the call, how often, and the sum of what it returned.
fn row_of(row: &str) -> Option<(String, String, u64, Option<u64>)> {
    let (_, rest) = row.split_once("common_pid: ")?;
    let (who, rest) = rest.split_once(char::is_whitespace)?;
    let (_, rest) = rest.split_once("id: ")?;
    let (call, rest) = rest.split_once(|c: char| c.is_whitespace() || c == '[')?;
    let (_, rest) = rest.split_once("hitcount:")?;
    let mut figures = rest.split_whitespace();
    let hits = figures.next()?.parse().ok()?;
    let sum = rest.split_once("ret:").and_then(|(_, sum)| sum.trim().parse().ok());
    Some((who.to_owned(), call.trim_start_matches("sys_").to_owned(), hits, sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_the_kernels_histograms_are_understood() {
        let row = "{ common_pid: dials           [        92], id: sys_read                      [  0] } hitcount:        100  ret:    6553600";
        assert_eq!(row_of(row), Some(("dials".into(), "read".into(), 100, Some(6_553_600))));
        let row = "{ common_pid: accepts         [       103], id: sys_epoll_wait                [232] } hitcount:         10";
        assert_eq!(row_of(row), Some(("accepts".into(), "epoll_wait".into(), 10, None)));
        assert_eq!(row_of("{ rubbish }"), None);
    }

    #[test]
    fn a_table_has_both_ends_with_and_without() {
        let mut said = Vec::new();
        for how in ["off", "demanded"] {
            said.push(format!("LARK-VM: counted {how}"));
            for who in ["dials", "accepts"] {
                said.push(format!("calls {{ common_pid: {who} [ 1], id: sys_read [ 0] }} hitcount: 512"));
                said.push(format!(
                    "bytes {{ common_pid: {who} [ 1], id: sys_read [ 0] }} hitcount: 5 ret: 1048576"
                ));
            }
        }
        let text = table(&said, 1).unwrap();
        assert!(text.contains("| sends | agent | 524288 | 1.00 | read 524288 |"), "{text}");
        assert!(text.contains("| receives | kernel | 524288 | 1.00 | read 524288 |"), "{text}");
        said.truncate(3);
        assert!(table(&said, 1).is_err());
    }
}
