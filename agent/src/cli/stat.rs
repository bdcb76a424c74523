//! `lark stat`: requests of the last seconds, by workload or by edge.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use lark_core::view::RequestsView;

use super::cluster::{ClusterQuery, Told, ask};
use super::output;

/// What a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// Who is asked.
    Workload,
    /// Who asks whom.
    Edge,
}

impl By {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Workload => "workload",
            Self::Edge => "edge",
        }
    }
}

/// Which requests, and how they are put together.
#[derive(Debug, Clone, Args)]
pub struct StatArgs {
    /// What a row is: workload or edge.
    ///
    /// Default workload, all that is asked of it. edge: who asks whom.
    #[arg(long, value_enum, default_value = "workload")]
    pub by: By,
    /// How many seconds back to look, 10 to 60.
    ///
    /// Default 60. The agent remembers in steps of ten seconds; the column SECONDS says what was looked at.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(10..=60))]
    pub window: u64,
    /// Only rows with a workload of this namespace at either end.
    ///
    /// Default: all.
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Where to ask, and how to print.
    #[command(flatten)]
    pub at: ClusterQuery,
}

pub(super) async fn run(args: &StatArgs) -> anyhow::Result<ExitCode> {
    let mut told: Told<Vec<RequestsView>> = ask(&args.at, &question(args.by, args.window)).await?;
    if let Some(namespace) = &args.namespace {
        told.retain(|row| row.source_namespace == *namespace || row.destination_namespace == *namespace);
    }
    told.print_list(&args.at, &head(args.by), |view| row(view, args.by))?;
    Ok(ExitCode::SUCCESS)
}

/// What an agent is asked, below `/v1/`.
pub(super) fn question(by: By, seconds: u64) -> String {
    format!("requests?by={}&seconds={seconds}", by.word())
}

/// The table's head.
pub(super) fn head(by: By) -> Vec<&'static str> {
    const NUMBERS: [&str; 8] =
        ["REQUESTS", "RPS", "SUCCESS", "P50", "P95", "P99", "FIRST_BYTE_P50", "SECONDS"];
    let who: &[&str] = match by {
        By::Workload => &["NAMESPACE", "WORKLOAD", "DIRECTION"],
        By::Edge => &["SRC_NS", "SRC", "DST_NS", "DST", "DIRECTION"],
    };
    [who, &NUMBERS].concat()
}

/// A row of it.
pub(super) fn row(view: &RequestsView, by: By) -> Vec<String> {
    let mut cells = match by {
        By::Workload => vec![],
        By::Edge => vec![output::or_dash(&view.source_namespace), output::or_dash(&view.source)],
    };
    cells.extend([
        output::or_dash(&view.destination_namespace),
        output::or_dash(&view.destination),
        view.direction.clone(),
        view.requests.to_string(),
        format!("{:.1}", view.per_second),
        view.success.map_or_else(|| "-".to_owned(), |part| format!("{:.2}%", part * 100.0)),
        latency(view.last_byte.p50),
        latency(view.last_byte.p95),
        latency(view.last_byte.p99),
        latency(view.first_byte.p50),
        format!("{:.0}", view.seconds),
    ]);
    cells
}

/// Seconds as people say them.
pub(super) fn latency(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds < 0.001 => format!("{:.0}µs", seconds * 1e6),
        Some(seconds) if seconds < 1.0 => format!("{:.1}ms", seconds * 1e3),
        Some(seconds) => format!("{seconds:.1}s"),
    }
}
