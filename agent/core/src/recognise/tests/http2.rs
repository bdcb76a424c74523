//! HTTP/2 in tables.

use super::*;
use crate::framing::frame::{self, PREFACE, push};

pub(super) const END: u8 = frame::END_STREAM;
pub(super) const HEAD: u8 = frame::END_HEADERS;

pub(super) fn framed(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    push(&mut out, kind, flags, stream, payload.as_ref());
    out
}

pub(super) fn headers(flags: u8, stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    framed(frame::HEADERS, HEAD | flags, stream, block(fields))
}

/// All fields spelled out and not inserted.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        crate::framing::hpack::named(&mut out, name.as_bytes(), value.as_bytes());
    }
    out
}

pub(super) fn get(stream: u32) -> Vec<u8> {
    headers(END, stream, &[(":method", "GET"), (":path", "/"), ("te", "trailers")])
}

pub(super) fn call(stream: u32) -> Vec<u8> {
    headers(0, stream, &[(":method", "POST"), ("content-type", "application/grpc+proto")])
}

pub(super) fn status(flags: u8, stream: u32, code: &str) -> Vec<u8> {
    headers(flags, stream, &[(":status", code), ("server", "x")])
}

pub(super) fn data(flags: u8, stream: u32, length: usize) -> Vec<u8> {
    framed(frame::DATA, flags, stream, vec![b'x'; length])
}

pub(super) fn rst(stream: u32, code: u8) -> Vec<u8> {
    framed(frame::RST_STREAM, 0, stream, [0, 0, 0, code])
}

pub(super) fn goaway(last: u32) -> Vec<u8> {
    framed(frame::GOAWAY, 0, 0, [&last.to_be_bytes()[..], &[0; 4], b"bye"].concat())
}

fn settings() -> Vec<u8> {
    framed(frame::SETTINGS, 0, 0, [0; 12])
}

/// The beginning of every connection, and then this.
pub(super) fn talk(then: &[(Side, Vec<u8>)]) -> Talk {
    let mut talk = vec![say(Client, [PREFACE.to_vec(), settings()].concat()), say(Server, settings())];
    talk.extend(then.iter().cloned());
    talk
}

/// What is told after that.
pub(super) fn told(then: &[(Side, Vec<u8>)]) -> Vec<String> {
    let mut words = words(&talk(then));
    assert_eq!(words.remove(0), "http2");
    words
}

#[test]
fn exchanges_end_with_the_servers_last_byte() {
    let trailers = |fields: &[(&str, &str)]| say(Server, headers(END, 1, fields));
    let grpc_head =
        || say(Server, headers(0, 1, &[(":status", "200"), ("content-type", "application/grpc")]));
    let cases: [(&str, Talk, &[&str]); 13] = [
        ("head only", vec![say(Client, get(1)), say(Server, status(END, 1, "204"))], &["http2 GET 204 1..1"]),
        (
            "data",
            vec![
                say(Client, get(1)),
                say(Server, status(0, 1, "200")),
                say(Server, data(0, 1, 9)),
                say(Server, data(END, 1, 0)),
            ],
            &["http2 GET 200 1..3"],
        ),
        (
            "interim",
            vec![
                say(Client, get(1)),
                say(Server, [status(0, 1, "100"), status(0, 1, "103")].concat()),
                say(Server, status(END, 1, "304")),
            ],
            &["http2 GET 304 2..2"],
        ),
        (
            "trailers of no call",
            vec![say(Client, get(1)), say(Server, status(0, 1, "200")), trailers(&[("grpc-status", "0")])],
            &["http2 GET 200 1..2"],
        ),
        (
            "a call",
            vec![
                say(Client, call(1)),
                say(Client, data(END, 1, 20)),
                grpc_head(),
                say(Server, data(0, 1, 20)),
                trailers(&[("grpc-status", "0"), ("grpc-message", "")]),
            ],
            &["grpc POST 200 OK 2..4"],
        ),
        (
            "a call that failed",
            vec![say(Client, call(1)), grpc_head(), trailers(&[("grpc-status", "14")])],
            &["grpc POST 200 UNAVAILABLE 1..2"],
        ),
        (
            "a call with trailers only",
            vec![
                say(Client, call(1)),
                trailers(&[(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "12")]),
            ],
            &["grpc POST 200 UNIMPLEMENTED 1..1"],
        ),
        (
            "a call with a status of nobody",
            vec![say(Client, call(1)), grpc_head(), trailers(&[("grpc-status", "99")])],
            &["grpc POST 200 UNKNOWN 1..2"],
        ),
        (
            "a call that a proxy answered",
            vec![say(Client, call(1)), say(Server, status(END, 1, "503"))],
            &["grpc POST 503 1..1"],
        ),
        (
            "trailers of the request",
            vec![
                say(Client, call(1)),
                say(Client, headers(END, 1, &[("checksum", "1")])),
                say(Server, status(END, 1, "200")),
            ],
            &["grpc POST 200 2..2"],
        ),
        (
            "an early answer, and the rest of the request",
            vec![
                say(Client, call(1)),
                say(Server, status(END, 1, "413")),
                say(Client, data(END, 1, 100)),
                say(Client, get(3)),
                say(Server, status(END, 3, "200")),
            ],
            &["grpc POST 413 1..1", "http2 GET 200 1..1"],
        ),
        (
            "interleaved",
            vec![
                say(Client, [get(1), call(3)].concat()),
                say(Client, [get(5), data(END, 3, 5)].concat()),
                say(Server, [status(0, 5, "200"), status(0, 3, "200"), data(END, 5, 70_000)].concat()),
                say(Server, [status(END, 1, "500"), headers(END, 3, &[("grpc-status", "1")])].concat()),
            ],
            &["http2 GET 200 1..1", "http2 GET 500 3..3", "grpc POST 200 CANCELLED 2..3"],
        ),
        (
            "a tunnel over one stream",
            vec![
                say(Client, headers(0, 1, &[(":method", "CONNECT"), (":protocol", "websocket")])),
                say(Server, status(0, 1, "200")),
                say(Server, data(END, 1, 5)),
            ],
            &["http2 CONNECT 200 1..1"],
        ),
    ];
    for (name, then, expected) in cases {
        assert_eq!(told(&then), expected, "{name}");
    }
}

