use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::cores;
use super::measure::{Meter, cpu_micros, number};
use super::report;
use super::stage::{Contestant, Route, Stage, Way};
use crate::install::say;

/// Who is counted: the floor, a tunnel as peers build it, Lark.
const WHO: [(Contestant, &str); 3] =
    [(Contestant::Relay, "relay"), (Contestant::Reference, "reference"), (Contestant::Lark, "lark")];

/// Workers of an agent, for what grows with them.
const WORKERS: [&str; 4] = ["--workers=1", "--workers=2", "--workers=4", "--workers=8"];

/// How long a load is counted.
const TURN: Duration = Duration::from_secs(1);

/// How long its CPU is measured, by ticks of the kernel, with nothing counted.
const MEASURED: Duration = Duration::from_secs(3);

/// CPU of both ends: the name in the table, and in cpu.stat.
const CPU: [(&str, &str); 2] =
    [("µs of CPU, its own", "user_usec"), ("µs of CPU, the kernel's", "system_usec")];

/// What is counted beside system calls: the name in the table, and perf's.
const SOFTWARE: [(&str, &str); 6] = [
    ("all system calls", "raw_syscalls:sys_enter"),
    ("went to sleep or waited", "context-switches"),
    ("woke another", WAKING),
    (CROSSING, WAKING),
    ("moved to another core", "cpu-migrations"),
    ("page faults", "page-faults"),
];

/// Happens in the waker (Linux 4.3, kernel/sched/core.c); `sched_wakeup` may happen on the woken's core, where it is nobody's.
/// The event's `target_cpu` is therefore where the woken ran last, not yet where it will.
const WAKING: &str = "sched:sched_waking";
/// Of those, the ones that cross cores: the same event with a filter.
const CROSSING: &str = "woke one of another core";

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

impl Load {
    /// Runs it under that program, and says how many were done.
    fn run(&self, meter: &Meter, under: &[&str], route: &Route, time: Duration) -> Result<f64> {
        let seconds = time.as_secs_f64().to_string();
        let arguments: Vec<&str> =
            ["--seconds", &seconds].into_iter().chain(self.arguments.iter().copied()).collect();
        let said = meter.run_under(under, self.verb, route, self.port, &arguments)?;
        let done = number(&said, self.unit)? / self.size;
        ensure!(done > 0.0, "{}: nothing was done", self.name);
        Ok(done)
    }
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
    let mut all = cpu(meter, &route, load)?;
    let file = stage.bed.directory().join("perf.csv");
    let processes: Vec<String> = route.processes.iter().map(u32::to_string).collect();
    let (processes, out) = (processes.join(","), file.to_string_lossy());
    let (events, filter) = (events(), crossing(&cores::online()?));
    // Counts those processes for as long as the load runs.
    let mut perf = vec!["perf", "stat", "-x", ",", "-o", &*out, "-p", &processes];
    for (name, event) in &events {
        perf.extend(["-e", event]);
        if *name == CROSSING {
            // It is for the event that stands before it.
            perf.extend(["--filter", &filter]);
        }
    }
    perf.push("--");
    let done = load.run(meter, &perf, &route, TURN)?;
    let counts = parse(&std::fs::read_to_string(&file)?)?;
    stage.leave(contestant)?;
    all.extend(counts.into_iter().map(|(name, count)| (name, count / done)));
    Ok(all)
}

/// CPU of one, without perf beside it, whose tracepoints are a part of each call.
fn cpu(meter: &Meter, route: &Route, load: &Load) -> Result<Counts> {
    let so_far = || -> Result<Vec<f64>> { CPU.iter().map(|(_, kind)| cpu_micros(route, kind)).collect() };
    let before = so_far()?;
    let done = load.run(meter, &[], route, MEASURED)?;
    let spent = so_far()?.into_iter().zip(before).map(|(after, before)| (after - before) / done);
    Ok(CPU.iter().map(|(name, _)| (*name).to_owned()).zip(spent).collect())
}

/// All that is counted, by name and perf's name, in the order in which perf is asked.
fn events() -> Vec<(&'static str, String)> {
    let software = SOFTWARE.iter().map(|(name, event)| (*name, (*event).to_owned()));
    software.chain(CALLS.iter().map(|call| (*call, format!("syscalls:sys_enter_{call}")))).collect()
}

/// The kernel's filter (Documentation/trace/events.rst) of wakes that cross cores. It compares fields with numbers only,
/// so each core has words of its own; `CPU` is the one that wakes. A page takes those of 120 cores.
fn crossing(cores: &[u32]) -> String {
    let each = cores.iter().map(|core| format!("CPU=={core}&&target_cpu!={core}"));
    each.collect::<Vec<_>>().join("||")
}

/// What `perf stat -x,` has written (perf-stat(1)): count, unit, event, and more; lines in the order of the events.
fn parse(text: &str) -> Result<Counts> {
    let mut counts = Counts::new();
    let lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>()).filter(|line| line.len() > 2);
    for ((name, event), line) in events().into_iter().zip(lines) {
        let &[count, _, said, ..] = line.as_slice() else { continue };
        ensure!(said == event, "perf was asked for {event} and counted {said}");
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
        for name in CPU.iter().chain(&SOFTWARE).map(|(name, _)| *name).chain(CALLS) {
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
        let lines =
            events().into_iter().enumerate().map(|(n, (_, event))| format!("{n},,{event},1,100.00,,"));
        format!("# started on a day\n\n{}\n", lines.collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn perf_is_understood_and_what_it_leaves_out_is_noticed() {
        let counts = parse(&written()).unwrap();
        assert_eq!(counts["all system calls"], 0.0);
        assert_eq!((counts["woke another"], counts[CROSSING]), (2.0, 3.0));
        assert_eq!(counts["page faults"], 5.0);
        assert_eq!(counts["epoll_wait"], 6.0);
        assert!(parse(&written().replace("4,,cpu", "<not counted>,,cpu")).is_err());
        assert!(parse(&written().replace("3,,sched:sched_waking,1,100.00,,\n", "")).is_err());
        assert!(parse("").is_err());
    }

    #[test]
    fn a_wake_crosses_from_any_core_to_any_other() {
        assert_eq!(crossing(&[0, 3]), "CPU==0&&target_cpu!=0||CPU==3&&target_cpu!=3");
        let many = crossing(&(0..120).collect::<Vec<_>>());
        assert!(many.len() < 4_096, "{}", many.len());
    }
}
