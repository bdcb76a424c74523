//! The bench's scale: a snapshot of a large cluster, its API, connects through the kernel's hooks, and a worker's end
//! of many tunnels. Each run prints one line of JSON, or one for each thing that it is asked.

#![forbid(unsafe_code)]

/// A large cluster's API.
mod api;
/// What a process costs.
mod cost;
/// A large cluster's snapshot.
mod cluster;
/// Connects through the kernel's hooks.
mod hooks;
/// Many tunnels between two workers.
mod tunnels;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use serde_json::Value;

/// Measures Lark's parts at scale.
#[derive(Debug, Parser)]
#[command(name = "lark-scale", arg_required_else_help = true)]
struct Cli {
    /// What to do.
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build a snapshot, change it one workload at a time, and decide routes with it.
    Cluster {
        /// Workloads, all captured.
        #[arg(long, default_value_t = 100_000)]
        workloads: usize,
        /// Services, with ten endpoints and two ports each.
        #[arg(long, default_value_t = 10_000)]
        services: usize,
        /// Nodes.
        #[arg(long, default_value_t = 5_000)]
        nodes: usize,
    },
    /// Serve the API of a large cluster until standard input ends. Prints where it is, with
    /// nothing in it but the agents, then an answer for each line: `fill`, `requests`, or `replace N SECONDS`.
    Api {
        /// Where it listens.
        #[arg(long, value_name = "ADDR:PORT")]
        listen: SocketAddr,
        /// Directory for the kubeconfig and the agents' tokens.
        #[arg(long, value_name = "DIR")]
        home: PathBuf,
        /// A node that has an agent, NAME=ADDR; may be given several times.
        #[arg(long = "agent", value_name = "NAME=ADDR")]
        agents: Vec<String>,
        /// Pods, all captured, on other nodes.
        #[arg(long, default_value_t = 100_000)]
        pods: usize,
        /// Services, of ten pods each.
        #[arg(long, default_value_t = 10_000)]
        services: usize,
        /// Nodes.
        #[arg(long, default_value_t = 5_000)]
        nodes: usize,
    },
    /// Connect through the hooks of a permissive and of a strict pod, in a network namespace of its own.
    Hooks {
        /// Connects of each kind.
        #[arg(long, default_value_t = 20_000)]
        connects: usize,
        /// Mesh destinations that the map has beside the one.
        #[arg(long, default_value_t = 100_000)]
        destinations: u32,
    },
    /// Take tunnels until ended; prints the address first.
    Accept {
        /// Directory of the CA, made if it is not there.
        #[arg(long, value_name = "DIR")]
        keys: PathBuf,
    },
    /// Open tunnels to an `accept`, all nodes' first ones at once, and hold them idle.
    Dial {
        /// Directory of the CA.
        #[arg(long, value_name = "DIR")]
        keys: PathBuf,
        /// Where `accept` listens; each node is another loopback address with that port.
        #[arg(long, value_name = "ADDR:PORT")]
        via: SocketAddr,
        /// Process of `accept`, whose costs are told too.
        #[arg(long, value_name = "PID")]
        peer: u32,
        /// Nodes.
        #[arg(long, default_value_t = 1_000)]
        nodes: u32,
        /// How long everything is left idle, in seconds.
        #[arg(long, default_value_t = 10.0)]
        idle: f64,
    },
}

fn main() -> Result<()> {
    lark_sys::socket::raise_descriptor_limit();
    match Cli::parse().verb {
        Verb::Cluster { workloads, services, nodes } => say(&cluster::measure(workloads, services, nodes)?),
        Verb::Api { listen, home, agents, pods, services, nodes } => {
            api::Cluster { pods, services, nodes }.serve(listen, &home, &agents, say)
        }
        Verb::Hooks { connects, destinations } => say(&hooks::measure(connects, destinations)?),
        Verb::Accept { keys } => tunnels::accept(&keys, |address| say(&Value::String(address.to_string()))),
        Verb::Dial { keys, via, peer, nodes, idle } => say(&tunnels::dial(&keys, via, peer, nodes, idle)?),
    }
}

#[expect(clippy::print_stdout, reason = "a program for the bench, which reads its output")]
fn say(result: &Value) -> Result<()> {
    println!("{result}");
    Ok(())
}
