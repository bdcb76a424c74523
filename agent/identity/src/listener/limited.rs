//! So many connections from one address and so many at all: who opens more holds up nobody.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

/// Connections from one address: an agent has one stream and a few requests.
const FROM_ONE: usize = 64;
/// Connections at all: as many nodes as a mesh has, each with its stream and a request.
const ALL: usize = 16 * 1024;

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by: HashMap<IpAddr, usize>,
}

/// What is taken. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Room(Arc<Mutex<Taken>>);

/// One place; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    room: Room,
    address: IpAddr,
}

impl Room {
    /// A place for a connection from an address, if there is one.
    pub(super) fn take(&self, address: IpAddr) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let from_it = taken.by.get(&address).copied().unwrap_or(0);
        if taken.all >= ALL || from_it >= FROM_ONE {
            return None;
        }
        taken.all += 1;
        taken.by.insert(address, from_it + 1);
        Some(Place { room: self.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.room.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all = taken.all.saturating_sub(1);
        match taken.by.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.by.remove(&self.address)),
        }
    }
}

/// A connection and its place.
#[derive(Debug)]
pub struct Limited {
    stream: TlsStream<TcpStream>,
    _place: Place,
}

impl Limited {
    pub(super) fn new(stream: TlsStream<TcpStream>, place: Place) -> Self {
        Self { stream, _place: place }
    }

    fn inner(self: Pin<&mut Self>) -> Pin<&mut TlsStream<TcpStream>> {
        Pin::new(&mut self.get_mut().stream)
    }
}

impl Connected for Limited {
    type ConnectInfo = <TlsStream<TcpStream> as Connected>::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Limited {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.inner().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Limited {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.inner().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_takes_its_share_and_no_more_and_gives_it_back() {
        let room = Room::default();
        let (greedy, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut places: Vec<Place> = (0..FROM_ONE).map(|_| room.take(greedy).unwrap()).collect();
        assert!(room.take(greedy).is_none());
        let place = room.take(other).unwrap();
        places.pop();
        places.push(room.take(greedy).unwrap());
        drop((places, place));
        let taken = room.0.lock().unwrap();
        assert_eq!((taken.all, taken.by.len()), (0, 0));
    }
}
