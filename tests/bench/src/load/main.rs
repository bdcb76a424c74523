//! The bench's load: servers and clients on epoll, one thread for all connections of a process. Each
//! client run is bounded in time and prints one line of JSON.

#![forbid(unsafe_code)]

/// Bytes in one direction, as many as go.
mod bulk;
/// New connections.
mod connect;
/// Small messages there and back.
mod echo;
/// Open connections that do nothing.
mod hold;
/// Messages of HTTP.
mod http;
/// epoll, and sockets for it.
mod poll;
/// The other end of all of it.
mod serve;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use serde_json::Value;

/// Loads a TCP path and tells what came through.
#[derive(Debug, Parser)]
#[command(name = "lark-load", arg_required_else_help = true)]
struct Cli {
    /// Congestion control of the load's own sockets.
    #[arg(long, global = true, default_value = "reno", value_name = "NAME")]
    congestion: String,
    /// What to do.
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve until ended, of every IPv4 address: echo on PORT, a sink on PORT+1, a source on PORT+2, HTTP on PORT+3.
    Serve {
        /// The first port.
        #[arg(long, default_value_t = 9000)]
        port: u16,
    },
    /// Send to a sink, or receive from a source, and count bytes.
    Bulk {
        /// The sink or source.
        to: SocketAddr,
        /// Connections.
        #[arg(long, default_value_t = 1)]
        streams: usize,
        /// How long.
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
        /// Receive instead of sending.
        #[arg(long)]
        down: bool,
        /// Send the bytes as the body of an HTTP request.
        #[arg(long, conflicts_with = "down")]
        http: bool,
    },
    /// Send 64 bytes on each connection, wait for them, and again; times in microseconds.
    Echo {
        /// The echo server.
        to: SocketAddr,
        /// Connections.
        #[arg(long, default_value_t = 1)]
        connections: usize,
        /// How long.
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
        /// Send a request and wait for an answer, both of 64 bytes, of the HTTP server.
        #[arg(long)]
        http: bool,
    },
    /// Connect, echo 64 bytes once, close, and again; times in microseconds.
    Connect {
        /// The echo server.
        to: SocketAddr,
        /// Connections at a time.
        #[arg(long, default_value_t = 1)]
        at_once: usize,
        /// How long.
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
    },
    /// Open connections, echo 64 bytes once on each, say so, and keep them.
    Hold {
        /// The echo server.
        to: SocketAddr,
        /// Connections.
        #[arg(long)]
        connections: usize,
        /// How long they are kept.
        #[arg(long, default_value_t = 60.0)]
        seconds: f64,
        /// A request and an answer on each instead, of the HTTP server.
        #[arg(long)]
        http: bool,
    },
}

fn main() -> Result<()> {
    lark_sys::socket::raise_descriptor_limit();
    let cli = Cli::parse();
    let congestion = cli.congestion.as_str();
    let seconds = Duration::from_secs_f64;
    match cli.verb {
        Verb::Serve { port } => serve::run(port, congestion),
        Verb::Bulk { to, streams, seconds: time, down: false, http } => {
            say(&bulk::up(to, streams, seconds(time), congestion, http)?)
        }
        Verb::Bulk { to, streams, seconds: time, down: true, .. } => {
            say(&bulk::down(to, streams, seconds(time), congestion)?)
        }
        Verb::Echo { to, connections, seconds: time, http } => {
            say(&echo::run(to, connections, seconds(time), congestion, http)?)
        }
        Verb::Connect { to, at_once, seconds: time } => {
            say(&connect::run(to, at_once, seconds(time), congestion)?)
        }
        Verb::Hold { to, connections, seconds: time, http } => {
            let kept = hold::open(to, connections, congestion, http)?;
            say(&serde_json::json!({ "open": kept.len() }))?;
            std::thread::sleep(seconds(time));
            Ok(())
        }
    }
}

#[expect(clippy::print_stdout, reason = "a program for the bench, which reads its output")]
fn say(result: &Value) -> Result<()> {
    println!("{result}");
    Ok(())
}