#[test]
fn resets_and_departures_leave_exchanges_unanswered() {
    let reset = |stream| rst(stream, 8);
    let cases: [(&str, Talk, &[&str]); 11] = [
        ("client", vec![say(Client, get(1)), say(Client, reset(1))], &["http2 GET client_reset 1"]),
        (
            "client, and the answer crossed",
            vec![say(Client, call(1)), say(Client, reset(1)), say(Server, status(END, 1, "200"))],
            &["grpc POST client_reset 1"],
        ),
        (
            "server",
            vec![say(Client, get(1)), say(Server, status(0, 1, "200")), say(Server, reset(1))],
            &["http2 GET 200 server_reset 2"],
        ),
        (
            "server, after all was said",
            vec![say(Client, call(1)), say(Server, status(END, 1, "200")), say(Server, reset(1))],
            &["grpc POST 200 1..1"],
        ),
        (
            "going away",
            vec![
                say(Client, [get(1), get(3)].concat()),
                say(Server, goaway(1)),
                say(Server, status(END, 1, "200")),
            ],
            &["http2 GET going_away 1", "http2 GET 200 2..2"],
        ),
        (
            "going away, and requests that crossed it",
            vec![
                say(Client, get(1)),
                say(Server, goaway(1)),
                say(Client, [get(3), call(5)].concat()),
                say(Server, status(END, 1, "200")),
            ],
            &["http2 GET going_away 0", "grpc POST going_away 0", "http2 GET 200 3..3"],
        ),
        (
            "going away soon, then of fewer and fewer",
            vec![
                say(Server, goaway(0x7fff_ffff)),
                say(Client, [get(1), get(3)].concat()),
                say(Server, goaway(3)),
                say(Client, get(5)),
                say(Server, goaway(1)),
                say(Client, get(7)),
            ],
            &[
                "http2 GET going_away 0",
                "http2 GET going_away 3",
                "http2 GET going_away 0",
                "http2 GET closed 4",
            ],
        ),
        (
            "going away, and never of more again",
            vec![say(Server, [goaway(1), goaway(9)].concat()), say(Client, get(3))],
            &["http2 GET going_away 0"],
        ),
        (
            "refused",
            vec![say(Client, [get(1), call(3)].concat()), say(Server, [rst(1, 7), rst(3, 11)].concat())],
            &["http2 GET going_away 1", "grpc POST server_reset 1"],
        ),
        (
            "refused by who asked",
            vec![say(Client, get(1)), say(Client, rst(1, 7))],
            &["http2 GET client_reset 1"],
        ),
        (
            "closed",
            vec![say(Client, get(1)), say(Client, call(3))],
            &["http2 GET closed 1", "grpc POST closed 0"],
        ),
    ];
    for (name, then, expected) in cases {
        assert_eq!(told(&then), expected, "{name}");
    }
}

