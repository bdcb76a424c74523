//! Peers that are no Lark: the h2 crate over tokio-rustls as a client of ours, and listeners and
//! clients that break the rules.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use lark_identity::SvidStore;
use lark_testbed::hostile::{END, END_HEADERS, frame, kind, setting};
use lark_tunnel::TunnelSettings;
use lark_tunnel::cipher::{Cipher, by_speed, provider};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::ends::{World, accept, domain, echo, id, on_worker, quick, renews};

/// A listener, what shows an identity's certificate on it, and its address.
async fn shows(store: &SvidStore, account: &str) -> (TcpListener, TlsAcceptor, SocketAddr) {
    let svid = store.current(&id(account)).unwrap();
    let config = lark_tunnel::tls::server(&provider(&by_speed()), &svid, store, domain()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, TlsAcceptor::from(Arc::new(config)), address)
}

/// A listener that shows one identity's certificate whatever name is asked for.
pub(crate) async fn shows_always(store: SvidStore, account: &str) -> SocketAddr {
    let (listener, acceptor, address) = shows(&store, account).await;
    tokio::task::spawn_local(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::task::spawn_local(async move {
                if let Ok(mut tls) = acceptor.accept(socket).await {
                    let _ = tls.read(&mut [0; 1024]).await;
                }
            });
        }
    });
    address
}

/// A stream that takes new keys now and then, and asks for the other end's.
struct Renewing<S> {
    stream: S,
    renew: fn(&mut S),
    written: usize,
    /// How often.
    renewed: Rc<Cell<u32>>,
}

