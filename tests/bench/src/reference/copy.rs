use std::future::poll_fn;

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Window of a stream, bytes.
pub(crate) const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
/// Window of a tunnel, bytes.
pub(crate) const TUNNEL_WINDOW: u32 = 16 * 1024 * 1024;
/// Largest frame, bytes.
pub(crate) const FRAME: u32 = 1024 * 1024;
/// Streams in one tunnel.
pub(crate) const STREAMS: u32 = 100;

/// Bytes of a read: small until there is much to read.
const SMALLEST: usize = 16 * 1024;
const LARGEST: usize = 256 * 1024;

/// Carries bytes both ways until both ends have ended.
pub(crate) async fn both(socket: TcpStream, send: SendStream<Bytes>, receive: RecvStream) -> Result<()> {
    lark_sys::socket::set_nodelay(&socket);
    let (read, write) = socket.into_split();
    tokio::try_join!(up(read, send), down(receive, write)).map(|_| ())
}

async fn up(read: OwnedReadHalf, mut send: SendStream<Bytes>) -> Result<()> {
    let mut size = SMALLEST;
    loop {
        // No buffer while nothing comes, so that idle streams are small.
        read.readable().await?;
        let mut buffer = BytesMut::with_capacity(size);
        match read.try_read_buf(&mut buffer) {
            Ok(0) => return Ok(send.send_data(Bytes::new(), true)?),
            Ok(length) if length == size => size = LARGEST.min(size * 2),
            Ok(length) if length < size / 4 => size = SMALLEST.max(size / 2),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        }
        let mut rest = buffer.freeze();
        while !rest.is_empty() {
            send.reserve_capacity(rest.len());
            let room =
                poll_fn(|context| send.poll_capacity(context)).await.context("the stream is gone")??;
            send.send_data(rest.split_to(room.min(rest.len())), false)?;
        }
    }
}

async fn down(mut receive: RecvStream, mut write: OwnedWriteHalf) -> Result<()> {
    while let Some(data) = receive.data().await {
        let data = data?;
        write.write_all(&data).await?;
        receive.flow_control().release_capacity(data.len())?;
    }
    Ok(write.shutdown().await?)
}
