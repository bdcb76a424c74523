//! What is recognised of recorded traffic, against what hyper and h2 read out of the same bytes. Recorded from curl with
//! nginx and h2load with nghttpd, of Debian 12; they are seeds of the fuzz target too, whose form they have
//! ([`lark_core::recognise::replay`]).

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use lark_core::recognise::{Answer, Event, Outcome, replay};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use crate::ends::on_worker;
use crate::requests::{Counts, class};

const HTTP1: &[u8] = include_bytes!("../fuzz/corpus/recognise/curl-nginx");
const HTTP2: &[u8] = include_bytes!("../fuzz/corpus/recognise/h2load-nghttpd");

/// Room for a whole recording.
const ROOM: usize = 1 << 20;

/// All that the client said, and what the server did, turn by turn.
fn said(mut script: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (mut client, mut server, mut last) = (Vec::new(), Vec::<Vec<u8>>::new(), 0);
    while let Some((head, rest)) = script.split_first() {
        let (bytes, later) = rest.split_at(usize::from(head >> 1));
        match (head & 1, server.last_mut()) {
            (0, _) => client.extend_from_slice(bytes),
            (_, Some(turn)) if last == 1 => turn.extend_from_slice(bytes),
            _ => server.push(bytes.to_vec()),
        }
        last = head & 1;
        script = later;
    }
    (client, server)
}

/// What is recognised of it.
fn recognised(script: &[u8]) -> Counts {
    let mut counts = Counts::default();
    replay(script, &mut |event| {
        assert!(!matches!(event, Event::Opaque(_)), "{event:?}");
        if let Some((outcome, _)) = Outcome::of(&event) {
            counts.add(outcome);
        }
    });
    counts
}

#[test]
fn of_recorded_http1_what_is_recognised_is_what_hyper_reads_at_both_ends() {
    on_worker(async {
        let (client, server) = said(HTTP1);
        // What the client asked.
        let (mut near, far) = duplex(ROOM);
        near.write_all(&client).await.unwrap();
        near.shutdown().await.unwrap();
        let asked = Rc::<RefCell<Vec<Method>>>::default();
        let heard = asked.clone();
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let heard = heard.clone();
            async move {
                heard.borrow_mut().push(request.method().clone());
                request.into_body().collect().await.unwrap();
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        });
        hyper::server::conn::http1::Builder::new()
            .pipeline_flush(true)
            .half_close(true)
            .serve_connection(TokioIo::new(far), service)
            .await
            .unwrap();
        let asked = asked.take();
        assert!(asked.len() >= 10, "{asked:?}");
        // What it was answered to that.
        let (near, far) = duplex(ROOM);
        tokio::task::spawn_local(answers(far, server));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(near)).await.unwrap();
        tokio::task::spawn_local(connection);
        let mut answered = Counts::default();
        for method in asked {
            sender.ready().await.unwrap();
            let request = Request::builder().method(method).uri("/").body(Empty::<Bytes>::new()).unwrap();
            let response = sender.send_request(request).await.unwrap();
            answered.add(Outcome::Http1(Answer::Whole(class(response.status()))));
            response.into_body().collect().await.unwrap();
        }
        assert_eq!(recognised(HTTP1), answered);
    });
}

/// Says the next turn after each request, and one more where that is only to be waited for.
async fn answers(mut far: DuplexStream, turns: Vec<Vec<u8>>) {
    let mut turns = turns.into_iter();
    let mut request = Vec::new();
    while let Ok(1..) = far.read_buf(&mut request).await {
        if request.ends_with(b"\r\n\r\n") {
            request.clear();
            let Some(mut turn) = turns.next() else { return };
            if turn.starts_with(b"HTTP/1.1 100 ") && turn.ends_with(b"\r\n\r\n") && turn.len() < 40 {
                turn.extend(turns.next().unwrap_or_default());
            }
            far.write_all(&turn).await.unwrap();
        }
    }
}

#[test]
fn of_recorded_http2_what_is_recognised_is_what_h2_reads_at_both_ends() {
    on_worker(async {
        let (client, server) = said(HTTP2);
        let (mut near, far) = duplex(ROOM);
        near.write_all(&client).await.unwrap();
        let mut connection = h2::server::handshake(far).await.unwrap();
        let mut requests = Vec::new();
        // Its end would be an end of the connection, of which h2 tells nothing that came before.
        while requests.len() < 12 {
            let (request, respond) = connection.accept().await.unwrap().unwrap();
            requests.push((request.method().clone(), respond));
        }

        let (near, far) = duplex(ROOM);
        tokio::task::spawn_local(says_all(far, server.concat(), requests.len()));
        let (sender, connection) = h2::client::handshake(near).await.unwrap();
        tokio::task::spawn_local(connection);
        let mut sender = sender.ready().await.unwrap();
        let mut responses = Vec::new();
        for (method, _) in &requests {
            let request = Request::builder().method(method.clone()).uri("http://a/").body(()).unwrap();
            responses.push(sender.send_request(request, true).unwrap().0);
        }
        let mut answered = Counts::default();
        for response in responses {
            let response = response.await.unwrap();
            answered.add(Outcome::Http2(Answer::Whole(class(response.status()))));
            let mut body = response.into_body();
            while let Some(data) = body.data().await {
                data.unwrap();
            }
            body.trailers().await.unwrap();
        }
        assert_eq!(recognised(HTTP2), answered);
    });
}

/// Says all of it once that many streams are open: before, its answers would be to nothing.
async fn says_all(mut far: DuplexStream, bytes: Vec<u8>, streams: usize) {
    const HEADERS: u8 = 1;
    far.read_exact(&mut [0; 24]).await.unwrap();
    let mut open = 0;
    while open < streams {
        let mut header = [0; 9];
        far.read_exact(&mut header).await.unwrap();
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        far.read_exact(&mut vec![0; usize::try_from(length).unwrap()]).await.unwrap();
        open += usize::from(header[3] == HEADERS);
    }
    far.write_all(&bytes).await.unwrap();
    while let Ok(1..) = far.read(&mut [0; 4096]).await {}
}