impl<S> Renewing<S> {
    fn new(stream: S, renew: fn(&mut S), renewed: &Rc<Cell<u32>>) -> Self {
        Self { stream, renew, written: 0, renewed: renewed.clone() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Renewing<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Renewing<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = std::task::ready!(Pin::new(&mut this.stream).poll_write(cx, bytes))?;
        this.written += written;
        if this.written > 100_000 && renews() {
            this.written = 0;
            (this.renew)(&mut this.stream);
            this.renewed.set(this.renewed.get() + 1);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

async fn connector(world: &World) -> TlsConnector {
    connector_with(world, &by_speed())
}

fn connector_with(world: &World, ciphers: &[Cipher]) -> TlsConnector {
    let store = world.store(&["web"]);
    let svid = store.current(&id("web")).unwrap();
    let config = lark_tunnel::tls::client(&provider(ciphers), &svid, &store, &id("db")).unwrap();
    TlsConnector::from(Arc::new(config))
}

fn name(account: &str) -> ServerName<'static> {
    ServerName::try_from(lark_tunnel::name::server_name(&id(account))).unwrap()
}

#[test]
fn a_cipher_that_is_not_named_is_neither_taken_nor_offered() {
    on_worker(async {
        let world = World::new();
        let settings = TunnelSettings { ciphers: vec![Cipher::Aes256Gcm], ..quick() };
        let node = accept(world.store(&["db"]), echo().await, settings).await;
        let connect = async |ciphers: &[Cipher]| {
            let tcp = TcpStream::connect(node).await.unwrap();
            let tls = connector_with(&world, ciphers).connect(name("db"), tcp).await;
            tls.map(|tls| tls.get_ref().1.negotiated_cipher_suite().unwrap().suite())
        };
        let named = rustls::CipherSuite::TLS13_AES_256_GCM_SHA384;
        // Whatever is preferred.
        assert_eq!(connect(&by_speed()).await.unwrap(), named);
        let others = [Cipher::Aes128Gcm, Cipher::Chacha20Poly1305];
        let refused = connect(&others).await.unwrap_err();
        assert!(refused.to_string().contains("HandshakeFailure"), "{refused}");
        assert_eq!(connect(&[Cipher::Aes256Gcm]).await.unwrap(), named);
    });
}

#[test]
fn the_h2_crate_tunnels_through_our_accepting_end_and_renews_its_keys() {
    on_worker(async {
        let world = World::new();
        let node = accept(world.store(&["db"]), echo().await, quick()).await;
        let tcp = TcpStream::connect(node).await.unwrap();
        let tls = connector(&world).await.connect(name("db"), tcp).await.unwrap();
        assert_eq!(
            tls.get_ref().1.negotiated_key_exchange_group().unwrap().name(),
            rustls::NamedGroup::X25519MLKEM768
        );
        let renewed = Rc::default();
        let renew = |tls: &mut client::TlsStream<_>| tls.get_mut().1.refresh_traffic_keys().unwrap();
        let tls = Renewing::new(tls, renew, &renewed);
        let (sender, connection) = h2::client::handshake(tls).await.unwrap();
        tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
        let mut sender = sender.ready().await.unwrap();
        let request = http::Request::builder()
            .method("CONNECT")
            .uri("10.0.0.2:80")
            .header("forwarded", "for=\"10.0.0.1:4242\"")
            .header("baggage", "k8s.cluster.name=one")
            .body(())
            .unwrap();
        let (response, mut body) = sender.send_request(request, false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        let mut received = response.into_body();
        let sent: Vec<u8> = (0..3_000_000_u32).map(|i| u8::try_from(i % 253).unwrap()).collect();
        let to_send = sent.clone();
        tokio::task::spawn_local(async move {
            let mut rest = Bytes::from(to_send);
            while !rest.is_empty() {
                body.reserve_capacity(rest.len());
                let room = std::future::poll_fn(|cx| body.poll_capacity(cx)).await.unwrap().unwrap();
                body.send_data(rest.split_to(room.min(rest.len())), false).unwrap();
            }
            body.send_data(Bytes::new(), true).unwrap();
        });
        let mut got = Vec::new();
        while let Some(data) = received.data().await {
            let data = data.unwrap();
            received.flow_control().release_capacity(data.len()).unwrap();
            got.extend_from_slice(&data);
        }
        assert!(got == sent, "{} of {}", got.len(), sent.len());
        assert!(renewed.get() > 3 || !renews(), "{renewed:?}");
        // What we do not serve is answered, not dropped.
        let request = http::Request::builder().method("CONNECT").uri("web.shop:80").body(()).unwrap();
        let (response, _) = sender.send_request(request, true).unwrap();
        assert_eq!(response.await.unwrap().status(), 400);
    });
}

#[test]
fn our_dialling_end_tunnels_through_the_h2_crate_which_renews_its_keys() {
    on_worker(async {
        let world = World::new();
        let (listener, acceptor, node) = shows(&world.store(&["db"]), "db").await;
        let renewed = Rc::default();
        let counted = Rc::clone(&renewed);
        tokio::task::spawn_local(async move {
            let (socket, _) = listener.accept().await.unwrap();
            let tls = acceptor.accept(socket).await.unwrap();
            let renew = |tls: &mut server::TlsStream<_>| tls.get_mut().1.refresh_traffic_keys().unwrap();
            let tls = Renewing::new(tls, renew, &counted);
            let mut connection = h2::server::handshake(tls).await.unwrap();
            while let Some(accepted) = connection.accept().await {
                let (request, mut respond) = accepted.unwrap();
                tokio::task::spawn_local(async move {
                    assert_eq!(request.method(), "CONNECT");
                    assert_eq!(request.uri().authority().unwrap().as_str(), "10.0.0.2:80");
                    assert_eq!(request.headers()["forwarded"], "for=\"10.0.0.1:4242\"");
                    let mut send = respond.send_response(http::Response::new(()), false).unwrap();
                    let mut body = request.into_body();
                    while let Some(Ok(data)) = body.data().await {
                        body.flow_control().release_capacity(data.len()).unwrap();
                        let mut rest = data;
                        while !rest.is_empty() {
                            send.reserve_capacity(rest.len());
                            let room =
                                std::future::poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap();
                            send.send_data(rest.split_to(room.min(rest.len())), false).unwrap();
                        }
                    }
                    send.send_data(Bytes::new(), true).unwrap();
                });
            }
        });
        let client = crate::ends::Client::new(world.store(&["web"]), node, quick()).await;
        let (socket, _, ended) = client.connect().await;
        let sent: Vec<u8> = (0..3_000_000_u32).map(|i| u8::try_from(i % 241).unwrap()).collect();
        let (mut read, mut write) = socket.into_split();
        let to_send = sent.clone();
        tokio::task::spawn_local(async move {
            write.write_all(&to_send).await.unwrap();
            write.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        read.read_to_end(&mut got).await.unwrap();
        assert!(got == sent, "{} of {}", got.len(), sent.len());
        assert_eq!(ended.await.unwrap().how, lark_tunnel::End::Clean);
        assert!(renewed.get() > 3 || !renews(), "{renewed:?}");
    });
}

#[test]
fn a_client_without_a_certificate_gets_no_tunnel() {
    on_worker(async {
        let world = World::new();
        let node = accept(world.store(&["db"]), echo().await, quick()).await;
        for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
            let config = lark_testbed::hostile::nobody(&[version]).unwrap();
            let tcp = TcpStream::connect(node).await.unwrap();
            match TlsConnector::from(Arc::new(config)).connect(name("db"), tcp).await {
                // In TLS 1.3 the client's handshake ends before the server has looked.
                Ok(mut tls) => {
                    let error = tls.read(&mut [0; 64]).await.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
                }
                Err(error) => assert!(
                    matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::ConnectionReset),
                    "{error}"
                ),
            }
        }
        let mut plain = TcpStream::connect(node).await.unwrap();
        plain.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let _ = plain.read_to_end(&mut answer).await;
        assert!(answer.len() <= 7, "plaintext was answered with more than an alert: {answer:?}");
    });
}

/// What a peer said of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Begins(u32),
    Ends(u32),
}

/// A tunnel's accepting end of raw frames. It answers a stream's first bytes with the same, and ends it then or when the
/// peer does; says what it heard when the peer has closed.
async fn hears(mut tls: server::TlsStream<TcpStream>, settings: &[u8], ends: bool) -> Vec<Said> {
    let mut preface = [0; 24];
    tls.read_exact(&mut preface).await.unwrap();
    tls.write_all(&frame(kind::SETTINGS, 0, 0, settings)).await.unwrap();
    let mut heard = Vec::new();
    loop {
        let mut header = [0; 9];
        if tls.read_exact(&mut header).await.is_err() {
            return heard;
        }
        let [high, middle, low, kind, flags, stream @ ..] = header;
        let stream = u32::from_be_bytes(stream);
        let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, high, middle, low])).unwrap()];
        tls.read_exact(&mut payload).await.unwrap();
        match kind {
            kind::SETTINGS if flags == 0 => {
                tls.write_all(&frame(kind::SETTINGS, 1, 0, &[])).await.unwrap();
            }
            kind::HEADERS => heard.push(Said::Begins(stream)),
            kind::DATA => {
                if !payload.is_empty() {
                    // Status 200 of HPACK's static table.
                    let answer = frame(kind::HEADERS, END_HEADERS, stream, &[0x88]);
                    let said = frame(kind::DATA, if ends { END } else { 0 }, stream, &payload);
                    tls.write_all(&[answer, said].concat()).await.unwrap();
                }
                if flags & END != 0 {
                    heard.push(Said::Ends(stream));
                    if !ends {
                        tls.write_all(&frame(kind::DATA, END, stream, &[])).await.unwrap();
                    }
                }
            }
            _ => {}
        }
    }
}