#[test]
fn frames_around_the_headers_are_understood() {
    let whole = block(&[(":method", "PUT"), ("x", &"y".repeat(3000))]);
    let (first, rest) = whole.split_at(5);
    let (second, third) = rest.split_at(1000);
    let padded = [&[7][..], &[0; 5], &whole, &[0; 7]].concat();
    let answer = [&[3][..], &block(&[(":status", "200")]), &[0; 3]].concat();
    let promise = [&[0, 0, 0, 2][..], &block(&[(":method", "GET")])].concat();
    let then = [
        say(Client, framed(frame::PING, 0, 0, [0; 8])),
        say(Client, framed(frame::HEADERS, END, 1, first)),
        say(Client, framed(frame::CONTINUATION, 0, 1, second)),
        say(Client, framed(frame::CONTINUATION, HEAD, 1, third)),
        say(Client, framed(0x2, 0, 5, [0; 5])),
        say(Client, framed(frame::HEADERS, HEAD | frame::PADDED | frame::HAS_PRIORITY, 3, padded)),
        say(Client, framed(0xbe, 0xff, 7, [0; 300])),
        say(Server, framed(frame::PUSH_PROMISE, HEAD, 1, promise)),
        say(Server, status(END, 2, "500")),
        say(Server, framed(frame::WINDOW_UPDATE, 0, 0, [0, 0, 1, 0])),
        say(Server, framed(frame::HEADERS, HEAD | END | frame::PADDED, 1, &answer)),
        say(Server, framed(frame::HEADERS, HEAD | END | frame::PADDED, 3, &answer)),
    ];
    assert_eq!(told(&then), ["http2 PUT 200 9..9", "http2 PUT 200 6..6"]);
}

#[test]
fn what_breaks_the_protocol_is_opaque() {
    let cases: [(&str, Side, Vec<u8>); 12] = [
        ("an even stream", Client, get(2)),
        ("headers of no stream", Client, get(0)),
        ("a promise by the client", Client, framed(frame::PUSH_PROMISE, HEAD, 1, [0; 4])),
        ("continuation of nothing", Client, framed(frame::CONTINUATION, HEAD, 1, [])),
        ("another frame inside headers", Client, [framed(frame::HEADERS, 0, 1, []), data(0, 1, 1)].concat()),
        ("padding beyond the frame", Client, framed(frame::HEADERS, HEAD | frame::PADDED, 1, [2, 0x82])),
        ("padding without its length", Client, framed(frame::HEADERS, HEAD | frame::PADDED, 1, [])),
        ("a block that ends too early", Client, framed(frame::HEADERS, HEAD, 1, [0x40, 1])),
        ("index zero", Client, framed(frame::HEADERS, HEAD, 1, [0x80])),
        ("an index of nothing", Client, framed(frame::HEADERS, HEAD, 1, [0xbe])),
        (
            "an endless integer",
            Client,
            framed(frame::HEADERS, HEAD, 1, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
        ),
        ("no status", Server, headers(END, 1, &[("server", "x")])),
    ];
    for (name, who, bytes) in cases {
        let mut then = vec![say(Client, get(1))];
        if who == Client {
            then.clear();
        }
        then.push((who, bytes));
        assert_eq!(told(&then), ["opaque broken"], "{name}");
    }
    let unsettled = [say(Client, [PREFACE.to_vec(), get(1)].concat())];
    assert_eq!(words(&unsettled), ["http2", "opaque broken"]);
    let old_server = [
        say(Client, [PREFACE.to_vec(), settings()].concat()),
        say(Server, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"),
    ];
    assert_eq!(words(&old_server), ["http2", "opaque broken"]);
}

#[test]
fn the_server_may_send_its_settings_first() {
    let early = [
        say(Server, settings()),
        say(Client, [PREFACE.to_vec(), settings(), get(1)].concat()),
        say(Server, status(END, 1, "200")),
    ];
    assert_eq!(words(&early), ["http2", "http2 GET 200 1..1"]);
    let between = [say(Client, "PRI * "), say(Server, settings()), say(Client, &PREFACE[6..])];
    assert_eq!(words(&between), ["http2"]);
    let another = [say(Server, settings()), say(Client, "PRINT\r\n")];
    assert_eq!(words(&another), ["opaque server_first"]);
    let none = [say(Client, "PRI * "), say(Server, "what?\r\n..."), say(Client, "HTTP")];
    assert_eq!(words(&none), ["opaque unknown"]);
}

/// As much of everything as there can be at once.
#[test]
fn a_full_connection_stays_within_its_memory() {
    let entries = [0x40, 0, 0].repeat(200);
    let request = |id: u32| framed(frame::HEADERS, HEAD, id, &entries);
    let promise = framed(frame::PUSH_PROMISE, HEAD, 1, [&[0, 0, 0, 2][..], &entries].concat());
    let requests = (0..100).flat_map(|i| request(2 * i + 1)).collect();
    let mut recogniser = Recogniser::new();
    for (who, bytes) in talk(&[(Client, requests), (Server, promise)]) {
        match who {
            Client => recogniser.client(&bytes, Duration::ZERO, &mut |_| {}),
            Server => recogniser.server(&bytes, Duration::ZERO, &mut |_| {}),
        }
    }
    assert!(!recogniser.is_silent());
    let memory = recogniser.memory();
    assert!((1500..=MEMORY_MAX).contains(&memory), "{memory} bytes");
}
