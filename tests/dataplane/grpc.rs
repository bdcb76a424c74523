//! gRPC probes as the kubelet makes them (`grpc.health.v1.Health/Check`): a server in a pod, and whoever asks it
//! from elsewhere. Sockets belong to the cgroup and namespace in which they are made, so this process makes them
//! there.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use lark_sys::netns::NetNs;
use lark_testbed::Place;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// The port of the server.
pub(crate) const PORT: u16 = 9000;

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

#[derive(Clone)]
struct Health;

impl UnaryService<HealthCheckRequest> for Health {
    type Response = HealthCheckResponse;
    type Future = Ready<Result<Response<HealthCheckResponse>, Status>>;

    fn call(&mut self, _: Request<HealthCheckRequest>) -> Self::Future {
        ready(Ok(Response::new(HealthCheckResponse { status: 1 })))
    }
}

impl NamedService for Health {
    const NAME: &'static str = "grpc.health.v1.Health";
}

impl tower::Service<http::Request<Body>> for Health {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let codec = ProstCodec::<HealthCheckResponse, HealthCheckRequest>::default();
        Box::pin(async move { Ok(Grpc::new(codec).unary(Health, request).await) })
    }
}

/// Does something as a process of that place.
pub(crate) fn at<T>(place: &Place, work: impl FnOnce() -> T) -> T {
    let home = lark_sys::cgroup::own().unwrap().path().to_owned();
    let enter = |cgroup: &std::path::Path| {
        std::fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).unwrap();
    };
    enter(&place.cgroup);
    let result = NetNs::open(&place.netns).unwrap().within(work).unwrap();
    enter(&home);
    result
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Serves in a pod, on both families, until this process ends.
pub(crate) fn serve(place: &Place) {
    let listener = at(place, || TcpListener::bind(("::", PORT)).unwrap());
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        runtime().block_on(async {
            let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(listener).unwrap());
            Server::builder().add_service(Health).serve_with_incoming(incoming).await.unwrap();
        });
    });
}

/// What a probe from a place is answered: the health's number, or that it is refused.
pub(crate) fn probe(place: &Place, to: IpAddr) -> Result<u8, std::io::ErrorKind> {
    let socket = at(place, || TcpStream::connect(SocketAddr::new(to, PORT))).map_err(|e| e.kind())?;
    socket.set_nonblocking(true).unwrap();
    runtime().block_on(async {
        let socket = tokio::net::TcpStream::from_std(socket).unwrap();
        let (client, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::spawn(connection);
        let mut client = client.ready().await.unwrap();
        let request = http::Request::post(format!("http://probe/{}/Check", Health::NAME))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let (answer, mut body) = client.send_request(request, false).unwrap();
        // Not compressed, and a message of no bytes: the health of the whole server.
        body.send_data(Bytes::from_static(&[0; 5]), true).unwrap();
        let mut answer = answer.await.unwrap().into_body();
        let mut message = Vec::new();
        while let Some(part) = answer.data().await {
            message.extend_from_slice(&part.unwrap());
        }
        let trailers = answer.trailers().await.unwrap().unwrap();
        assert_eq!(trailers.get("grpc-status").map(|s| s.as_bytes()), Some(&b"0"[..]));
        // Field 1, a varint.
        assert_eq!(message[..6], [0, 0, 0, 0, 2, 8]);
        Ok(message[6])
    })
}