/// A dialling end at such a peer, and what that will have heard.
async fn heard_by(
    world: &World,
    settings: Vec<u8>,
    ends: bool,
) -> (crate::ends::Client, tokio::task::JoinHandle<Vec<Said>>) {
    let (listener, acceptor, node) = shows(&world.store(&["db"]), "db").await;
    let heard = tokio::task::spawn_local(async move {
        let (socket, _) = listener.accept().await.unwrap();
        hears(acceptor.accept(socket).await.unwrap(), &settings, ends).await
    });
    (crate::ends::Client::new(world.store(&["web"]), node, quick()).await, heard)
}

#[test]
fn a_peer_that_takes_one_stream_at_a_time_hears_of_its_end_before_the_next_one() {
    on_worker(async {
        let (client, heard) = heard_by(&World::new(), setting(3, 1), true).await;
        for _ in 0..100 {
            let (mut socket, _, ended) = client.connect().await;
            crate::ends::echoes(&mut socket).await;
            assert_eq!(socket.read(&mut [0; 1]).await.unwrap(), 0);
            drop(socket);
            assert_eq!(ended.await.unwrap().how, lark_tunnel::End::Clean);
        }
        client.dialer.drain();
        drop(client);
        let one_by_one = (0..100).map(|n| 2 * n + 1).flat_map(|n| [Said::Begins(n), Said::Ends(n)]);
        assert_eq!(heard.await.unwrap(), one_by_one.collect::<Vec<_>>());
    });
}

