use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use anyhow::Result;

use crate::bulk::BUFFER;
use crate::http::RESPONSE;
use crate::poll::{Flags, Poll, listen, now};

/// What a port does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Echo,
    Sink,
    Source,
    Http,
}

const PARTS: [Part; 4] = [Part::Echo, Part::Sink, Part::Source, Part::Http];

/// Serves for ever.
pub(crate) fn run(port: u16, congestion: &str) -> Result<()> {
    let mut poll = Poll::new()?;
    let mut listeners: Vec<(Part, TcpListener)> = Vec::new();
    for (number, (part, port)) in PARTS.into_iter().zip(port..).enumerate() {
        let listener = listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), congestion)?;
        poll.add(&listener, number, Flags::IN)?;
        listeners.push((part, listener));
    }
    let mut next = PARTS.len();
    let mut open: HashMap<usize, (Part, TcpStream)> = HashMap::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        let events: Vec<_> = poll.wait(None)?.collect();
        for (number, _) in events {
            if let Some((part, listener)) = listeners.get(number) {
                while let Some((socket, _)) = now(listener.accept()).unwrap_or_default() {
                    socket.set_nonblocking(true)?;
                    socket.set_nodelay(true)?;
                    let flags = if *part == Part::Source { Flags::OUT } else { Flags::IN };
                    poll.add(&socket, next, flags)?;
                    open.insert(next, (*part, socket));
                    next += 1;
                }
            } else if let Some((part, socket)) = open.get_mut(&number)
                && !turn(*part, socket, &mut buffer).unwrap_or(false)
            {
                // Dropped, so closed, so out of epoll.
                open.remove(&number);
            }
        }
    }
}

/// One read or write; false when the connection is over.
fn turn(part: Part, socket: &mut TcpStream, buffer: &mut [u8]) -> io::Result<bool> {
    if part == Part::Source {
        let _ = now(socket.write(buffer))?;
        return Ok(true);
    }
    match now(socket.read(buffer))? {
        None => Ok(true),
        Some(0) => Ok(false),
        Some(length) => {
            // A few messages always fit into the send buffer; anything else is an error here.
            match part {
                Part::Echo => socket.write_all(buffer.get(..length).unwrap_or_default())?,
                // The client has one request under way, which is short enough to come whole.
                Part::Http => socket.write_all(&RESPONSE)?,
                Part::Sink | Part::Source => {}
            }
            Ok(true)
        }
    }
}
