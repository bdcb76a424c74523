//! `cargo xtask scale`: two agents in a cluster of many pods, whose API is that of the tests: what a start costs and
//! what changes cost, in time, memory, requests and bytes. ARCHITECTURE.md has what follows for large clusters.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lark_testbed::{Agent, Controller, Mesh, Node, Running, Testbed};
use serde_json::{Value, json};

use crate::install::{self, say};
use crate::process::resident;
use crate::test;

/// An agent that is not ready by then will not be.
const PATIENCE: Duration = Duration::from_secs(600);

/// Measures what a large cluster costs an agent and the API server (needs root).
///
/// The cluster is one of the tests' API server: real TLS, lists in pages, watches, no compression. Pods are as large
/// as a Deployment's with two containers. The API server, the controller and the agents share this machine. Agents
/// start one after the other.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Pods, all captured, on other nodes than the two that have agents.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pods: usize,
    /// Services, of ten pods each.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    services: usize,
    /// Nodes.
    #[arg(long, value_name = "N", default_value_t = 5_000)]
    nodes: usize,
    /// Pods that are replaced a second: 28 make 5,000 changes of pods and slices a minute.
    #[arg(long, value_name = "N", default_value_t = 28)]
    replaced: usize,
    /// For how many seconds pods are replaced.
    #[arg(long, value_name = "N", default_value_t = 30)]
    seconds: usize,
    /// Write the figures into this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Take the debug build instead of making a release build.
    #[arg(long)]
    debug: bool,
    /// Measure this binary instead of building one.
    #[arg(long, value_name = "FILE")]
    lark: Option<PathBuf>,
}

/// Runs the task. Everything it made is taken down at its end.
///
/// # Errors
/// When something does not run.
pub(crate) fn run(args: &Args) -> Result<()> {
    test::able()?;
    install::debian(&install::TESTS)?;
    let (lark, scale) = build(args)?;
    let mut bed = Testbed::with_lark(&lark)?;
    let nodes = [bed.node("one")?, bed.node("two")?];
    say(&format!("{} pods, {} Services, {} nodes", args.pods, args.services, args.nodes));
    let mut api = Api::start(&bed, &nodes, &scale, args)?;
    let config = api.told["kubeconfig"].as_str().context("no kubeconfig")?.to_owned();
    let mesh = Mesh::elsewhere(&format!("kubernetes:{config}"));
    let account = ["--agent-account=lark-system/lark-agent".to_owned()];
    let controller = Controller::start_with(&bed, &nodes[0], &[], &mesh, &account)?;

    // The controller hears of all this bit by bit, as one of a cluster that has grown.
    let filled = api.ask("fill")?;
    let before = api.ask("requests")?;
    let mut agents = Vec::new();
    for node in &nodes {
        say(&format!("the agent of node {}", node.name));
        agents.push(start(&bed, node, &controller, &mesh)?);
    }
    let after = api.ask("requests")?;
    let each = |verb: &str| {
        let count = |all: &Value| all[verb].as_f64().unwrap_or(0.0);
        (count(&after) - count(&before)) / nodes.len() as f64
    };
    // The second one's: the first one reaches the server within its node.
    let process = agents[1].0.pid();
    let (start_bytes, start_cpu) = (received(process)?, cpu(process)?);
    let started: Vec<Value> = agents.iter().map(|a| figures(&a.0, a.1)).collect::<Result<_>>()?;
    say("pods are replaced");
    let replaced = api.ask(&format!("replace {} {}", args.replaced * args.seconds, args.seconds))?;
    // What is under way arrives.
    std::thread::sleep(Duration::from_secs(2));
    let (bytes, cpu) = (received(process)? - start_bytes, cpu(process)? - start_cpu);
    let (count, seconds) =
        (replaced["replaced"].as_f64().unwrap_or(0.0), replaced["seconds"].as_f64().unwrap_or(1.0));
    let changed: Vec<Value> =
        agents.iter().map(|a| resident(a.0.pid()).map(|mib| json!(mib))).collect::<Result<_>>()?;
    let figures = json!({
        "pods": args.pods, "services": args.services, "nodes": args.nodes, "bytes_a_pod": filled["bytes_a_pod"],
        "agents": started,
        "lists": each("list"), "watches": each("watch"), "start_mb": start_bytes / 1e6,
        "replaced_a_second": count / seconds, "bytes_a_replaced_pod": bytes / count.max(1.0),
        "cpu_percent_while_replaced": cpu / seconds * 100.0, "memory_mib_after": changed,
    });
    let text = serde_json::to_string_pretty(&figures)?;
    say(&text);
    if let Some(file) = &args.json {
        std::fs::write(file, text + "\n").with_context(|| format!("{} cannot be written", file.display()))?;
    }
    for (mut agent, _) in agents {
        agent.kill();
    }
    Ok(())
}

