//! What is recognised in passing against what real clients saw: hyper for HTTP/1.1, h2 for HTTP/2 and gRPC.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use lark_core::recognise::{Answer, Class, Cut, Event, GrpcStatus, Opaque, Outcome, Protocol};
use lark_tunnel::{Traffic, join};
use tokio::net::{TcpListener, TcpStream};

use crate::ends::{held, on_worker, sockets};

/// How often each outcome happened.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Counts(BTreeMap<usize, u64>);

impl Counts {
    pub(crate) fn add(&mut self, outcome: Outcome) {
        *self.0.entry(outcome.index()).or_default() += 1;
    }
}

/// Carries connections to `server`, and keeps what is told of them.
pub(crate) struct Between {
    server: SocketAddr,
    told: Rc<RefCell<Vec<Event>>>,
}

impl Between {
    pub(crate) fn before(server: SocketAddr) -> Self {
        Self { server, told: Rc::default() }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        let (client, near) = sockets().await;
        let far = TcpStream::connect(self.server).await.unwrap();
        let told = self.told.clone();
        let traffic = Traffic::recognised(Arc::default(), move |event| told.borrow_mut().push(event));
        tokio::task::spawn_local(join(near.into(), far.into(), traffic, held()));
        client
    }

    /// Why connections are not followed any more, as often as that was told.
    pub(crate) fn opaque(&self) -> Vec<Opaque> {
        let told = self.told.borrow();
        told.iter()
            .filter_map(|event| if let Event::Opaque(why) = event { Some(*why) } else { None })
            .collect()
    }

    /// What was told of `connections`, all of this protocol.
    pub(crate) fn counts(&self, connections: usize, protocol: Protocol) -> Counts {
        let mut counts = Counts::default();
        let mut known = 0;
        for event in self.told.borrow().iter() {
            match event {
                Event::Known(spoken) if *spoken == protocol => known += 1,
                // What went over to another protocol is asked about apart.
                Event::Opaque(Opaque::Upgraded) => {}
                Event::Known(_) | Event::Opaque(_) => panic!("{event:?}"),
                Event::Response(response) => {
                    if let Some(latency) = response.latency {
                        assert!(latency.first_byte <= latency.last_byte, "{response:?}");
                    }
                }
                Event::Unanswered(_) => {}
            }
            if let Some((outcome, _)) = Outcome::of(event) {
                counts.add(outcome);
            }
        }
        assert_eq!(known, connections);
        counts
    }
}

/// Numbers that are the same in each run.
#[derive(Default)]
pub(crate) struct Dice(Cell<u64>);

impl Dice {
    pub(crate) fn below(&self, bound: usize) -> usize {
        let next =
            self.0.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0.set(next);
        usize::try_from(next >> 33).unwrap() % bound
    }

    pub(crate) fn of<T: Copy>(&self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

pub(crate) fn class(status: StatusCode) -> Class {
    Class::ALL[usize::from(status.as_u16() / 100) - 1]
}

pub(crate) type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

/// Answers as the path says: `/STATUS/BYTES/PIECES`, by chunks if there are several pieces.
pub(crate) async fn answer1(request: Request<hyper::body::Incoming>) -> Result<Response<Body>, Infallible> {
    let numbers: Vec<usize> = request.uri().path().split('/').filter_map(|part| part.parse().ok()).collect();
    let [status, bytes, pieces] = numbers[..] else { panic!("{}", request.uri()) };
    request.into_body().collect().await.unwrap();
    let piece = Bytes::from(vec![b'x'; bytes / pieces]);
    let body = if pieces == 1 {
        Full::new(piece).boxed_unsync()
    } else {
        let pieces = (0..pieces).map(move |_| Ok(Frame::data(piece.clone())));
        StreamBody::new(tokio_stream::iter(pieces)).boxed_unsync()
    };
    let status = StatusCode::from_u16(u16::try_from(status).unwrap()).unwrap();
    Ok(Response::builder().status(status).body(body).unwrap())
}

async fn server1() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let serve = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), hyper::service::service_fn(answer1));
            tokio::task::spawn_local(serve);
        }
    });
    address
}

#[test]
fn requests_of_http1_are_those_that_hyper_saw() {
    on_worker(async {
        let between = Between::before(server1().await);
        let (dice, mut seen) = (Dice::default(), Counts::default());
        let methods = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE];
        for _ in 0..4 {
            let io = TokioIo::new(between.connect().await);
            let (mut client, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::task::spawn_local(connection);
            for _ in 0..150 {
                let status = dice.of(&[200, 200, 201, 204, 301, 304, 404, 500, 503]);
                let (bytes, pieces) = (dice.below(70_000), dice.of(&[1, 1, 2, 7]));
                let sends = Full::new(Bytes::from(vec![b'y'; dice.of(&[0, 0, 5, 40_000])]));
                let request = Request::builder()
                    .method(methods[dice.below(methods.len())].clone())
                    .uri(format!("/{status}/{bytes}/{pieces}"))
                    .header("host", "lark");
                client.ready().await.unwrap();
                let response = client.send_request(request.body(sends).unwrap()).await.unwrap();
                seen.add(Outcome::Http1(Answer::Whole(class(response.status()))));
                response.into_body().collect().await.unwrap();
            }
        }
        assert_eq!(between.counts(4, Protocol::Http1), seen);
    });
}

