use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::measure::{Meter, number};
use super::report;
use super::stage::{Contestant, Stage, Way};
use crate::install::say;

/// Who is counted: the floor, a tunnel as peers build it, Lark.
const WHO: [(Contestant, &str); 3] =
    [(Contestant::Relay, "relay"), (Contestant::Reference, "reference"), (Contestant::Lark, "lark")];

/// Workers of an agent, for what grows with them.
const WORKERS: [&str; 4] = ["--workers=1", "--workers=2", "--workers=4", "--workers=8"];

/// How long a load is counted.
const TURN: Duration = Duration::from_secs(1);

/// What is counted beside system calls: the name in the table, and perf's.
const SOFTWARE: [(&str, &str); 5] = [
    ("all system calls", "raw_syscalls:sys_enter"),
    ("went to sleep or waited", "context-switches"),
    ("woke another", "sched:sched_waking"),
    ("moved to another core", "cpu-migrations"),
    ("page faults", "page-faults"),
];

/// System calls by name.
const CALLS: [&str; 24] = [
    "epoll_wait",
    "epoll_pwait",
    "epoll_pwait2",
    "epoll_ctl",
    "read",
    "recvfrom",
    "recvmsg",
    "write",
    "writev",
    "sendto",
    "sendmsg",
    "accept4",
    "socket",
    "bind",
    "connect",
    "shutdown",
    "close",
    "setsockopt",
    "getsockopt",
    "getsockname",
    "bpf",
    "setns",
    "futex",
    "madvise",
];

/// A load, and for one of what it is counted.
struct Load {
    name: &'static str,
    one: &'static str,
    verb: &'static str,
    port: u16,
    arguments: &'static [&'static str],
    /// What of the client's answer was done, and how much of it is one.
    unit: &'static str,
    size: f64,
}

const LOADS: [Load; 5] = [
    load("bulk1", "GiB", "bulk", 1, &[], "bytes", 1_073_741_824.0),
    load("echo1", "echo", "echo", 0, &[], "all", 1.0),
    load("echo64", "echo", "echo", 0, &["--connections", "64"], "all", 1.0),
    load("conn1", "connection", "connect", 0, &[], "connections", 1.0),
    load("conn32", "connection", "connect", 0, &["--at-once", "32"], "connections", 1.0),
];

const fn load(
    name: &'static str,
    one: &'static str,
    verb: &'static str,
    port: u16,
    arguments: &'static [&'static str],
    unit: &'static str,
    size: f64,
) -> Load {
    Load { name, one, verb, port, arguments, unit, size }
}

/// Counts for one of something, by name.
type Counts = BTreeMap<String, f64>;

/// What both ends of a path do for a GiB, an echo and a connection; and what of it grows with workers.
pub(crate) fn run(meter: &Meter, stage: &mut Stage) -> Result<Value> {
    let mut all = serde_json::Map::new();
    for load in &LOADS {
        let mut columns = Vec::new();
        for (contestant, name) in WHO {
            say(&format!("counting {} of {name}", load.name));
            columns.push((name, count(meter, stage, contestant, load)?));
        }
        all.insert(load.name.to_owned(), table_json(load, &columns));
    }
    for load in LOADS.iter().filter(|load| matches!(load.name, "echo64" | "conn32")) {
        let mut columns = Vec::new();
        for workers in WORKERS {
            say(&format!("counting {} with {workers}", load.name));
            stage.agents_with(&[workers])?;
            columns.push((workers, count(meter, stage, Contestant::Lark, load)?));
        }
        all.insert(format!("{} by workers", load.name), table_json(load, &columns));
    }
    stage.agents_with(&[])?;
    Ok(all.into())
}

