//! `cargo xtask bench`: what Lark costs, against plain TCP, a relay without TLS, a tunnel as peers build
//! it, and peers themselves; interleaved in one run, between the same two pods.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::install::{self, say};
use crate::test;

/// One binary in relation to another.
mod against;
/// Connections that no agent carries, on a node with Lark.
mod beside;
/// What the relay would reach if it sealed.
mod bound;
/// What the machine's cores did.
mod cores;
/// What is done for a byte, an echo and a connection, counted.
mod counts;
/// Medians, ratios, spread.
mod figures;
/// What agents execute.
mod layout;
/// What the figures depend on.
mod machine;
/// What each row must reach.
mod marks;
/// Loads, and the CPU and memory they cost.
mod measure;
/// Relay and reference.
mod pair;
/// Other products.
mod peer;
/// The picture.
mod plot;
/// Table and JSON.
mod report;
/// The rows and what gives them.
mod rows;
/// A large cluster, many pods, many tunnels.
mod scale;
/// What it costs to look.
mod seen;
/// Nodes, pods, agents, and whose turn it is.
mod stage;
/// The turns of a round.
mod turns;
/// Two meshes that take short turns.
mod twins;

use figures::{Figures, LARK};
use measure::Meter;
use peer::Peer;
use rows::{JOBS, Job, ROWS, Row, named};
use stage::{Programs, Stage};
use turns::Turns;
use twins::Twins;

pub(crate) use layout::PROFILES;

/// Congestion control, unless another one is asked for.
const CONGESTION: &str = "reno";

