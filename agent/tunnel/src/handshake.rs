//! Reaching the end of a handshake.

use std::io;

use rustls::Connection;
use tokio::net::TcpStream;

use crate::record::{RecordError, Socket};

/// Drives a handshake to its end. Cancel safe only in that a cancelled one must be thrown away.
pub(crate) async fn complete(socket: &TcpStream, tls: &mut Connection) -> Result<(), RecordError> {
    while tls.is_handshaking() {
        flush(socket, tls).await?;
        if !tls.is_handshaking() {
            break;
        }
        read(socket, tls).await?;
    }
    flush(socket, tls).await
}

async fn read(socket: &TcpStream, tls: &mut Connection) -> Result<(), RecordError> {
    loop {
        socket.readable().await?;
        match tls.read_tls(&mut Socket(socket)) {
            Ok(0) => return Err(RecordError::Closed),
            Ok(_) => break,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e.into()),
        }
    }
    if let Err(error) = tls.process_new_packets() {
        // The alert that tells the peer why.
        let _ = flush(socket, tls).await;
        return Err(error.into());
    }
    Ok(())
}

async fn flush(socket: &TcpStream, tls: &mut Connection) -> Result<(), RecordError> {
    while tls.wants_write() {
        match tls.write_tls(&mut Socket(socket)) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => socket.writable().await?,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
