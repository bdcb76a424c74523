//! A client that does the same thing again and again, and knows what it must get.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use lark_testbed::{Place, Running, eventually};

use super::judge::Tally;

/// Arguments: file that ends it, a directory of its own, then what `round` needs. `round` returns 3 for a wrong
/// answer and anything else but 0 for a failure.
const LOOP: &str = r#"
stop=$1 own=$2 good=0 failed=0 wrong=0
shift 2
while [ ! -e "$stop" ]; do
    round "$@"
    case $? in 0) good=$((good + 1));; 3) wrong=$((wrong + 1)); date +"%T wrong" >&2;; *) failed=$((failed + 1)); date +"%T failed" >&2;; esac
    echo "tally $good $failed $wrong"
done
"#;

/// Arguments: URL, its checksum.
pub(crate) const DOWNLOAD: &str = r#"
round() {
    curl -sS --max-time 30 -o "$own/got" "$1" || return 1
    [ "$(sha256sum <"$own/got")" = "$2" ] || return 3
}
"#;

/// Argument: host. Every transaction moves the same sum in four tables, so that one that was half done shows.
pub(crate) const PGBENCH: &str = r#"
round() {
    pgbench -n -c 4 -T 4 -h "$1" -U postgres postgres >"$own/said" 2>&1 || { tail -n 2 "$own/said" >&2; return 1; }
    same=$(psql -h "$1" -U postgres -tAc "select (select sum(abalance) from pgbench_accounts) = (select coalesce(sum(delta), 0) from pgbench_history)") || return 1
    [ "$same" = t ] || return 3
}
"#;

/// Argument: host. A pipeline by redis-cli: redis-benchmark 7.0 never ends when its connection is reset while it
/// writes (cliWriteConn tries again and again).
pub(crate) const REDIS: &str = r#"
round() {
    value=$(head -c 30000 /dev/urandom | base64 -w 0)
    said=$(redis-cli -e -h "$1" set key "$value") || return 1
    [ "$said" = OK ] || { echo "set: $said" | head -c 200 >&2; return 1; }
    got=$(redis-cli -e -h "$1" get key) || return 1
    [ "$got" = "$value" ] || { echo "get: $got" | head -c 200 >&2; return 3; }
    seq -f "SET key:%g $(date +%s)" 4000 | redis-cli -h "$1" --pipe --pipe-timeout 30 >"$own/said" 2>&1 || { tail -n 2 "$own/said" >&2; return 1; }
    grep -q "errors: 0, replies: 4000" "$own/said" || { tail -n 2 "$own/said" >&2; return 3; }
}
"#;

/// A running client.
#[derive(Debug)]
pub(crate) struct Rounds {
    process: Running,
    stop: PathBuf,
    /// Bytes that a good round has compared.
    bytes: u64,
}

impl Rounds {
    /// Starts one there; `name` is for its files.
    pub(crate) fn start(
        place: &Place,
        directory: &Path,
        name: &str,
        round: &str,
        arguments: &[&str],
        bytes: u64,
    ) -> Result<Self> {
        let own = directory.join(format!("rounds-{name}"));
        std::fs::create_dir_all(&own)?;
        let stop = own.join("stop");
        let mut command = place.command("/bin/sh");
        command.args(["-c", &format!("{round}{LOOP}"), name]).args([&stop, &own]).args(arguments);
        Ok(Self { process: place.start(command, &own.join("log"))?, stop, bytes })
    }

    /// What it has done so far.
    pub(crate) fn tally(&self) -> Result<Tally> {
        let log = self.process.log();
        let Some(last) = log.lines().rev().find_map(|line| line.strip_prefix("tally ")) else {
            return Ok(Tally::default());
        };
        let numbers: Vec<u64> = last.split(' ').filter_map(|n| n.parse().ok()).collect();
        let [good, failed, wrong] = numbers.as_slice() else {
            // Half written.
            return Ok(Tally::default());
        };
        Ok(Tally { good: *good, failed: *failed, wrong: *wrong, compared: good * self.bytes })
    }

    /// Ends it after its round.
    pub(crate) fn end(&mut self) -> Result<()> {
        std::fs::write(&self.stop, "")?;
        eventually(Duration::from_secs(60), "the client ends", || Ok(!self.process.is_running()))
            .with_context(|| self.words().join("\n"))
    }

    /// What it complained of, the last few.
    pub(crate) fn words(&self) -> Vec<String> {
        let log = self.process.log();
        let lines: Vec<&str> = log.lines().filter(|line| !line.starts_with("tally ")).collect();
        lines
            .get(lines.len().saturating_sub(6)..)
            .unwrap_or_default()
            .iter()
            .map(|l| (*l).to_owned())
            .collect()
    }
}