/// Measures Lark on this machine (needs root).
///
/// Two nodes and their pods are made of network namespaces and cgroups, as for the demo. Between the same
/// two pods, in turn and several times over, go plain TCP; `relay`, two hops without TLS by 256 KiB, the
/// floor; `reference`, a tunnel of the crates h2 and tokio-rustls as peers build it; lark; and each peer.
/// For rows of bytes, single echoes and connections the time of a round is cut into short turns: all take one after the
/// other, and a round's figure is the median. A peer, which is set up once a round, has its turns in a row.
/// The table has medians, Lark's ratio to plain as the median of the rounds' ratios, and the spread: the
/// largest ratio less the smallest, in parts of that median. A ✓ or ✗ stands before each mark of a row. Behind a
/// ratio to plain is the relay's, behind a limit what plain has: whether hops that do nothing else, or none, reach it.
/// Only figures of one run can be compared.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Three rounds of short loads instead of five of longer ones: under ten minutes.
    #[arg(long)]
    quick: bool,
    /// Write the result into this file, as JSON.
    ///
    /// {"machine", "rows": [{"name", "unit", "better", "plain", "relay", "reference", "lark", "ratio",
    /// "spread", "bound": {"value", "relay", "reference", "idle"}, "peers": {NAME: {"value", "ratio"}}}]}. Every
    /// ratio is to plain, but those of the bound, which are to relay and reference; null is what a contestant has
    /// no figure for, and the bound of all rows but bulk1, bulk8 and bulk1_down.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a picture of the result into this file, as SVG.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Measure only these rows, with commas between them.
    ///
    /// All of them by default: bulk1 bulk8 bulk1_down cpu_gib1 cpu_gib8 busy_gib1 busy_gib8 busy_gib1_down
    /// echo1_p50 echo1_p99 echo64 cpu_echo64 conn1_p50 conn32 rss_idle rss_1k rss_10k rss_slow same_bulk1 same_echo1_p50 uncaptured_conn1_p50
    /// uncaptured_bulk1 nonmesh_conn1_p50 spin_echo1_p50 fair_p99 seen_bulk1
    /// seen_cpu_gib1 seen_echo64 seen_cpu_echo64 seen_http64 seen_cpu_http64 seen_rss aead. cpu_gib is CPU seconds of both agents for a GiB,
    /// busy_gib those of the whole machine, load client and server included. The bound beside the marks of the same rows of bulk is
    /// what the relay would reach if it sealed and opened each byte once, its cores being idle as little as they were:
    /// its rate × busy / (busy + 2 GiB / aead). It says little where much is idle or something else runs.
    /// cpu_echo64 CPU of an agent for an echo, rss the larger agent's memory with that many open
    /// connections, rss_slow what it holds for a connection of which both ends send and neither reads, aead the negotiated cipher's sealing on one core. spin_echo1_p50 is echo1_p50 with the
    /// agents' --spin=100, and the relay with the same; fair_p99 is how many times longer the 99th percentile of 64 echoing connections
    /// takes beside four streams of bytes. The seen rows are Lark with requests recognised and a tap running in
    /// relation to Lark with neither: bulk as the body of a request, echoes of nothing known, requests of
    /// HTTP/1.1, and how much more memory a connection has. The relay of the same rows has one hop, as Lark has there. For them, and for the rows of uncaptured and
    /// nonmesh, two meshes run at once and take turns of 0.3 s, 60 pairs a round (10 with --quick), of whose
    /// ratios a round's figure is the median.
    #[arg(long, value_name = "ROW,...", value_delimiter = ',')]
    rows: Vec<String>,
    /// A product to measure too, and the script that runs it; again for each.
    ///
    /// The script is called with `up`, prints the product's process ids on standard output and returns when
    /// it is ready, and later with `down`. It finds the pods' namespaces as files in LARK_BENCH_NS_A and
    /// LARK_BENCH_NS_B, the nodes' in LARK_BENCH_NODE_NS_A and LARK_BENCH_NODE_NS_B, the pods' addresses in
    /// LARK_BENCH_IP_A and LARK_BENCH_IP_B, and in LARK_BENCH_CLIENT_UID the user of the load client, by
    /// which it can redirect. It is called in every round for every row between the two nodes, in a cgroup whose
    /// CPU counts; rows inside a node and those about Lark alone have no turn for it.
    #[arg(long = "peer", value_name = "NAME=SCRIPT")]
    peers: Vec<Peer>,
    /// Measure scale instead of the rows.
    ///
    /// A snapshot of 100,000 workloads, 10,000 Services and 5,000 nodes; an agent with 500 captured pods;
    /// 2,000 tunnels of one worker to 1,000 nodes. --json writes its figures as one object.
    #[arg(long, conflicts_with_all = ["rows", "peers", "svg"])]
    scale: bool,
    /// Count instead of measuring: system calls, sleeps and wake-ups of both ends, and their CPU by parts.
    ///
    /// By perf, of relay, reference and Lark, for each GiB, echo and connection; and of Lark with 1, 2, 4 and 8
    /// workers, which shows what of it grows with their number. The CPU of their own code, the cipher in it, and
    /// of the kernel is of a turn before without perf; all else is no time, so a busy machine changes little. A wake
    /// crosses cores when the woken ran last on another core than the waker; where it runs next the scheduler
    /// decides after that. --json writes all of it as one object.
    #[arg(long, conflicts_with_all = ["rows", "peers", "svg", "scale"])]
    counts: bool,
    /// TCP congestion control of the pods, the nodes and the load, for example cubic; what Lark has on loopback is reno.
    ///
    /// Default reno: bbr paces on loopback, and under it plain TCP itself falls to a third.
    #[arg(long, value_name = "NAME", default_value = CONGESTION)]
    congestion: String,
    /// Measure this binary of Lark instead of the one that is built, to compare with one from before.
    #[arg(long, value_name = "FILE")]
    lark: Option<PathBuf>,
    /// Compare with this binary of Lark from before, instead of measuring the rows.
    ///
    /// Two meshes run at once, one of each binary, and take turns of 0.3 s at bulk1, bulk8, echo1, echo64, conn1 and
    /// conn32 (or those that --rows names): rate, and the agents' CPU for a byte, an echo or a connection, as the
    /// median of 120 pairs (40 with --quick) and the bounds of their middle half. So near in time the machine is the
    /// same for both: differences of 2 % show. --json writes them as one object.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["peers", "svg", "scale", "counts"])]
    against: Option<PathBuf>,
    /// A flag for the agents, for example --agent=--workers=1; again for each.
    #[arg(long = "agent", value_name = "FLAG", allow_hyphen_values = true)]
    agent_flags: Vec<String>,
}

