use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};

use crate::http::REQUEST;
use crate::poll::{Flags, MESSAGE, dial_all, now};

/// Connections opened at a time: far below any backlog.
const AT_ONCE: usize = 64;

/// Opens connections, each proved by one echo.
pub(crate) fn open(
    to: SocketAddr,
    connections: usize,
    congestion: &str,
    http: bool,
) -> Result<Vec<TcpStream>> {
    let message = if http { REQUEST } else { [b'l'; MESSAGE] };
    let mut kept = Vec::with_capacity(connections);
    while kept.len() < connections {
        let count = AT_ONCE.min(connections - kept.len());
        let (mut poll, mut sockets) = dial_all(to, count, congestion, Flags::IN)?;
        for socket in &mut sockets {
            socket.write_all(&message)?;
        }
        let mut heard = 0;
        while heard < count * MESSAGE {
            for (number, _) in poll.hear()? {
                let socket = sockets.get_mut(number).context("an event of no socket")?;
                let length = now(socket.read(&mut [0; MESSAGE])).context("receive")?;
                ensure!(length != Some(0), "the server ended a connection");
                heard += length.unwrap_or(0);
            }
        }
        kept.append(&mut sockets);
    }
    Ok(kept)
}