fn count(meter: &Meter, stage: &mut Stage, contestant: Contestant, load: &Load) -> Result<Counts> {
    let route = stage.enter(contestant, Way::Across)?;
    meter.warm(stage, contestant, Way::Across, &route)?;
    let file = stage.bed.directory().join("perf.csv");
    let calls = CALLS.iter().map(|call| format!("syscalls:sys_enter_{call}"));
    let events: Vec<String> = SOFTWARE.iter().map(|(_, event)| (*event).to_owned()).chain(calls).collect();
    let processes: Vec<String> = route.processes.iter().map(u32::to_string).collect();
    let (events, processes, out) = (events.join(","), processes.join(","), file.to_string_lossy());
    // Counts those processes for as long as the load runs.
    let perf = ["perf", "stat", "-x", ",", "-o", &*out, "-e", &events, "-p", &processes, "--"];
    let seconds = TURN.as_secs_f64().to_string();
    let arguments: Vec<&str> =
        ["--seconds", &seconds].into_iter().chain(load.arguments.iter().copied()).collect();
    let said = meter.run_under(&perf, load.verb, &route, load.port, &arguments)?;
    let counts = parse(&std::fs::read_to_string(&file)?)?;
    let done = number(&said, load.unit)? / load.size;
    ensure!(done > 0.0, "{}: nothing was done", load.name);
    stage.leave(contestant)?;
    Ok(counts.into_iter().map(|(name, count)| (name, count / done)).collect())
}

/// What `perf stat -x,` has written (perf-stat(1)): count, unit, event, and more.
fn parse(text: &str) -> Result<Counts> {
    let mut counts = Counts::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split(',').collect();
        let &[count, _, event, ..] = fields.as_slice() else { continue };
        let known = SOFTWARE.iter().find(|(_, perf)| *perf == event).map(|(name, _)| *name);
        let Some(name) = known.or_else(|| event.strip_prefix("syscalls:sys_enter_")) else { continue };
        let count: f64 = count.parse().with_context(|| format!("perf did not count {event}: {count}"))?;
        counts.insert(name.to_owned(), count);
    }
    ensure!(counts.len() == SOFTWARE.len() + CALLS.len(), "perf says less than it was asked: {text}");
    Ok(counts)
}

fn table_json(load: &Load, columns: &[(&str, Counts)]) -> Value {
    json!({ "for each": load.one, "columns": columns.iter().map(|(name, counts)| json!({ "name": name, "counts": counts })).collect::<Vec<_>>() })
}

/// The counts for people: a table a load, without calls that nobody makes.
pub(crate) fn tables(counts: &Value) -> String {
    let mut lines = Vec::new();
    for (name, load) in counts.as_object().into_iter().flatten() {
        let columns: Vec<&Value> = load["columns"].as_array().into_iter().flatten().collect();
        let title = format!("{name}, for each {}, both ends", load["for each"].as_str().unwrap_or_default());
        let heads: String =
            columns.iter().map(|c| format!("{:>12}", c["name"].as_str().unwrap_or_default())).collect();
        lines.push(format!("{title:<40}{heads}"));
        for name in SOFTWARE.iter().map(|(name, _)| *name).chain(CALLS) {
            let values: Vec<f64> =
                columns.iter().map(|c| c["counts"][name].as_f64().unwrap_or_default()).collect();
            if values.iter().any(|value| *value >= 0.005) {
                let cells: String = values.iter().map(|v| format!("{:>12}", report::display(*v))).collect();
                lines.push(format!("  {name:<38}{cells}"));
            }
        }
        lines.push(String::new());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> String {
        let events = SOFTWARE.iter().map(|(_, event)| (*event).to_owned());
        let calls = CALLS.iter().map(|call| format!("syscalls:sys_enter_{call}"));
        let lines = events.chain(calls).enumerate().map(|(n, event)| format!("{n},,{event},1,100.00,,"));
        format!("# started on a day\n\n{}\n", lines.collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn perf_is_understood_and_what_it_leaves_out_is_noticed() {
        let counts = parse(&written()).unwrap();
        assert_eq!(counts["all system calls"], 0.0);
        assert_eq!(counts["page faults"], 4.0);
        assert_eq!(counts["epoll_wait"], 5.0);
        assert!(parse(&written().replace("3,,cpu", "<not counted>,,cpu")).is_err());
        assert!(parse("").is_err());
    }
}