/// How much is measured.
struct Length {
    rounds: usize,
    /// Of each path in a round.
    time: Duration,
    /// Into how many that is cut.
    turns: u32,
    /// Of two meshes.
    pairs: usize,
}

const QUICK: Length = Length { rounds: 3, time: Duration::from_millis(700), turns: 2, pairs: 10 };
const FULL: Length = Length { rounds: 5, time: Duration::from_secs(2), turns: 5, pairs: 60 };

/// Runs the task. Everything it made is taken down at its end, at a failure and at Ctrl-C: by a process of
/// its own that waits for ours to end.
///
/// # Errors
/// When something does not run, or a contestant failed at a row; the table is printed all the same.
pub(crate) fn run(args: &Args) -> Result<()> {
    let rows = if args.against.is_some() { Vec::new() } else { chosen(&args.rows)? };
    test::able()?;
    install::debian(install::BENCH.iter().chain(args.counts.then_some(&install::COUNTS)))?;
    let programs = build(args.lark.as_deref())?;
    if args.scale {
        let figures = scale::run(&programs.lark, &programs.scale)?;
        tell(&scale::table(&figures));
        let text = format!("{}\n", serde_json::to_string_pretty(&figures)?);
        return args.json.as_ref().map_or(Ok(()), |file| write(file, &text));
    }
    let length = if args.quick { &QUICK } else { &FULL };
    let began = Instant::now();
    let set_up = |peers| Stage::set_up(&programs, &args.congestion, &args.agent_flags, peers);
    let metered = |stage: &Stage, time| Meter::new(stage, &programs.reference, &args.congestion, time);
    let meter_of = |stage: &Stage| metered(stage, length.time);
    if let Some(before) = &args.against {
        let set_up = |programs: &Programs| {
            let stage = Stage::set_up(programs, &args.congestion, &args.agent_flags, Vec::new())?;
            Ok((meter_of(&stage), stage))
        };
        let pairs = if args.quick { 40 } else { 120 };
        let compared = against::compare(&programs, before, &args.rows, pairs, set_up)?;
        tell(&against::table(&compared));
        let text = format!("{}\n", serde_json::to_string_pretty(&compared)?);
        return args.json.as_ref().map_or(Ok(()), |file| write(file, &text));
    }
    let mut stage = set_up(args.peers.clone())?;
    let (meter, short) = (meter_of(&stage), metered(&stage, length.time / length.turns));
    if args.counts {
        let counts = counts::run(&meter, &mut stage)?;
        tell(&counts::tables(&counts));
        let text = format!("{}\n", serde_json::to_string_pretty(&counts)?);
        return args.json.as_ref().map_or(Ok(()), |file| write(file, &text));
    }
    let aead = meter.aead()?;
    let machine = machine::facts(args, &aead, length);
    tell(&machine::line(&machine));

    let peers: Vec<String> = args.peers.iter().map(|peer| peer.name.clone()).collect();
    let turns = Turns { whole: &meter, short: &short, count: length.turns as usize, peers: &peers };
    let mut figures = Figures::default();
    let mut failures = Vec::new();
    for round in 0..length.rounds {
        for job in needed(&rows) {
            say(&format!("round {} of {}: {job:?}", round + 1, length.rounds));
            if job == Job::Aead {
                figures.add("aead", LARK, round, meter.aead()?["seal"].as_f64().context("no figure")?);
                continue;
            }
            if job.has_twins() {
                // The second mesh is there for as long as this takes.
                let measured = set_up(Vec::new()).and_then(|mut twin| {
                    let other = meter_of(&twin);
                    let twins = Twins::new((&meter, &mut stage), (&other, &mut twin), round);
                    match job {
                        Job::Seen => seen::compare(twins, length.pairs),
                        _ => beside::compare(twins, job, length.pairs),
                    }
                    .with_context(|| format!("{}\n{}", stage.last_words(), twin.last_words()))
                });
                match measured {
                    Ok(measured) => {
                        measured.into_iter().for_each(|(row, of, value)| figures.add(row, of, round, value));
                    }
                    Err(error) => failures.push(format!("{job:?} in round {}: {error:#}", round + 1)),
                }
                continue;
            }
            let given = turns.round(&mut stage, job, round)?;
            given.figures().for_each(|(row, of, value)| figures.add(row, of, round, value));
            failures.extend(given.failures());
        }
        bound::add(&mut figures, round);
    }
    drop(stage);

    tell(&format!("\n{}", report::table(&rows, &peers, &figures)));
    tell(&format!("\nmeasured in {} s", began.elapsed().as_secs()));
    let result = report::json(&machine, &rows, &peers, &figures);
    if let Some(file) = &args.json {
        write(file, &format!("{}\n", serde_json::to_string_pretty(&result)?))?;
    }
    if let Some(file) = &args.svg {
        write(file, &plot::draw(&result, &machine::line(&machine)))?;
    }
    match failures.len() {
        0 => Ok(()),
        count => bail!("{count} turns failed:\n{}", failures.join("\n")),
    }
}

