use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::http::BODY;
use crate::poll::{Flags, dial_all, now};

/// Bytes of one read or write.
pub(crate) const BUFFER: usize = 256 * 1024;

/// Sends for that long and waits until the sink has had everything and closed: the rate counts what
/// arrived, not what went into buffers.
pub(crate) fn up(
    to: SocketAddr,
    streams: usize,
    time: Duration,
    congestion: &str,
    http: bool,
) -> Result<Value> {
    let buffer = vec![b'l'; BUFFER];
    let (mut poll, mut sockets) = dial_all(to, streams, congestion, Flags::OUT)?;
    if http {
        sockets.iter_mut().try_for_each(|socket| socket.write_all(BODY)).context("send")?;
    }
    let begin = Instant::now();
    let mut bytes = 0;
    while begin.elapsed() < time {
        for (number, _) in poll.hear()? {
            let socket = sockets.get_mut(number).context("an event of no socket")?;
            bytes += now(socket.write(&buffer)).context("send")?.unwrap_or(0);
        }
    }
    for (number, socket) in sockets.iter().enumerate() {
        socket.shutdown(Shutdown::Write)?;
        poll.change(socket, number, Flags::IN)?;
    }
    let mut open = streams;
    while open > 0 {
        for (number, _) in poll.hear()? {
            let socket = sockets.get_mut(number).context("an event of no socket")?;
            let ended = now(socket.read(&mut [0; 16])).context("wait for the sink's end")?;
            ensure!(ended.unwrap_or(0) == 0, "the sink said something");
            if ended.is_some() {
                poll.remove(socket)?;
                open -= 1;
            }
        }
    }
    Ok(json!({ "bytes": bytes, "seconds": begin.elapsed().as_secs_f64() }))
}

/// Receives for that long.
pub(crate) fn down(to: SocketAddr, streams: usize, time: Duration, congestion: &str) -> Result<Value> {
    let mut buffer = vec![0; BUFFER];
    let (mut poll, mut sockets) = dial_all(to, streams, congestion, Flags::IN)?;
    let begin = Instant::now();
    let mut bytes = 0;
    while begin.elapsed() < time {
        for (number, _) in poll.hear()? {
            let socket = sockets.get_mut(number).context("an event of no socket")?;
            let length = now(socket.read(&mut buffer)).context("receive")?;
            ensure!(length != Some(0), "the source ended");
            bytes += length.unwrap_or(0);
        }
    }
    Ok(json!({ "bytes": bytes, "seconds": begin.elapsed().as_secs_f64() }))
}
