use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lark_testbed::{Place, Running, eventually};
use serde_json::Value;

use super::bound::{self, Watched};
use super::cores::Cores;
use super::figures::median;
use super::rows::Job;
use super::stage::{CLIENT_UID, Contestant, Route, Stage, Way};
use crate::process;

/// Bytes of a GiB.
const GIB: f64 = 1_073_741_824.0;

/// The agents' flag of the row with a spin.
const SPIN: &str = "--spin=100";

/// Open connections of the memory rows, and whether everything is left alone before a look for as long as Lark takes
/// to let go of code: ten seconds with nothing to do, of which it learns after two at most.
const HELD: [(&str, usize, bool); 2] = [("rss_1k", 1_000, true), ("rss_10k", 10_000, false)];
const LETS_GO: Duration = Duration::from_millis(12_500);
/// Until what has just begun or ended is over.
const SETTLE: Duration = Duration::from_millis(700);
/// Connections whose ends do not read, and until nothing moves in them any more.
const SLOW: u32 = 8;
const STANDSTILL: Duration = Duration::from_secs(2);
/// Turns of small messages alone and beside bulk.
const FAIR: usize = 5;

/// Runs loads from the client pod.
#[derive(Debug)]
pub(crate) struct Meter {
    client: Place,
    program: String,
    reference: PathBuf,
    directory: PathBuf,
    congestion: String,
    /// Of one load.
    turn: Duration,
}

