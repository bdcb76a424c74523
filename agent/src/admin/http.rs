//! Small answers over HTTP/1.1.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use lark_core::room::{Place, Room};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a client may take for its request's header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may take as a whole.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections served at once of a listener that only whoever is allowed to can reach: more wait.
const CONNECTIONS: usize = 64;
/// Of those that anybody may open, from one address, and from all addresses but the host's own, which has a share of
/// its own for its kubelet's probes. More are closed at once, so that nobody waits behind them.
const FROM_ONE: usize = 16;
const FROM_OTHERS: usize = 256;
/// Wait after an accept that failed, for want of descriptors most likely: the next one may find some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is answered.
pub type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Marks an answer that may take as long as its reader stays.
#[derive(Debug, Clone, Copy)]
pub(super) struct Endless;

/// An answer of plain text of some kind.
pub fn text(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()).boxed_unsync());
    *answer.status_mut() = status;
    answer.headers_mut().insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    answer
}

/// A value as JSON.
pub fn json<T: serde::Serialize>(value: &T) -> Answer {
    match serde_json::to_string(value) {
        Ok(body) => text(StatusCode::OK, "application/json", body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string()),
    }
}

/// A listener of either kind.
pub trait Accept: Send + 'static {
    /// Its connections.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// The next one, and where it comes from, if anybody might.
    fn next(&self) -> impl Future<Output = io::Result<(Self::Stream, Option<Peer>)>> + Send;
}

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    address: IpAddr,
    /// It is the address that was dialled, too.
    is_own: bool,
}

impl Accept for TcpListener {
    type Stream = TcpStream;
    async fn next(&self) -> io::Result<(TcpStream, Option<Peer>)> {
        let (stream, from) = self.accept().await?;
        let address = from.ip().to_canonical();
        let is_own = stream.local_addr()?.ip().to_canonical() == address;
        Ok((stream, Some(Peer { address, is_own })))
    }
}

impl Accept for UnixListener {
    type Stream = UnixStream;
    async fn next(&self) -> io::Result<(UnixStream, Option<Peer>)> {
        self.accept().await.map(|(stream, _)| (stream, None))
    }
}

/// Connections that somebody else accepts, by TLS for example.
#[derive(Debug)]
pub struct Accepted<S>(tokio::sync::Mutex<S>);

impl<S> Accepted<S> {
    /// Those of a stream.
    pub fn new(connections: S) -> Self {
        Self(tokio::sync::Mutex::new(connections))
    }
}

impl<S, T> Accept for Accepted<S>
where
    S: Stream<Item = io::Result<T>> + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = T;
    async fn next(&self) -> io::Result<(T, Option<Peer>)> {
        let next = self.0.lock().await.next().await;
        next.unwrap_or_else(|| Err(io::ErrorKind::NotConnected.into())).map(|stream| (stream, None))
    }
}

/// Serves all connections with a function from request to answer, for ever.
pub async fn serve<L, F>(listener: L, answer: impl Fn(&Request<Incoming>) -> F + Send + Sync + 'static)
where
    L: Accept,
    F: Future<Output = Answer> + Send + 'static,
{
    let seats = Seats::default();
    let answer = Arc::new(answer);
    loop {
        let Ok((stream, from)) = listener.next().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Some(seat) = seats.take(from).await else { continue };
        let answer = answer.clone();
        tokio::spawn(async move {
            connection(stream, answer.as_ref()).await;
            drop(seat);
        });
    }
}

/// Room for the connections of one listener.
struct Seats {
    trusted: Arc<Semaphore>,
    own: Room,
    others: Room,
}

/// A connection's, given back when dropped.
enum Seat {
    Trusted { _permit: OwnedSemaphorePermit },
    Anybody { _place: Place },
}

impl Default for Seats {
    fn default() -> Self {
        Self {
            trusted: Arc::new(Semaphore::new(CONNECTIONS)),
            own: Room::new(FROM_ONE, FROM_ONE),
            others: Room::new(FROM_ONE, FROM_OTHERS),
        }
    }
}

impl Seats {
    async fn take(&self, from: Option<Peer>) -> Option<Seat> {
        let Some(Peer { address, is_own }) = from else {
            let permit = self.trusted.clone().acquire_owned().await.ok()?;
            return Some(Seat::Trusted { _permit: permit });
        };
        let place = if is_own { &self.own } else { &self.others }.take(address)?;
        Some(Seat::Anybody { _place: place })
    }
}

async fn connection<S, F>(stream: S, answer: &(impl Fn(&Request<Incoming>) -> F + Sync))
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Answer>,
{
    let endless = &AtomicBool::new(false);
    let service = hyper::service::service_fn(|request| {
        let answer = answer(&request);
        async move {
            let answer = answer.await;
            endless.fetch_or(answer.extensions().get::<Endless>().is_some(), Ordering::Relaxed);
            Ok::<_, Infallible>(answer)
        }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = pin!(serving);
    // A client that breaks off or dawdles is its own problem.
    while tokio::time::timeout(CONNECTION_TIMEOUT, &mut serving).await.is_err()
        && endless.load(Ordering::Relaxed)
    {}
}
