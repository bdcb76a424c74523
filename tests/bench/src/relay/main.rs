//! The bench's floor: bytes go from one socket to another, by 256 KiB, without TLS or framing. Two of
//! these make the two hops of a tunnel; sockets are made in the namespaces in which Lark makes its own.

#![forbid(unsafe_code)]

/// Bytes from one socket to another.
mod pump;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use lark_sys::netns::NetNs;
use lark_sys::socket::{delivery_socket, plain_socket, raise_descriptor_limit, set_nodelay};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpSocket;

/// Relays connections; one thread a core, each with its own listeners.
#[derive(Debug, Parser)]
#[command(name = "lark-relay")]
struct Cli {
    /// Network namespace of the listeners.
    #[arg(long, value_name = "FILE")]
    listen_in: PathBuf,
    /// Network namespace of the dialled sockets.
    #[arg(long, value_name = "FILE")]
    dial_in: PathBuf,
    /// LISTEN=TO, both an address and a port; again for each.
    #[arg(long = "way", value_name = "LISTEN=TO", required = true)]
    ways: Vec<Way>,
    /// Look for more for so many microseconds before sleeping, as Lark's workers do when they are told.
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0)]
    spin: u64,
}

#[derive(Debug, Clone, Copy)]
struct Way {
    listen: SocketAddr,
    to: SocketAddr,
}

impl FromStr for Way {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (listen, to) = text.split_once('=').context("a way is LISTEN=TO")?;
        Ok(Self { listen: listen.parse()?, to: to.parse()? })
    }
}

fn main() -> Result<()> {
    raise_descriptor_limit();
    let cli = Cli::parse();
    let (there, beyond) = (NetNs::open(&cli.listen_in)?, Arc::new(NetNs::open(&cli.dial_in)?));
    let mut threads = Vec::new();
    for _ in 0..std::thread::available_parallelism()?.get() {
        let listeners = cli
            .ways
            .iter()
            .map(|way| Ok((there.within(|| listen(way.listen))??, way.to)))
            .collect::<Result<Vec<_>>>()?;
        let beyond = beyond.clone();
        let spin = Duration::from_micros(cli.spin);
        threads.push(std::thread::spawn(move || serve(listeners, &beyond, spin)));
    }
    say_ready();
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a program for the bench, which reads its output")]
fn say_ready() {
    println!("ready");
}

/// One of several listeners of an address.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

fn serve(listeners: Vec<(TcpListener, SocketAddr)>, beyond: &Arc<NetNs>, spin: Duration) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        if !spin.is_zero() {
            tokio::spawn(lark_tunnel::spin(spin));
        }
        let mut ways = Vec::new();
        for (listener, to) in listeners {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let beyond = beyond.clone();
            ways.push(tokio::spawn(async move {
                // Out of descriptors is the only error that would come again; the bench sees the failure.
                while let Ok((socket, _)) = listener.accept().await {
                    let beyond = beyond.clone();
                    tokio::spawn(async move {
                        // What fails is dropped, which the client sees as its end.
                        let _ = join(socket, to, &beyond).await;
                    });
                }
            }));
        }
        for way in ways {
            way.await?;
        }
        Ok(())
    })
}

async fn join(mut near: tokio::net::TcpStream, to: SocketAddr, beyond: &NetNs) -> Result<()> {
    // Loopback sources are spread, so that ports do not run out; as Lark does it.
    let spread = near.peer_addr()?.port();
    let socket = beyond.within(|| match to.ip().is_loopback() {
        true => delivery_socket(to.ip(), spread.into()),
        false => plain_socket(to.ip()),
    })??;
    let mut far = TcpSocket::from_std_stream(socket).connect(to).await?;
    set_nodelay(&near);
    set_nodelay(&far);
    let ((near_read, near_write), (far_read, far_write)) = (near.split(), far.split());
    tokio::try_join!(pump::run(near_read, far_write), pump::run(far_read, near_write))?;
    Ok(())
}