/// Figures by the names of their rows.
pub(crate) type Measured = Vec<(&'static str, f64)>;

impl Meter {
    pub(crate) fn new(stage: &Stage, reference: &Path, congestion: &str, turn: Duration) -> Self {
        Self {
            client: stage.client.place.clone(),
            program: stage.bed.directory().join("lark-load").to_string_lossy().into_owned(),
            reference: reference.to_owned(),
            directory: stage.bed.directory().to_owned(),
            congestion: congestion.to_owned(),
            turn,
        }
    }

    /// The cipher's speed; nobody's turn.
    pub(crate) fn aead(&self) -> Result<Value> {
        let output =
            std::process::Command::new(&self.reference).args(["aead", "--seconds", "0.1"]).output()?;
        serde_json::from_slice(&output.stdout).context("lark-reference aead")
    }

    /// So many turns of one contestant at one job.
    pub(crate) fn turns(
        &self,
        stage: &mut Stage,
        contestant: Contestant,
        job: Job,
        count: usize,
    ) -> Result<Vec<Measured>> {
        let way = way(job);
        if matches!(job, Job::Memory | Job::Slow) {
            stage.renew(contestant)?;
        }
        let flags: &[&str] = if job == Job::Spin { &[SPIN] } else { &[] };
        stage.agents_with(flags)?;
        stage.relay_with(flags)?;
        let result = stage.enter(contestant, way).and_then(|route| {
            if job != Job::Memory {
                self.warm(stage, contestant, way, &route)?;
            }
            (0..count).map(|_| self.measure(job, &route)).collect()
        });
        let left = stage.leave(contestant);
        let measured = result.with_context(|| match contestant {
            Contestant::Lark => stage.last_words(),
            _ => String::new(),
        })?;
        left?;
        if job == Job::Memory {
            // What ten thousand connections have left in the allocator is not the next job's.
            stage.renew(contestant)?;
        }
        Ok(measured)
    }

    /// Opens what the path opens once, tunnels for instance, and makes sure that the load really takes
    /// Lark's way: a figure of plaintext under its name would be worse than none.
    pub(crate) fn warm(&self, stage: &Stage, contestant: Contestant, way: Way, route: &Route) -> Result<()> {
        let is_secured = contestant == Contestant::Lark && matches!(way, Way::Across | Way::Same);
        let before = if is_secured { stage.secured()? } else { 0 };
        self.run("connect", route, 0, &["--at-once", "8", "--seconds", "0.1"])?;
        if is_secured {
            eventually(Duration::from_secs(3), "lark secures the load", || Ok(stage.secured()? > before))?;
        }
        Ok(())
    }

    fn measure(&self, job: Job, route: &Route) -> Result<Measured> {
        Ok(match job {
            Job::Bulk1 => self.bulk(route, 1, &[], "bulk1", Some("cpu_gib1"))?,
            Job::Bulk8 => self.bulk(route, 1, &["--streams", "8"], "bulk8", Some("cpu_gib8"))?,
            Job::SameBulk => self.bulk(route, 1, &[], "same_bulk1", None)?,
            Job::Down => self.bulk(route, 2, &["--down"], "bulk1_down", None)?,
            Job::Echo1 => {
                let said = self.load("echo", route, 0, &[])?;
                vec![("echo1_p50", number(&said, "p50")?), ("echo1_p99", number(&said, "p99")?)]
            }
            Job::SameEcho => {
                vec![("same_echo1_p50", number(&self.load("echo", route, 0, &[])?, "p50")?)]
            }
            Job::Spin => {
                vec![("spin_echo1_p50", number(&self.load("echo", route, 0, &[])?, "p50")?)]
            }
            Job::Echo64 => self.echo64(route)?,
            Job::Fair => self.fair(route)?,
            Job::Connect1 => vec![("conn1_p50", number(&self.connect(route, "1")?, "p50")?)],
            Job::Connect32 => {
                let said = self.connect(route, "32")?;
                vec![("conn32", number(&said, "connections")? * 1e-3 / number(&said, "seconds")?)]
            }
            Job::Memory => self.memory(route)?,
            Job::Slow => self.slow(route)?,
            Job::Seen | Job::BesideConnect | Job::BesideBulk | Job::OutsideConnect | Job::Aead => {
                bail!("{job:?} has no turn of its own")
            }
        })
    }

    fn bulk(
        &self,
        route: &Route,
        port: u16,
        arguments: &[&str],
        rate: &'static str,
        cpu: Option<&'static str>,
    ) -> Result<Measured> {
        let (before, cores) = (cpu_seconds(route)?, Cores::so_far()?);
        let said = self.load("bulk", route, port, arguments)?;
        let (spent, cores) = (cpu_seconds(route)? - before, Cores::since(cores)?);
        let bytes = number(&said, "bytes")?;
        let mut measured = vec![(rate, bytes * 8e-9 / number(&said, "seconds")?)];
        if let Some(cpu) = cpu.filter(|_| !route.cgroups.is_empty()) {
            measured.push((cpu, spent / (bytes / GIB)));
        }
        if let Some(Watched { busy, idle, .. }) = bound::watched(rate) {
            measured.push((busy, cores.busy / (bytes / GIB)));
            measured.push((idle, cores.idle / (cores.busy + cores.idle)));
        }
        Ok(measured)
    }

    fn echo64(&self, route: &Route) -> Result<Measured> {
        let before = cpu_seconds(route)?;
        let said = self.load("echo", route, 0, &["--connections", "64"])?;
        let spent = cpu_seconds(route)? - before;
        let mut measured = vec![("echo64", number(&said, "echoes")? * 1e-3 / number(&said, "seconds")?)];
        if !route.cgroups.is_empty() {
            // Of an echo and agent; there are two agents. What was echoed to get warm counts too.
            measured.push(("cpu_echo64", spent * 1e6 / number(&said, "all")? / 2.0));
        }
        Ok(measured)
    }

    /// How many times longer small messages take beside bulk of the same pair of pods, alone and beside it by
    /// turns, since a 99th percentile of a moment says little. None may starve.
    fn fair(&self, route: &Route) -> Result<Measured> {
        let turn = self.turn / 2;
        let echo = || self.timed("echo", route, 0, turn, &["--connections", "64"]);
        let mut ratios = Vec::new();
        for _ in 0..FAIR {
            let alone = echo()?;
            let mut command = self.command(&[], "bulk", route, 1);
            command.args(["--streams", "4", "--seconds", &(turn.as_secs_f64() + 0.5).to_string()]);
            let bulk = self.client.start(command, &self.directory.join("bulk.log"))?;
            let beside = echo()?;
            drop(bulk);
            ensure!(number(&beside, "least")? > 0.0, "a connection had no echo beside bulk");
            ratios.push(number(&beside, "p99")? / number(&alone, "p99")?);
        }
        Ok(vec![("fair_p99", median(ratios.into_iter()).context("no turns")?)])
    }

    fn connect(&self, route: &Route, at_once: &str) -> Result<Value> {
        let said = self.load("connect", route, 0, &["--at-once", at_once])?;
        let (failed, all) = (number(&said, "failed")?, number(&said, "connections")?);
        ensure!(failed == 0.0, "{failed} connections failed, {all} did not: {}", said["why"]);
        Ok(said)
    }

    fn memory(&self, route: &Route) -> Result<Measured> {
        if route.processes.is_empty() {
            return Ok(Vec::new());
        }
        self.run("connect", route, 0, &["--seconds", "0.05"])?;
        let settle = |is_left_alone: bool| if is_left_alone { LETS_GO } else { SETTLE };
        std::thread::sleep(settle(true));
        let mut measured = vec![("rss_idle", largest(route)?)];
        for (row, count, is_left_alone) in HELD {
            let mut holder = self.hold(route, count, false)?;
            std::thread::sleep(settle(is_left_alone));
            measured.push((row, largest(route)?));
            holder.kill();
            std::thread::sleep(SETTLE);
        }
        Ok(measured)
    }

    /// MiB that a connection holds of which both ends send all they can and read nothing.
    fn slow(&self, route: &Route) -> Result<Measured> {
        if route.processes.is_empty() {
            return Ok(Vec::new());
        }
        // Bulk has run once, so that what it needs once is there.
        self.timed("bulk", route, 1, SETTLE, &["--streams", "8"])?;
        std::thread::sleep(SETTLE);
        let each = || route.processes.iter().map(|p| process::resident(*p)).collect::<Result<Vec<f64>>>();
        let before = each()?;
        let mut command = self.command(&[], "bulk", route, 2);
        command.args(["--streams", &SLOW.to_string(), "--seconds", "60"]);
        let mut load = self.client.start(command, &self.directory.join("slow.log"))?;
        std::thread::sleep(STANDSTILL);
        ensure!(load.is_running(), "ends that do not read: {}", load.log());
        let more = each()?.into_iter().zip(before).map(|(with, before)| with - before);
        let most = more.fold(0.0, f64::max);
        load.kill();
        Ok(vec![("rss_slow", most / f64::from(SLOW))])
    }

    /// Connections that stay open until what is returned is dropped.
    pub(crate) fn hold(&self, route: &Route, count: usize, http: bool) -> Result<Running> {
        let mut command = self.command(&[], "hold", route, if http { 3 } else { 0 });
        command.args(http.then_some("--http"));
        command.args(["--connections", &count.to_string(), "--seconds", "60"]);
        let mut holder = self.client.start(command, &self.directory.join("hold.log"))?;
        eventually(Duration::from_secs(40), "all connections are open", || {
            if !holder.is_running() && !holder.log().contains("open") {
                bail!("{count} connections cannot be held: {}", holder.log());
            }
            Ok(holder.log().contains("\"open\""))
        })?;
        Ok(holder)
    }

    /// A load for as long as this run's turns are.
    fn load(&self, verb: &str, route: &Route, port: u16, arguments: &[&str]) -> Result<Value> {
        self.timed(verb, route, port, self.turn, arguments)
    }

    /// A load for as long as that.
    pub(crate) fn timed(
        &self,
        verb: &str,
        route: &Route,
        port: u16,
        time: Duration,
        arguments: &[&str],
    ) -> Result<Value> {
        let seconds = time.as_secs_f64().to_string();
        let mut all = vec!["--seconds", &seconds];
        all.extend(arguments);
        self.run(verb, route, port, &all)
    }

    fn run(&self, verb: &str, route: &Route, port: u16, arguments: &[&str]) -> Result<Value> {
        self.run_under(&[], verb, route, port, arguments)
    }

    /// A load that runs as the last words of a command of that program and those words.
    pub(crate) fn run_under(
        &self,
        under: &[&str],
        verb: &str,
        route: &Route,
        port: u16,
        arguments: &[&str],
    ) -> Result<Value> {
        let output = self.command(under, verb, route, port).args(arguments).output()?;
        ensure!(
            output.status.success(),
            "load {verb} {} to {}: {}",
            arguments.join(" "),
            route.to,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        serde_json::from_slice(&output.stdout).context("lark-load prints no JSON")
    }

    /// The load client in the client pod, as a user of its own.
    fn command(&self, under: &[&str], verb: &str, route: &Route, port: u16) -> std::process::Command {
        let user = CLIENT_UID.to_string();
        let client = ["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups", "--", &self.program];
        let mut words = under.iter().chain(&client);
        let mut command = self.client.command(words.next().unwrap_or(&"setpriv"));
        command.args(words).args(["--congestion", &self.congestion, verb]);
        let mut to = route.to;
        to.set_port(to.port() + port);
        command.arg(to.to_string());
        command
    }
}

/// Where a job's load goes.
const fn way(job: Job) -> Way {
    match job {
        Job::SameBulk | Job::SameEcho => Way::Same,
        _ => Way::Across,
    }
}

pub(crate) fn number(said: &Value, name: &str) -> Result<f64> {
    said[name].as_f64().with_context(|| format!("no {name} in {said}"))
}

/// CPU time of both agents so far. cgroup v2 counts it in every group, also where its controllers belong
/// to v1 (Linux 4.15, kernel/cgroup/rstat.c).
pub(crate) fn cpu_seconds(route: &Route) -> Result<f64> {
    Ok(cpu_micros(route, "usage_usec")? * 1e-6)
}

/// The same of one kind, in microseconds: `user_usec`, `system_usec` or both. The kernel divides what it measures by what
/// it finds at its ticks (`cputime_adjust`, kernel/sched/cputime.c), so a turn must have many.
pub(crate) fn cpu_micros(route: &Route, kind: &str) -> Result<f64> {
    let mut sum = 0.0;
    for cgroup in &route.cgroups {
        let file = cgroup.join("cpu.stat");
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let of_kind = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '));
        let of_kind = of_kind.and_then(|u| u.parse::<f64>().ok());
        sum += of_kind.with_context(|| format!("no {kind} in {}", file.display()))?;
    }
    Ok(sum)
}

/// Resident memory of the larger agent, MiB.
pub(crate) fn largest(route: &Route) -> Result<f64> {
    route.processes.iter().try_fold(0.0, |most, process| Ok(process::resident(*process)?.max(most)))
}
