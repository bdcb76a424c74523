use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::tcp::{ReadHalf, WriteHalf};

/// Bytes of one read.
const BUFFER: usize = 256 * 1024;

thread_local! {
    /// Shared by all connections of a thread: what could not be written at once is copied out of it.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER]);
}

/// Carries bytes until the reading end has ended, and then that end.
pub(crate) async fn run(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<()> {
    while let Some(rest) = poll_fn(|context| {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut from).poll_read(context, &mut buffer))?;
            let mut rest = buffer.filled();
            if rest.is_empty() {
                return Poll::Ready(Ok::<_, io::Error>(None));
            }
            lark_tunnel::moved(1);
            while !rest.is_empty() {
                match Pin::new(&mut to).poll_write(context, rest)? {
                    Poll::Ready(length) => rest = rest.get(length..).unwrap_or_default(),
                    Poll::Pending => break,
                }
            }
            Poll::Ready(Ok(Some(rest.to_vec())))
        })
    })
    .await?
    {
        if !rest.is_empty() {
            to.write_all(&rest).await?;
        }
    }
    to.shutdown().await
}
