//! `cargo xtask soak`: mixed real traffic between two nodes for as long as is asked, while pods, certificates
//! and agents come and go; then a judgement whether anything leaked or broke.
//!
//! The first node's agent and the controller run from the beginning to the end: what they hold must be flat. The
//! second node's agent is upgraded and killed by turns. Certificates live for a minute, so every tunnel
//! ends several times over. All traffic knows what it must get back.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::install::{self, say};
use crate::test;

/// What is sampled, and how it is judged.
mod judge;
/// The picture.
mod plot;
/// The document and the JSON.
mod report;
/// Samples of agents and traffic.
mod sample;
/// Nodes, servers and clients.
mod stage;
/// Clients that do the same thing again and again.
mod traffic;

use judge::{Event, Kind, Run};
use stage::Stage;

/// Between two events of the second node's agent.
const AGENT_EVERY: Duration = Duration::from_secs(10);
/// Failures without a cause of which clients' and agents' words are kept.
const TOLD_MAX: u32 = 20;
/// Between two samples.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// Runs mixed real traffic while pods, certificates and agents come and go, and judges leaks (needs root).
///
/// Two nodes are made of network namespaces and cgroups, as for the demo. nginx and curl, PostgreSQL and
/// pgbench, redis, and an echo whose every byte is compared, all through Lark. Certificates live for a minute.
/// Pods come and go all the time; every ten seconds the second node's agent is upgraded or killed, by turns.
/// Memory and descriptors of what runs throughout must be flat after the first quarter, nothing but what a kill
/// explains may fail, and no byte may be wrong.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long the traffic goes on.
    #[arg(long, value_name = "N", default_value_t = 2,
        value_parser = clap::value_parser!(u64).range(1..=1440))]
    minutes: u64,
    /// Write a picture of the run into this file, as SVG.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Write all samples, events and judgements into this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write docs/soak.md and docs/soak.svg.
    #[arg(long)]
    docs: bool,
    /// Take the debug build, which the tests use too, instead of making a release build.
    #[arg(long)]
    debug: bool,
}

/// Runs the task. Everything it made is taken down at its end, at a failure and at Ctrl-C.
///
/// # Errors
/// When something leaks or breaks; with a sentence for each. What was measured is written all the same.
pub(crate) fn run(args: &Args) -> Result<()> {
    test::able()?;
    install::debian(install::DEMO.iter().chain(&install::TESTS))?;
    // By the end of an hour something else may be checked out.
    let commit = report::commit();
    let binary = test::lark(!args.debug)?;
    say("two nodes with agents, nginx, PostgreSQL, redis and echo servers, and clients for each");
    let mut stage = Stage::set_up(&binary)?;
    say(&format!("everything runs; {} minutes from now", args.minutes));
    let run = soak(&mut stage, Duration::from_secs(args.minutes * 60))?;
    drop(stage);

    let verdicts = judge::judge(&run);
    let facts = report::facts(args.minutes, !args.debug, &commit, &run);
    let failed: Vec<&str> = verdicts.iter().filter(|v| !v.met).map(|v| v.sentence.as_str()).collect();
    verdicts.iter().for_each(|v| tell(&format!("{} {}", if v.met { "√" } else { "✗" }, v.sentence)));
    if let Some(file) = &args.json {
        let all: Value = json!({ "facts": facts, "run": run, "verdicts": verdicts });
        write(file, &format!("{}\n", serde_json::to_string(&all)?))?;
    }
    if let Some(file) = &args.svg {
        write(file, &plot::draw(&run, &report::caption(&facts)))?;
    }
    if args.docs {
        let docs = test::metadata()?.workspace_root.join("docs");
        write(&docs.join("soak.svg"), &plot::draw(&run, &report::caption(&facts)))?;
        write(&docs.join("soak.md"), &report::document(&facts, &run, &verdicts))?;
        say("wrote docs/soak.md and docs/soak.svg");
    }
    match failed.len() {
        0 => Ok(()),
        _ => bail!("{}\n{}", failed.join("\n"), run.words.join("\n")),
    }
}

/// The whole run: one thing after another, so that what failed can be told from what was done.
fn soak(stage: &mut Stage, time: Duration) -> Result<Run> {
    let began = Instant::now();
    let mut run = Run { at_rest: stage.at_rest()?, ..Run::default() };
    stage.begin_traffic()?;
    let seconds = |at: Instant| at.duration_since(began).as_secs_f64();
    let (mut next_agent, mut next_sample, mut said, mut told) = (began + AGENT_EVERY, began, 0, 0);
    while began.elapsed() < time {
        stage.pod_life(&mut run.pods)?;
        if Instant::now() >= next_agent {
            let kind = if run.events.len().is_multiple_of(2) { Kind::Upgrade } else { Kind::Kill };
            let from = seconds(Instant::now());
            stage.agent(kind)?;
            run.events.push(Event { kind, from, to: seconds(Instant::now()) });
            next_agent = Instant::now() + AGENT_EVERY;
        }
        if Instant::now() >= next_sample {
            run.samples.push(stage.sample(seconds(Instant::now()), &run.pods)?);
            next_sample += SAMPLE_EVERY;
            let failed = run.unexplained();
            if !failed.is_empty() && told < TOLD_MAX {
                told += 1;
                // At the end it would be gone.
                run.words.push(format!("at {:.1} s {} failed:", seconds(Instant::now()), failed.join(", ")));
                run.words.extend(stage.last_words());
            }
        }
        if began.elapsed().as_secs() / 60 > said {
            said += 1;
            say(&format!("{said} min: {}", run.summary()));
        }
    }
    run.words.push("at the end:".to_owned());
    run.words.extend(stage.last_words());
    stage.end_traffic()?;
    run.samples.push(stage.sample(seconds(Instant::now()), &run.pods)?);
    run.after = stage.after(&run.at_rest)?;
    run.certificates = stage.certificates();
    Ok(run)
}

fn write(file: &PathBuf, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("{} cannot be written", file.display()))
}

#[expect(clippy::print_stdout, reason = "xtask is a program for the terminal")]
fn tell(text: &str) {
    println!("{text}");
}