/// Runs every load with agents that this program runs under callgrind, and tells where it has written what they executed.
///
/// # Errors
/// When a load does not run.
pub(crate) fn profiled(lark: &Path, directory: &Path) -> Result<Vec<PathBuf>> {
    let programs = build(Some(lark))?;
    let mut stage = Stage::set_up(&programs, CONGESTION, &[], Vec::new())?;
    let meter = Meter::new(&stage, &programs.reference, CONGESTION, Duration::ZERO);
    layout::profiled(&meter, &mut stage, directory)
        .with_context(|| format!("agents under callgrind\n{}", stage.last_words()))
}

/// The rows asked for; all when none is named.
fn chosen(names: &[String]) -> Result<Vec<&'static Row>> {
    if names.is_empty() {
        return Ok(ROWS.iter().collect());
    }
    for name in names {
        ensure!(
            named(name).is_some(),
            "there is no row {name}; there are {}",
            ROWS.iter().map(|row| row.name).collect::<Vec<_>>().join(", ")
        );
    }
    Ok(ROWS.iter().filter(|row| names.iter().any(|name| name == row.name)).collect())
}

/// The jobs that give those rows. The cipher always: marks depend on it.
fn needed(rows: &[&Row]) -> impl Iterator<Item = Job> {
    JOBS.into_iter().filter(|job| *job == Job::Aead || rows.iter().any(|row| row.job == *job))
}

/// Everything in release, Lark by itself so that it is the binary that users build, unless one is given.
fn build(given: Option<&Path>) -> Result<Programs> {
    let lark = match given {
        Some(lark) => lark.canonicalize().with_context(|| format!("there is no {}", lark.display()))?,
        None => test::lark(true)?,
    };
    say("building load, relay, reference and scale (release)");
    let mut build: Command = test::cargo();
    build.args(["build", "--quiet", "--locked", "--release", "--package", "lark-bench", "--bins"]);
    install::run(&mut build)?;
    let directory = test::target_directory()?.join("release");
    let beside = |name: &str| directory.join(name);
    let (load, relay, reference) = (beside("lark-load"), beside("lark-relay"), beside("lark-reference"));
    Ok(Programs { scale: beside("lark-scale"), lark, load, relay, reference })
}

fn write(file: &PathBuf, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("{} cannot be written", file.display()))
}

#[expect(clippy::print_stdout, reason = "xtask is a program for the terminal")]
fn tell(text: &str) {
    println!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_named_or_all() {
        assert_eq!(chosen(&[]).unwrap().len(), ROWS.len());
        let names = ["conn32".to_owned(), "bulk1".to_owned()];
        assert_eq!(chosen(&names).unwrap().iter().map(|r| r.name).collect::<Vec<_>>(), ["bulk1", "conn32"]);
        assert!(chosen(&["bulk2".to_owned()]).unwrap_err().to_string().contains("uncaptured_bulk1"));
    }

    #[test]
    fn only_what_rows_need_is_measured() {
        let rows = chosen(&["cpu_gib8".to_owned()]).unwrap();
        assert_eq!(needed(&rows).collect::<Vec<_>>(), [Job::Aead, Job::Bulk8]);
    }
}