#[test]
fn a_connection_that_is_opened_before_another_is_closed_goes_first() {
    on_worker(async {
        let (client, heard) = heard_by(&World::new(), Vec::new(), false).await;
        let client = Rc::new(client);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let carried = client.clone();
        // Accepts like an agent: a task for each connection.
        tokio::task::spawn_local(async move {
            while let Ok((pod, _)) = listener.accept().await {
                drop(carried.carry("db", 80, pod));
            }
        });
        let mut open = TcpStream::connect(address).await.unwrap();
        crate::ends::echoes(&mut open).await;
        let mut expected = vec![Said::Begins(1)];
        for n in 1..20 {
            // Both happen while the worker does something else, so it hears of them at once.
            let mut next = std::net::TcpStream::connect(address).unwrap();
            drop(open);
            io::Write::write_all(&mut next, b"x").unwrap();
            std::thread::sleep(std::time::Duration::from_millis(5));
            next.set_nonblocking(true).unwrap();
            open = TcpStream::from_std(next).unwrap();
            open.read_exact(&mut [0; 1]).await.unwrap();
            expected.extend([Said::Begins(2 * n + 1), Said::Ends(2 * n - 1)]);
        }
        client.dialer.drain();
        // The tunnel closes with its last stream.
        drop((open, client));
        expected.push(Said::Ends(39));
        assert_eq!(heard.await.unwrap(), expected);
    });
}

#[test]
fn a_stream_that_was_answered_goes_nowhere_else_though_its_peer_says_that_it_never_saw_it() {
    on_worker(async {
        let world = World::new();
        let (listener, acceptor, node) = shows(&world.store(&["db"]), "db").await;
        tokio::task::spawn_local(async move {
            let (socket, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(acceptor.accept(socket).await.unwrap()).await.unwrap();
            while let Some(accepted) = connection.accept().await {
                let (request, mut respond) = accepted.unwrap();
                tokio::task::spawn_local(async move {
                    let mut send = respond.send_response(http::Response::new(()), false).unwrap();
                    let mut body = request.into_body();
                    let said = body.data().await.unwrap().unwrap();
                    send.send_data(said, false).unwrap();
                    // What it said got here, so by another try it would get there twice.
                    body.data().await.unwrap().unwrap();
                    send.send_reset(h2::Reason::REFUSED_STREAM);
                });
            }
        });
        let client = crate::ends::Client::new(world.store(&["web"]), node, quick()).await;
        let (mut socket, _, ended) = client.connect().await;
        crate::ends::echoes(&mut socket).await;
        socket.write_all(b"once").await.unwrap();
        let ended = ended.await.unwrap();
        assert_eq!((ended.established, ended.how), (true, lark_tunnel::End::Lost));
        assert_eq!(ended.refusal.unwrap().reason, lark_core::reason::Reason::TunnelLost);
        assert_eq!(socket.read(&mut [0; 1]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!((client.seen.handshakes(), client.dialer.tunnels()), (1, 1));
    });
}

#[test]
fn a_peer_whose_every_tunnel_is_over_at_once_is_given_up() {
    on_worker(async {
        let world = World::new();
        let (listener, acceptor, node) = shows(&world.store(&["db"]), "db").await;
        tokio::task::spawn_local(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let mut tls = acceptor.accept(socket).await.unwrap();
                let goaway = frame(kind::GOAWAY, 0, 0, &[0; 8]);
                tls.write_all(&[frame(kind::SETTINGS, 0, 0, &[]), goaway].concat()).await.unwrap();
                tls.shutdown().await.unwrap();
            }
        });
        let client = crate::ends::Client::new(world.store(&["web"]), node, quick()).await;
        let (_socket, _, ended) = client.connect().await;
        let refusal = ended.await.unwrap().refusal.unwrap();
        assert_eq!(refusal.reason, lark_core::reason::Reason::TunnelLost);
        assert!(refusal.detail.contains("took no stream when they were open"), "{refusal}");
        assert!(client.seen.handshakes() <= 12, "{}", client.seen.handshakes());
        // Nobody dials it again for a moment, in which one of so many surely comes.
        let mut spared = 0;
        for _ in 0..20 {
            let before = client.seen.handshakes();
            let (_socket, _, ended) = client.connect().await;
            let refusal = ended.await.unwrap().refusal.unwrap();
            assert!(refusal.detail.contains("took no stream when they were open"), "{refusal}");
            spared += usize::from(client.seen.handshakes() == before);
        }
        assert!(spared > 0);
        // Whoever counts what is open counts none.
        crate::ends::until(|| client.seen.opened() > 0 && client.seen.opened() == client.seen.closed()).await;
    });
}
