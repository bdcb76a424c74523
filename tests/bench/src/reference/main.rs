//! The bench's reference: a pair of HTTP/2 CONNECT tunnels as peers build them from `h2` and
//! tokio-rustls. One process a node, mutual TLS 1.3, a stream for each connection, at most a hundred
//! streams a tunnel, windows and frames as large as ztunnel's. Also measures the AEAD by itself.

#![forbid(unsafe_code)]

/// Its end at the server's node.
mod accept;
/// AES by itself.
mod aead;
/// Bytes between a socket and a stream.
mod copy;
/// Its end at the client's node.
mod dial;
/// Certificates and TLS.
mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use lark_sys::netns::NetNs;

/// One end of the reference tunnel.
#[derive(Debug, Parser)]
#[command(name = "lark-reference", arg_required_else_help = true)]
struct Cli {
    /// What to do.
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a CA and a certificate for each end.
    Keys {
        /// Where they are written.
        directory: PathBuf,
    },
    /// Take connections into a tunnel.
    Dial {
        /// Directory of keys.
        #[arg(long, value_name = "DIR")]
        keys: PathBuf,
        /// Network namespace of the listeners.
        #[arg(long, value_name = "FILE")]
        listen_in: PathBuf,
        /// The other end.
        #[arg(long, value_name = "ADDR:PORT")]
        via: SocketAddr,
        /// LISTEN=TO, both an address and a port; again for each.
        #[arg(long = "way", value_name = "LISTEN=TO", required = true)]
        ways: Vec<String>,
    },
    /// Take tunnels and connect their streams.
    Accept {
        /// Directory of keys.
        #[arg(long, value_name = "DIR")]
        keys: PathBuf,
        /// Where tunnels are taken.
        #[arg(long, value_name = "ADDR:PORT")]
        listen: SocketAddr,
        /// Network namespace of the dialled sockets.
        #[arg(long, value_name = "FILE")]
        dial_in: PathBuf,
    },
    /// Measure sealing and opening of 16 KiB records on one core.
    Aead {
        /// How long, for each.
        #[arg(long, default_value_t = 0.1)]
        seconds: f64,
    },
}

fn main() -> Result<()> {
    lark_sys::socket::raise_descriptor_limit();
    match Cli::parse().verb {
        Verb::Keys { directory } => tls::write_keys(&directory),
        Verb::Aead { seconds } => {
            say(&aead::measure(std::time::Duration::from_secs_f64(seconds))?.to_string())
        }
        Verb::Dial { keys, listen_in, via, ways } => {
            let there = NetNs::open(&listen_in)?;
            let mut listeners = Vec::new();
            for way in ways {
                let (listen, to) = way.split_once('=').context("a way is LISTEN=TO")?;
                let listen: SocketAddr = listen.parse()?;
                listeners.push((there.within(|| lark_sys::socket::listen(listen))??, to.parse()?));
            }
            let connector = tls::connector(&keys)?;
            say("ready")?;
            runtime()?.block_on(dial::run(listeners, via, connector))
        }
        Verb::Accept { keys, listen, dial_in } => {
            let listener = lark_sys::socket::listen(listen)?;
            let acceptor = tls::acceptor(&keys)?;
            let there = NetNs::open(&dial_in)?;
            say("ready")?;
            runtime()?.block_on(accept::run(listener, acceptor, there))
        }
    }
}

/// A worker a core, as peers have it.
fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_io().build()?)
}

#[expect(clippy::print_stdout, reason = "a program for the bench, which reads its output")]
fn say(text: &str) -> Result<()> {
    println!("{text}");
    Ok(())
}