/// Lark by itself, so that it is the binary that users build, and what serves the API.
fn build(args: &Args) -> Result<(PathBuf, PathBuf)> {
    let given = match &args.lark {
        Some(lark) => Some(lark.canonicalize().with_context(|| format!("there is no {}", lark.display()))?),
        None => None,
    };
    if args.debug {
        let lark = test::lark(false)?;
        let scale = lark.with_file_name("lark-scale");
        return Ok((given.unwrap_or(lark), scale));
    }
    let lark = match given {
        Some(lark) => lark,
        None => test::lark(true)?,
    };
    say("building lark-scale (release)");
    let mut build = test::cargo();
    build.args([
        "build",
        "--quiet",
        "--locked",
        "--release",
        "--package",
        "lark-bench",
        "--bin",
        "lark-scale",
    ]);
    install::run(&mut build)?;
    Ok((lark, test::target_directory()?.join("release/lark-scale")))
}

/// The API server, in a process of its own on the first node.
struct Api {
    process: Child,
    answers: BufReader<std::process::ChildStdout>,
    /// What it said first.
    told: Value,
}

impl Api {
    fn start(bed: &Testbed, nodes: &[Node; 2], scale: &Path, args: &Args) -> Result<Self> {
        let mut command: Command = nodes[0].place.command(scale);
        command.args(["api", "--listen", &format!("{}:6443", nodes[0].ip), "--home"]).arg(bed.directory());
        for node in nodes {
            command.arg(format!("--agent={}={}", node.name, node.ip));
        }
        for (flag, value) in [("pods", args.pods), ("services", args.services), ("nodes", args.nodes)] {
            command.arg(format!("--{flag}={value}"));
        }
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let answers = BufReader::new(process.stdout.take().context("no output of lark-scale")?);
        let mut api = Self { process, answers, told: Value::Null };
        api.told = api.answer()?;
        Ok(api)
    }

    fn ask(&mut self, line: &str) -> Result<Value> {
        let orders = self.process.stdin.as_mut().context("no input of lark-scale")?;
        writeln!(orders, "{line}")?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("lark-scale printed {line:?}"))
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts an agent, and the seconds until it runs.
fn start(bed: &Testbed, node: &Node, controller: &Controller, mesh: &Mesh) -> Result<(Running, f64)> {
    let mut command = Agent::command(bed, node, controller, mesh)?;
    let token = bed.directory().join(format!("token-of-{}", node.name));
    command.arg(format!("--token-file={}", token.display())).arg("--destinations-max=262144");
    let log = bed.directory().join(format!("agent-{}.log", node.name));
    let began = Instant::now();
    let mut process = node.place.start(command, &log)?;
    while !process.log().contains("agent runs") {
        if !process.is_running() || began.elapsed() > PATIENCE {
            bail!("the agent of {} is not ready after {:?}: {}", node.name, began.elapsed(), process.log());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok((process, began.elapsed().as_secs_f64()))
}

/// What an agent has cost until it ran.
fn figures(agent: &Running, seconds: f64) -> Result<Value> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let peak: f64 = peak.trim().trim_end_matches(" kB").parse().context("VmHWM is no number")?;
    Ok(json!({
        "start_s": seconds, "start_cpu_s": cpu(agent.pid())?,
        "memory_mib": resident(agent.pid())?, "memory_peak_mib": peak / 1024.0,
    }))
}

/// Bytes that the network namespace of a process has received from others.
fn received(process: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/net/dev"))?;
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let counted = lines.filter(|(name, _)| name.trim() == "eth0");
    Ok(counted.filter_map(|(_, rest)| rest.split_whitespace().next()?.parse::<f64>().ok()).sum())
}

/// CPU time of a process so far, in seconds.
fn cpu(process: u32) -> Result<f64> {
    let mut nanoseconds = 0.0;
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let text = std::fs::read_to_string(thread?.path().join("schedstat"))?;
        nanoseconds += text.split(' ').next().and_then(|n| n.parse::<f64>().ok()).context("no schedstat")?;
    }
    Ok(nanoseconds * 1e-9)
}
