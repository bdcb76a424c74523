use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::http::REQUEST;
use crate::poll::{Flags, MESSAGE, dial_all, nanos, now, percentiles};

/// Part of the time that is not counted, at its begin: caches, windows and paths get warm.
const WARM: f64 = 0.1;

/// Echoes on all connections for that long, one message under way on each.
pub(crate) fn run(
    to: SocketAddr,
    connections: usize,
    time: Duration,
    congestion: &str,
    http: bool,
) -> Result<Value> {
    let message = if http { REQUEST } else { [b'l'; MESSAGE] };
    let mut buffer = [0; MESSAGE];
    let (mut poll, mut sockets) = dial_all(to, connections, congestion, Flags::IN)?;
    let mut sent = Vec::with_capacity(connections);
    let mut echoes = Vec::with_capacity(connections);
    for socket in &mut sockets {
        socket.write_all(&message)?;
        sent.push((Instant::now(), 0));
        echoes.push(0_u64);
    }
    let begin = Instant::now() + time.mul_f64(WARM);
    let mut times = Vec::new();
    let mut all = 0_u64;
    while begin.elapsed() < time.mul_f64(1.0 - WARM) {
        for (number, _) in poll.hear()? {
            let (socket, (at, heard)) =
                sockets.get_mut(number).zip(sent.get_mut(number)).context("an event of no socket")?;
            let Some(length) = now(socket.read(&mut buffer)).context("receive")? else { continue };
            ensure!(length > 0, "the server ended a connection");
            *heard += length;
            if *heard == MESSAGE {
                all += 1;
                if *at >= begin {
                    times.push(nanos(*at));
                    *echoes.get_mut(number).context("an event of no socket")? += 1;
                }
                (*at, *heard) = (Instant::now(), 0);
                socket.write_all(&message).context("send")?;
            }
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    let count = times.len();
    let (p50, p99) = percentiles(&mut times)?;
    let least = echoes.into_iter().min();
    Ok(json!({ "echoes": count, "least": least, "all": all, "seconds": seconds, "p50": p50, "p99": p99 }))
}
