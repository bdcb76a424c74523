//! What is recognised of dialogues that few clients lead: pipelines, byte by byte, against what hyper's server
//! understood; interim responses, trailers, upgrades and ends in the middle, against what hyper's client did.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use lark_core::recognise::{Answer, Class, Cut, Opaque, Outcome, Protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::ends::{on_worker, until};
use crate::requests::{Between, Counts, Dice, answer1, class};

/// Writes all of it, byte by byte if that is asked for.
async fn write(socket: &mut TcpStream, bytes: &[u8], byte_by_byte: bool) {
    if !byte_by_byte {
        return socket.write_all(bytes).await.unwrap();
    }
    for byte in bytes {
        // Each goes at once, for the other end's loop has a turn in between.
        socket.write_all(std::slice::from_ref(byte)).await.unwrap();
        tokio::task::yield_now().await;
    }
}

/// hyper's server, with what it has answered: a request that it did not understand is none.
async fn server(answered: Rc<RefCell<Counts>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let answered = answered.clone();
            let answer = hyper::service::service_fn(move |request: Request<Incoming>| {
                let answered = answered.clone();
                async move {
                    let response = answer1(request).await;
                    if let Ok(response) = &response {
                        let answer = Answer::Whole(class(response.status()));
                        answered.borrow_mut().add(Outcome::Http1(answer));
                    }
                    response
                }
            });
            let serve = hyper::server::conn::http1::Builder::new()
                .pipeline_flush(true)
                .serve_connection(TokioIo::new(socket), answer);
            tokio::task::spawn_local(serve);
        }
    });
    address
}

#[test]
fn requests_of_a_pipeline_are_those_that_hyper_answered_byte_by_byte_too() {
    on_worker(async {
        let answered = Rc::<RefCell<Counts>>::default();
        let between = Between::before(server(answered.clone()).await);
        let dice = Dice::default();
        for round in 0..12_usize {
            let requests = 1 + dice.below(20);
            let mut said = String::new();
            for number in 1..=requests {
                let method = dice.of(&["GET", "HEAD", "POST", "PUT", "DELETE"]);
                let status = dice.of(&[200, 201, 204, 301, 304, 404, 500, 503]);
                let (bytes, pieces) = (dice.below(300), dice.of(&[1, 1, 2, 7]));
                let body = match (method, dice.below(3)) {
                    ("GET" | "HEAD", _) | (_, 0) => "\r\n",
                    (_, 1) => "Content-Length: 5\r\n\r\nHEAD ",
                    // Chunks with an extension, and a trailer that must not be believed.
                    _ => {
                        "Transfer-Encoding: chunked\r\n\r\n3;a=b\r\nGET\r\n2\r\n /\r\n0\r\nContent-Length: 9\r\n\r\n"
                    }
                };
                let close = if number == requests { "Connection: close\r\n" } else { "" };
                said.push_str(&format!(
                    "{method} /{status}/{bytes}/{pieces} HTTP/1.1\r\nHost: lark\r\n{close}{body}"
                ));
            }
            let mut socket = between.connect().await;
            let (mut reading, mut heard) = (Vec::new(), 0);
            write(&mut socket, said.as_bytes(), round % 3 == 0).await;
            while let Ok(more @ 1..) = socket.read_buf(&mut reading).await {
                heard += more;
            }
            assert!(heard > 0, "hyper answered nothing to\n{said}");
        }
        until(|| between.counts(12, Protocol::Http1) == *answered.borrow()).await;
    });
}

/// What a server says to a path, and then closes or goes on.
const SCRIPTS: [(&str, &str, bool); 8] = [
    ("/whole", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", true),
    (
        "/hints",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\n\
         HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
        true,
    ),
    ("/continue", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", true),
    (
        "/trailers",
        "HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
        true,
    ),
    ("/until", "HTTP/1.1 200 OK\r\n\r\nas long as it lasts", false),
    ("/cut", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc", false),
    ("/cut-chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nabc", false),
    ("/nothing", "", false),
];
/// What it says to whoever wants another protocol, and then speaks it.
const UPGRADED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";

/// A server that says what its scripts have, byte by byte on every second connection.
async fn scripted() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        for number in 0.. {
            let (socket, _) = listener.accept().await.unwrap();
            tokio::task::spawn_local(serve(socket, number % 2 == 0));
        }
    });
    address
}

async fn serve(mut socket: TcpStream, byte_by_byte: bool) {
    let mut asked = Vec::new();
    loop {
        asked.clear();
        while !asked.ends_with(b"\r\n\r\n") {
            let Ok(1..) = socket.read_buf(&mut asked).await else { return };
        }
        let text = String::from_utf8(asked.clone()).unwrap();
        let path = text.split(' ').nth(1).unwrap();
        if path == "/upgrade" {
            write(&mut socket, UPGRADED.as_bytes(), byte_by_byte).await;
            let (mut reads, mut writes) = socket.split();
            _ = tokio::io::copy(&mut reads, &mut writes).await;
            return;
        }
        let (_, said, goes_on) = SCRIPTS.iter().find(|(own, ..)| *own == path).unwrap();
        write(&mut socket, said.as_bytes(), byte_by_byte).await;
        if !goes_on {
            return;
        }
    }
}

/// What hyper's client makes of an answer.
async fn ask(between: &Between, path: &str, repeats: usize, seen: &mut Counts) {
    let io = TokioIo::new(between.connect().await);
    let (mut client, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::task::spawn_local(connection.with_upgrades());
    for _ in 0..repeats {
        client.ready().await.unwrap();
        let mut request = Request::builder().uri(path).header("host", "lark");
        if path == "/upgrade" {
            request = request.header("connection", "upgrade").header("upgrade", "echo");
        }
        let answer = match client.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await {
            Err(_) => Answer::Cut(Cut::Closed),
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                let mut upgraded = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
                // What comes now looks like a request and is none.
                let said = b"GET / HTTP/1.1\r\n\r\n";
                upgraded.write_all(said).await.unwrap();
                let mut back = [0; 18];
                upgraded.read_exact(&mut back).await.unwrap();
                assert_eq!(&back, said);
                Answer::Whole(Class::Informational)
            }
            Ok(response) => {
                let status = response.status();
                match response.into_body().collect().await {
                    Ok(_) => Answer::Whole(class(status)),
                    Err(_) => Answer::Cut(Cut::Closed),
                }
            }
        };
        seen.add(Outcome::Http1(answer));
    }
}

#[test]
fn hints_trailers_upgrades_and_ends_in_the_middle_are_what_hypers_client_made_of_them() {
    on_worker(async {
        let between = Between::before(scripted().await);
        let mut seen = Counts::default();
        let mut connections = 0;
        for _ in 0..2 {
            for (path, _, goes_on) in SCRIPTS {
                // Twice, so that each is led once byte by byte, whatever came before.
                for _ in 0..2 {
                    ask(&between, path, if goes_on { 3 } else { 1 }, &mut seen).await;
                    connections += 1;
                }
            }
            for _ in 0..2 {
                ask(&between, "/upgrade", 1, &mut seen).await;
                connections += 1;
            }
        }
        until(|| between.counts(connections, Protocol::Http1) == seen).await;
        assert_eq!(between.opaque(), [Opaque::Upgraded; 4]);
    });
}
