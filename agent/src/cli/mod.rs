//! The command line: one file a verb, tables for people, `-o json` and `-o yaml` for programs.

/// Flags of `lark agent`.
pub mod agent;
mod bpf;
/// Flags of `lark bug-report`.
pub mod bug_report;
/// Flags of `lark ca`.
pub mod ca;
mod certs;
mod check;
mod client;
mod cluster;
mod completions;
mod connections;
mod dashboard;
mod edges;
mod explain;
/// Flags of `lark log`.
pub mod log;
mod output;
/// Flags of `lark policy`, and its table of cases.
pub mod policy;
mod services;
/// Flags of `lark stat`.
pub mod stat;
mod status;
/// Flags of `lark tap`.
pub mod tap;
/// Flags of `lark top`.
pub mod top;
mod trace;
mod version;
mod workloads;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use lark_core::constants::ADMIN_SOCKET;

pub use agent::{AgentArgs, Cipher, Ktls, Recognise};
pub(crate) use client::agent as ask_agent;
pub use cluster::ClusterQuery;
pub(crate) use cluster::Controller;
pub use dashboard::DashboardArgs;
pub use output::Format;

use crate::controller::{ControllerArgs, TokenArgs};

/// Node-level mTLS for Kubernetes: no sidecars, no restarts.
#[derive(Debug, Parser)]
#[command(name = "lark", version, about, arg_required_else_help = true, args_override_self = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent of this node.
    Agent(AgentArgs),
    /// Run the controller, which issues the workloads' certificates.
    Controller(ControllerArgs),
    /// Make a join token for a node's agent.
    Token(TokenArgs),
    /// The roots of the mesh: make, show, replace and print them.
    Ca(ca::CaArgs),
    /// Show workloads and whether they are captured.
    Workloads(Query),
    /// Show Services and whether they are in the mesh.
    Services(Query),
    /// Show live connections of captured pods.
    Connections(ClusterQuery),
    /// Show who talks to whom, and what secures it.
    Edges(ClusterQuery),
    /// Show how many requests there are, how they end and how long they take.
    Stat(stat::StatArgs),
    /// Show the busiest edges, again and again.
    Top(top::TopArgs),
    /// Show connections and requests as they happen.
    Tap(tap::TapArgs),
    /// Show the certificates of this node.
    Certs(ClusterQuery),
    /// Compare what is wanted with what the kernel has; exits with 1 if something is wrong.
    Check(ClusterQuery),
    /// Show how the agent of this node is, or of all.
    Status(ClusterQuery),
    /// Show all of it in a browser: who talks to whom, what secures it, how fast it is, and why not.
    Dashboard(DashboardArgs),
    /// Show programs, links, maps and counters in the kernel.
    Bpf(Query),
    /// Tell which way a connection would take, and why, or what became of the last one; opens nothing.
    Trace(trace::TraceArgs),
    /// Show policies, tell what they say of a connection, test what is expected of them.
    Policy(policy::PolicyArgs),
    /// Show which lines the agent logs, or have it log others for a while.
    Log(log::LogArgs),
    /// Write an archive of what this node's agent knows, without secrets, for somebody who is to help.
    BugReport(bug_report::BugReportArgs),
    /// Explain a reason, cause, state or event that Lark printed; without one, list all.
    Explain(explain::ExplainArgs),
    /// Print a script by which a shell completes verbs and flags.
    Completions(completions::CompletionsArgs),
    /// Show the version.
    Version(version::VersionArgs),
}

/// What all queries have in common.
#[derive(Debug, Clone, Args)]
pub struct Query {
    /// Unix socket of the agent's admin API.
    ///
    /// Default /run/lark/admin.sock. Only root of the node may open it.
    #[arg(long, env = "LARK_ADMIN_SOCKET", value_name = "PATH", default_value = ADMIN_SOCKET)]
    pub admin_socket: PathBuf,
    /// How to print: table, json or yaml.
    ///
    /// Default table. The fields of json and yaml are stable; tables are for people.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// Runs a query verb.
///
/// # Errors
/// With one sentence that says what to do. `agent`, `controller`, `token`, `dashboard` and `ca init` are not queries.
pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Workloads(query) => workloads::run(&query).await,
        Command::Services(query) => services::run(&query).await,
        Command::Connections(query) => connections::run(&query).await,
        Command::Edges(query) => edges::run(&query).await,
        Command::Stat(args) => stat::run(&args).await,
        Command::Top(args) => top::run(&args).await,
        Command::Tap(args) => tap::run(&args).await,
        Command::Log(args) => log::run(&args).await,
        Command::BugReport(args) => bug_report::run(&args).await,
        Command::Certs(query) => certs::run(&query).await,
        Command::Check(query) => check::run(&query).await,
        Command::Status(query) => status::run(&query).await,
        Command::Bpf(query) => bpf::run(&query).await,
        Command::Trace(args) => trace::run(&args).await,
        Command::Policy(args) => policy::run(&args).await,
        Command::Explain(args) => explain::run(&args),
        Command::Ca(args) => ca::run(&args).await,
        Command::Completions(args) => completions::run(&args),
        Command::Version(args) => version::run(&args),
        Command::Agent(_) | Command::Controller(_) | Command::Token(_) | Command::Dashboard(_) => {
            anyhow::bail!("not a query")
        }
    }
}

#[cfg(test)]
mod tests;
