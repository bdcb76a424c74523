use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::poll::{Flags, MESSAGE, Poll, dial, nanos, now, percentiles};

/// One connection on its way from connect to the whole echo.
struct Attempt {
    socket: TcpStream,
    begin: Instant,
    heard: usize,
    sent: bool,
}

impl Attempt {
    fn begin(poll: &Poll, number: usize, to: SocketAddr, congestion: &str) -> Result<Self> {
        let begin = Instant::now();
        let socket = dial(to, congestion)?;
        poll.add(&socket, number, Flags::OUT)?;
        Ok(Self { socket, begin, heard: 0, sent: false })
    }

    /// Goes on after an event; true when the echo is complete.
    fn go_on(&mut self, poll: &Poll, number: usize) -> Result<bool> {
        if !self.sent {
            // A connect that failed fails here too.
            self.socket.write_all(&[b'l'; MESSAGE])?;
            self.sent = true;
            poll.change(&self.socket, number, Flags::IN)?;
            return Ok(false);
        }
        let length = now(self.socket.read(&mut [0; MESSAGE]))?;
        anyhow::ensure!(length != Some(0), "the connection ended before its echo");
        self.heard += length.unwrap_or(0);
        Ok(self.heard == MESSAGE)
    }
}

/// Makes connections for that long, so many at a time. Failed ones are counted and told.
pub(crate) fn run(to: SocketAddr, at_once: usize, time: Duration, congestion: &str) -> Result<Value> {
    let mut poll = Poll::new()?;
    let mut attempts =
        (0..at_once).map(|n| Attempt::begin(&poll, n, to, congestion)).collect::<Result<Vec<_>>>()?;
    let begin = Instant::now();
    let mut times = Vec::new();
    let (mut failed, mut why) = (0_u64, String::new());
    while begin.elapsed() < time {
        for (number, _) in poll.hear()? {
            let attempt = attempts.get_mut(number).context("an event of no socket")?;
            match attempt.go_on(&poll, number) {
                Ok(false) => continue,
                Ok(true) => times.push(nanos(attempt.begin)),
                Err(error) => {
                    failed += 1;
                    why = format!("{error:#}");
                }
            }
            *attempt = Attempt::begin(&poll, number, to, congestion)?;
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    let count = times.len();
    let (p50, p99) = percentiles(&mut times).with_context(|| format!("no connection came through: {why}"))?;
    Ok(
        json!({ "connections": count, "failed": failed, "why": why, "seconds": seconds, "p50": p50, "p99": p99 }),
    )
}
