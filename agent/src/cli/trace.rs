//! `lark trace`: which way a connection would take, and why; or what became of the last one. Opens nothing.

use std::process::ExitCode;

use clap::Args;
use lark_core::view::{CourseView, TraceView};

use super::cluster::{ClusterQuery, Told, ask};
use super::output;

/// Flags of `lark trace`.
#[derive(Debug, Clone, Args)]
pub struct TraceArgs {
    /// The workload that would connect, or has, NAMESPACE/NAME.
    ///
    /// No default. Without --cluster it must run on this node, or the last connection must have come here.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub from: String,
    /// Where it would connect to, IP:PORT; with --last also NAMESPACE/NAME of a workload or Service.
    ///
    /// No default. IPv6 in brackets.
    #[arg(long, value_name = "IP:PORT")]
    pub to: String,
    /// Tell what became of the last connection between the two, stage by stage with times.
    ///
    /// Default: off, and it is told what would become of one. The agents of both ends know their part of it; it may
    /// go on still. Each remembers 512 pairs of workloads. Exits with 1 if nobody who was asked saw one.
    #[arg(long)]
    pub last: bool,
    /// Where to ask and how to print.
    #[command(flatten)]
    pub at: ClusterQuery,
}

pub(super) async fn run(args: &TraceArgs) -> anyhow::Result<ExitCode> {
    let words = format!("from={}&to={}", args.from, args.to);
    if args.last {
        return last(args, &words).await;
    }
    let trace: Told<TraceView> = ask(&args.at, &format!("trace?{words}")).await?;
    let trace = trace.of_those_concerned();
    trace.print(&args.at, table, &["STAGE", "FOUND"], rows)?;
    Ok(ExitCode::SUCCESS)
}

fn rows(trace: &TraceView) -> Vec<Vec<String>> {
    let step = |stage: &str, found: &str| vec![stage.to_owned(), found.to_owned()];
    let mut rows = vec![step("from", &trace.from), step("to", &trace.to)];
    rows.extend(trace.steps.iter().map(|s| step(&s.stage, &s.found)));
    rows.push(step("so", &trace.way));
    rows
}

fn table(trace: &TraceView) -> String {
    let mut table = output::Table::default();
    rows(trace).into_iter().for_each(|row| table.row(row));
    table.render()
}

async fn last(args: &TraceArgs, words: &str) -> anyhow::Result<ExitCode> {
    let found: Told<Vec<CourseView>> = ask(&args.at, &format!("last?{words}")).await?;
    let head = ["DIRECTION", "STAGE", "AT", "FOUND"];
    let all = |all: &Vec<CourseView>| all.iter().flat_map(stages).collect::<Vec<_>>();
    let here = |found: &Vec<CourseView>| {
        let mut table = output::Table::new(&head);
        all(found).into_iter().for_each(|row| table.row(row));
        table.render()
    };
    found.print(&args.at, here, &head, all)?;
    if found.answers().any(|seen| !seen.is_empty()) {
        return Ok(ExitCode::SUCCESS);
    }
    output::aside(&format!("no connection from {} to {} was seen", args.from, args.to));
    Ok(ExitCode::FAILURE)
}

/// A connection's rows, the first with what it is.
fn stages(course: &CourseView) -> Vec<Vec<String>> {
    let row =
        |stage: &str, at: String, found: String| vec![course.direction.clone(), stage.to_owned(), at, found];
    let secured = course.secured.map_or("… opening", |secured| secured.sign());
    let what = format!(
        "{} {} → {} {}, {secured}",
        course.source.full_name(),
        course.source_address,
        course.destination.full_name(),
        course.destination_address
    );
    let mut rows = vec![row("connection", output::clock(course.began_ms), what)];
    rows.extend(course.stages.iter().map(|stage| {
        let after = format!("+{}", super::stat::latency(Some(stage.after_seconds)));
        row(&stage.stage, after, stage.found.clone())
    }));
    rows
}