/// What an HTTP/2 request is to become.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Status(u16, usize),
    /// gRPC: code, bytes of messages, and whether the only head is the trailers'.
    Call(u8, usize, bool),
    ResetByServer,
    ResetByClient,
}

fn path(fate: Fate) -> String {
    match fate {
        Fate::Status(status, bytes) => format!("/status/{status}/{bytes}"),
        Fate::Call(code, bytes, alone) => format!("/call/{code}/{bytes}/{}", u8::from(alone)),
        Fate::ResetByServer => "/reset".to_owned(),
        Fate::ResetByClient => "/wait".to_owned(),
    }
}

/// Sends all of it, as the window lets it.
async fn send(stream: &mut h2::SendStream<Bytes>, bytes: usize, end: bool) {
    let mut left = bytes;
    while left > 0 {
        stream.reserve_capacity(left);
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
        let now = room.min(left);
        left -= now;
        stream.send_data(Bytes::from(vec![b'x'; now]), end && left == 0).unwrap();
    }
    if end && bytes == 0 {
        stream.send_data(Bytes::new(), true).unwrap();
    }
}

async fn answer2(request: Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let parts: Vec<&str> = request.uri().path().split('/').skip(1).collect();
    let number = |at: usize| parts[at].parse::<usize>().unwrap();
    match parts[0] {
        "status" => {
            let status = u16::try_from(number(1)).unwrap();
            let head = Response::builder().status(status).body(()).unwrap();
            let mut stream = respond.send_response(head, number(2) == 0).unwrap();
            if number(2) > 0 {
                send(&mut stream, number(2), true).await;
            }
        }
        "call" => {
            let alone = number(3) == 1;
            let mut head = Response::builder().status(200).header("content-type", "application/grpc");
            if alone {
                head = head.header("grpc-status", number(1));
            }
            let mut stream = respond.send_response(head.body(()).unwrap(), alone).unwrap();
            if !alone {
                send(&mut stream, number(2), false).await;
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", number(1).into());
                stream.send_trailers(trailers).unwrap();
            }
        }
        "reset" => respond.send_reset(h2::Reason::INTERNAL_ERROR),
        // Begins, and holds on to it until the client has given up.
        _ => {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
        }
    }
}

async fn server2() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            tokio::task::spawn_local(async move {
                let mut connection = h2::server::handshake(socket).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::task::spawn_local(answer2(request, respond));
                }
            });
        }
    });
    address
}

async fn ask2(client: h2::client::SendRequest<Bytes>, fate: Fate) -> Outcome {
    let is_call = matches!(fate, Fate::Call(..));
    let mut request = Request::builder().method("POST").uri(format!("http://lark{}", path(fate)));
    if is_call {
        request = request.header("content-type", "application/grpc").header("te", "trailers");
    }
    let mut client = client.ready().await.unwrap();
    let (response, mut stream) = client.send_request(request.body(()).unwrap(), false).unwrap();
    if matches!(fate, Fate::ResetByClient) {
        let _begun = response.await.unwrap();
        stream.send_reset(h2::Reason::CANCEL);
        return Outcome::Http2(Answer::Cut(Cut::ClientReset));
    }
    stream.send_data(Bytes::from_static(b"asked"), true).unwrap();
    let Ok(response) = response.await else { return Outcome::Http2(Answer::Cut(Cut::ServerReset)) };
    let (head, mut body) = response.into_parts();
    while let Some(bytes) = body.data().await {
        body.flow_control().release_capacity(bytes.unwrap().len()).unwrap();
    }
    let trailers = body.trailers().await.unwrap().unwrap_or_default();
    if !is_call {
        return Outcome::Http2(Answer::Whole(class(head.status)));
    }
    let code = head.headers.get("grpc-status").or(trailers.get("grpc-status")).unwrap();
    let code: usize = code.to_str().unwrap().parse().unwrap();
    Outcome::Grpc(Ok(Some(GrpcStatus::ALL[code])))
}

#[test]
fn requests_and_calls_of_http2_are_those_that_h2_saw() {
    on_worker(async {
        let between = Between::before(server2().await);
        let (dice, mut seen) = (Dice::default(), Counts::default());
        for _ in 0..3 {
            let socket = between.connect().await;
            let (client, connection) = h2::client::handshake(socket).await.unwrap();
            tokio::task::spawn_local(async move { connection.await.unwrap() });
            // More at once than are timed, in every second round.
            for at_once in [20, 90, 20, 90, 1] {
                let mut asking = Vec::new();
                for _ in 0..at_once {
                    let bytes = dice.of(&[0, 1, 3_000, 50_000]);
                    let fate = match dice.below(10) {
                        0..4 => Fate::Status(dice.of(&[200, 204, 302, 404, 500, 503]), bytes),
                        4..8 => Fate::Call(dice.of(&[0, 0, 1, 5, 13, 16]), bytes, dice.below(3) == 0),
                        // Of those beyond what is timed it is a guess which were reset, calls or others.
                        8 if at_once < 40 => Fate::ResetByServer,
                        9 if at_once < 40 => Fate::ResetByClient,
                        _ => Fate::Status(200, bytes),
                    };
                    asking.push(tokio::task::spawn_local(ask2(client.clone(), fate)));
                }
                for one in asking {
                    seen.add(one.await.unwrap());
                }
            }
        }
        // A reset is the last of an exchange, and may still be on its way.
        crate::ends::until(|| between.counts(3, Protocol::Http2) == seen).await;
    });
}
