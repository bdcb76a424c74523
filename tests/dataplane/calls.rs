//! gRPC by tonic, server and client: calls by status, as the client got them, against what both agents have counted.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::task::{Context, Poll};

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use lark_core::recognise::{Cut, GrpcStatus};
use lark_testbed::Pod;
use tokio_stream::{Stream, StreamExt};
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::service_fn;

use crate::grpc::{at, runtime};
use crate::house::House;
use crate::requests::counted;

const PORT: u16 = 9001;

/// What is asked: so many replies of so many bytes, and then a status.
#[derive(Clone, PartialEq, prost::Message)]
struct Ask {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(uint32, tag = "2")]
    replies: u32,
    #[prost(uint32, tag = "3")]
    bytes: u32,
    /// There is no end after the replies.
    #[prost(bool, tag = "4")]
    goes_on: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Reply {
    #[prost(bytes = "vec", tag = "1")]
    payload: Vec<u8>,
}

impl Ask {
    fn reply(&self) -> Reply {
        Reply { payload: vec![b'x'; usize::try_from(self.bytes).unwrap()] }
    }

    fn status(&self) -> Result<(), Status> {
        if self.code == 0 { Ok(()) } else { Err(Status::new(Code::from_i32(self.code), "as asked")) }
    }

    fn one(&self) -> Result<Reply, Status> {
        self.status().map(|()| self.reply())
    }

    /// A status without replies is the whole answer: its trailers are its only head.
    fn several(self) -> Result<Response<Replies>, Status> {
        if self.replies == 0 {
            self.status()?;
        }
        let replies = (0..self.replies).map({
            let reply = self.reply();
            move |_| Ok(reply.clone())
        });
        let end: Replies = match (self.goes_on, self.status()) {
            (true, _) => Box::pin(tokio_stream::pending()),
            (false, Ok(())) => Box::pin(tokio_stream::empty()),
            (false, Err(status)) => Box::pin(tokio_stream::once(Err(status))),
        };
        Ok(Response::new(Box::pin(tokio_stream::iter(replies).chain(end))))
    }
}

type Replies = Pin<Box<dyn Stream<Item = Result<Reply, Status>> + Send>>;

/// The last of what a client sends; its status is of all.
async fn last(mut asked: Streaming<Ask>) -> Result<Ask, Status> {
    let mut last = Ask::default();
    while let Some(ask) = asked.message().await? {
        last = ask;
    }
    Ok(last)
}

/// Serves each of the four shapes of calls.
#[derive(Clone)]
struct Calls;

impl NamedService for Calls {
    const NAME: &'static str = "lark.Calls";
}

impl tower::Service<http::Request<Body>> for Calls {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let mut grpc = Grpc::new(ProstCodec::<Reply, Ask>::default());
        Box::pin(async move {
            let shape = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            Ok(match shape.as_str() {
                "Unary" => {
                    let serve =
                        |asked: Request<Ask>| std::future::ready(asked.into_inner().one().map(Response::new));
                    grpc.unary(service_fn(serve), request).await
                }
                "Up" => {
                    let serve = |asked: Request<Streaming<Ask>>| async {
                        last(asked.into_inner()).await?.one().map(Response::new)
                    };
                    grpc.client_streaming(service_fn(serve), request).await
                }
                "Down" => {
                    let serve = |asked: Request<Ask>| std::future::ready(asked.into_inner().several());
                    grpc.server_streaming(service_fn(serve), request).await
                }
                _ => {
                    let serve =
                        |asked: Request<Streaming<Ask>>| async { last(asked.into_inner()).await?.several() };
                    grpc.streaming(service_fn(serve), request).await
                }
            })
        })
    }
}

/// Serves in a pod until this process ends.
fn serve(pod: &Pod) {
    let listener = at(&pod.place, || TcpListener::bind(("0.0.0.0", PORT)).unwrap());
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        runtime().block_on(async {
            let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(listener).unwrap());
            Server::builder().add_service(Calls).serve_with_incoming(incoming).await.unwrap();
        });
    });
}

/// A client in a pod, with one connection.
async fn client(pod: &Pod, to: SocketAddr) -> Channel {
    let socket = at(&pod.place, || TcpStream::connect(to).unwrap());
    socket.set_nonblocking(true).unwrap();
    let mut socket = Some(tokio::net::TcpStream::from_std(socket).unwrap());
    let connector = service_fn(move |_: http::Uri| {
        // A second connection would be an error of the first.
        let socket = socket.take().ok_or(std::io::Error::other("the connection was lost"));
        async move { socket.map(TokioIo::new) }
    });
    Endpoint::from_static("http://calls").connect_with_connector(connector).await.unwrap()
}

/// How a client asks.
#[derive(Debug, Clone, Copy)]
enum Shape {
    Unary,
    Up,
    Down,
    Both,
    /// Of a service that is not there.
    Elsewhere,
}

/// One call, and the status that the client got; what it gave up itself is told as such.
async fn call(channel: Channel, shape: Shape, ask: Ask) -> &'static str {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path = PathAndQuery::from_static(match shape {
        Shape::Unary => "/lark.Calls/Unary",
        Shape::Up => "/lark.Calls/Up",
        Shape::Down => "/lark.Calls/Down",
        Shape::Both => "/lark.Calls/Both",
        Shape::Elsewhere => "/lark.Nobody/Unary",
    });
    let codec = ProstCodec::<Ask, Reply>::default();
    let (goes_on, replies, bytes) = (ask.goes_on, ask.replies, ask.bytes);
    let several = tokio_stream::iter(vec![Ask::default(), Ask::default(), ask.clone()]);
    let streamed = match shape {
        Shape::Unary | Shape::Elsewhere => {
            return told(grpc.unary(Request::new(ask), path, codec).await.map(drop));
        }
        Shape::Up => return told(grpc.client_streaming(Request::new(several), path, codec).await.map(drop)),
        Shape::Down => grpc.server_streaming(Request::new(ask), path, codec).await,
        Shape::Both => grpc.streaming(Request::new(several), path, codec).await,
    };
    let mut streamed = match streamed {
        Ok(response) => response.into_inner(),
        Err(status) => return told(Err(status)),
    };
    for _ in 0..replies {
        let reply = streamed.message().await.unwrap().unwrap();
        assert_eq!(reply.payload.len(), usize::try_from(bytes).unwrap());
    }
    if goes_on {
        // Dropped, the call is given up.
        return Cut::ClientReset.label();
    }
    told(streamed.message().await.map(|end| assert_eq!(end, None)))
}

fn told(result: Result<(), Status>) -> &'static str {
    let code = result.map_or_else(|status| status.code(), |()| Code::Ok);
    GrpcStatus::ALL[usize::try_from(i32::from(code)).unwrap()].label()
}

#[test]
fn calls_of_every_shape_and_status_are_counted_as_tonic_got_them() {
    let house = House::captured();
    serve(&house.server);
    let to = SocketAddr::new(house.server.ip, PORT);
    let mut seen: BTreeMap<&'static str, u64> = BTreeMap::new();
    runtime().block_on(async {
        for round in 0..3_u32 {
            let channel = client(&house.client, to).await;
            // One after another at first, then many at once.
            for at_once in [1, 20] {
                let mut asked = Vec::new();
                for code in 0..=16 {
                    for (shape, replies) in [
                        (Shape::Unary, 1),
                        (Shape::Up, 1),
                        (Shape::Down, 0),
                        (Shape::Down, 4),
                        (Shape::Both, 0),
                        (Shape::Both, 3),
                    ] {
                        asked.push((shape, Ask { code, replies, bytes: 5000 * round, goes_on: false }));
                    }
                }
                asked.push((Shape::Elsewhere, Ask::default()));
                for shape in [Shape::Down, Shape::Both] {
                    asked.push((shape, Ask { replies: 2, bytes: 10, goes_on: true, ..Ask::default() }));
                }
                for some in asked.chunks(at_once) {
                    let calls = some
                        .iter()
                        .map(|(shape, ask)| tokio::spawn(call(channel.clone(), *shape, ask.clone())));
                    for one in calls.collect::<Vec<_>>() {
                        *seen.entry(one.await.unwrap()).or_default() += 1;
                    }
                }
            }
        }
    });
    // What the client got is what it asked for: each status six times in each of six rounds, and once more what
    // nobody serves.
    assert_eq!(seen.len(), 18, "{seen:?}");
    for (status, count) in &seen {
        let expected = match *status {
            "client_reset" => 12,
            "UNIMPLEMENTED" => 42,
            _ => 36,
        };
        assert_eq!(*count, expected, "{status}");
    }
    let expected: Vec<_> = seen.iter().map(|(status, count)| ("grpc", *status, *count)).collect();
    counted(&house, &[(&house.nodes.0, "outbound"), (&house.nodes.1, "inbound")], &expected);
    // Server's failures are told apart from the client's own mistakes, in `lark stat` too.
    let failed = ["UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"];
    let failures: u64 = failed.iter().map(|status| seen[status]).sum();
    let judged: u64 = seen.iter().filter(|(status, _)| **status != "client_reset").map(|(_, n)| n).sum();
    for agent in [&house.one, &house.two] {
        let rows = agent.json("stat").unwrap();
        assert_eq!(rows[0]["requests"].as_u64(), Some(seen.values().sum()), "{rows:#}");
        #[expect(clippy::cast_precision_loss, reason = "counts of a short test")]
        let part = (judged - failures) as f64 / judged as f64;
        assert!((rows[0]["success"].as_f64().unwrap() - part).abs() < 1e-9, "{part}: {rows:#}");
    }
}
