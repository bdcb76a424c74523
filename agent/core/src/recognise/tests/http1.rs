//! HTTP/1.x in tables.

use super::*;

/// A request and its answer.
fn once(request: &str, answer: &str) -> Vec<String> {
    words(&[say(Client, request), say(Server, answer)])
}

pub(super) const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn a_response_ends_where_its_head_says() {
    let cases: [(&str, &str, &str, &[&str]); 14] = [
        ("length", GET, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", &["http1 GET 200 1..1"]),
        ("no body", GET, "HTTP/1.1 200 OK\r\ncontent-length:0\r\n\r\n", &["http1 GET 200 1..1"]),
        ("no reason", GET, "HTTP/1.1 404\r\nContent-Length: 0\r\n\r\n", &["http1 GET 404 1..1"]),
        (
            "line feeds",
            "GET / HTTP/1.1\n\n",
            "HTTP/1.1 200 OK\nContent-Length: 1\n\nx",
            &["http1 GET 200 1..1"],
        ),
        (
            "chunks",
            GET,
            "HTTP/1.1 200 OK\r\nTRANSFER-ENCODING: gzip , Chunked\r\n\r\n5;a=b\r\nab\r\nc\r\n0B \r\n01234567890\r\n0\r\n\r\n",
            &["http1 GET 200 1..1"],
        ),
        (
            "trailers",
            GET,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n00\r\nContent-Length: 9\r\n\r\n",
            &["http1 GET 200 1..1"],
        ),
        (
            "close",
            GET,
            "HTTP/1.1 200 OK\r\nServer: b\r\n\r\nHTTP/1.1 500 no\r\n\r\n",
            &["http1 GET 200 1..1"],
        ),
        (
            "HEAD",
            "HEAD / HTTP/1.1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
            &["http1 HEAD 200 1..1"],
        ),
        ("304", GET, "HTTP/1.1 304 x\r\nContent-Length: 9\r\n\r\n", &["http1 GET 304 1..1"]),
        ("204", GET, "HTTP/1.1 204 x\r\n\r\n", &["http1 GET 204 1..1"]),
        (
            "interim",
            GET,
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 201 x\r\nContent-Length: 0\r\n\r\n",
            &["http1 GET 201 1..1"],
        ),
        ("cut off", GET, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", &["http1 GET 200 closed 1"]),
        ("cut off in the head", GET, "HTTP/1.1 200 OK\r\nContent-Le", &["http1 GET 200 closed 1"]),
        ("never", GET, "", &["http1 GET closed 1"]),
    ];
    for (name, request, answer, expected) in cases {
        let mut all = vec!["http1"];
        all.extend(expected);
        assert_eq!(once(request, answer), all, "{name}");
    }
}

#[test]
fn what_can_be_read_in_two_ways_is_opaque() {
    let cases: [(&str, &str, &str); 16] = [
        ("length and chunks", "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "ambiguous"),
        ("chunks and length", "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", "ambiguous"),
        ("two lengths", "Content-Length: 3\r\nContent-Length: 4\r\n", "ambiguous"),
        ("the same twice", "Content-Length: 3\r\nContent-Length: 3\r\n", "ambiguous"),
        ("a list", "Content-Length: 3, 3\r\n", "ambiguous"),
        ("a sign", "Content-Length: +3\r\n", "ambiguous"),
        ("no number", "Content-Length:\r\n", "ambiguous"),
        ("too large", "Content-Length: 99999999999999999999\r\n", "ambiguous"),
        ("a space before the colon", "Content-Length : 3\r\n", "ambiguous"),
        ("a folded line", "X: y\r\n Content-Length: 3\r\n", "ambiguous"),
        ("chunked is not last", "Transfer-Encoding: chunked, gzip\r\n", "ambiguous"),
        ("chunked twice", "Transfer-Encoding: chunked, chunked\r\n", "ambiguous"),
        ("two codings", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "ambiguous"),
        ("a coding with something", "Transfer-Encoding: chunked;a=b\r\n", "ambiguous"),
        ("far to the right", &format!("Transfer-Encoding:{}chunked\r\n", " ".repeat(60)), "ambiguous"),
        ("no colon", "Content-Length 3\r\n", "broken"),
    ];
    for (name, field, reason) in cases {
        let expected = ["http1".to_owned(), format!("opaque {reason}")];
        assert_eq!(once(&format!("POST / HTTP/1.1\r\n{field}\r\n"), ""), expected, "{name}, request");
        assert_eq!(once(GET, &format!("HTTP/1.1 200 OK\r\n{field}\r\n")), expected, "{name}, response");
    }
}

#[test]
fn what_breaks_the_protocol_is_opaque() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let cases: [(&str, &str, &str, &str); 11] = [
        ("status line", GET, "SSH-2.0-x\r\n", "broken"),
        ("version", GET, "HTTP/2.0 200 OK\r\n", "broken"),
        ("status", GET, "HTTP/1.1 20x OK\r\n", "broken"),
        ("long status", GET, "HTTP/1.1 2000 OK\r\n", "broken"),
        ("chunk size", GET, &format!("{chunked}x\r\n"), "broken"),
        ("large chunk", GET, &format!("{chunked}1000000000000000\r\n"), "broken"),
        ("chunk end", GET, &format!("{chunked}1\r\nabc\r\n"), "broken"),
        ("chunk with a line feed", GET, &format!("{chunked}1\na\r\n"), "ambiguous"),
        ("chunks in 1.0", GET, &chunked.replace("1.1", "1.0"), "ambiguous"),
        ("no version", &format!("{GET}GET /\r\n"), "", "broken"),
        ("unasked", GET, "HTTP/1.1 204 x\r\n\r\nHTTP/1.1 408 x\r\n\r\n", "unsolicited"),
    ];
    for (name, request, answer, reason) in cases {
        let words = once(request, answer);
        assert_eq!(words.last(), Some(&format!("opaque {reason}")), "{name}: {words:?}");
    }
}

#[test]
fn answers_find_their_requests_in_a_pipeline() {
    let post = "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nGET /";
    let chunks = "PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let requests = format!("HEAD / HTTP/1.1\r\n\r\n{post}{chunks}\r\n\r\nPATCH /b?c=d HTTP/1.0\r\n\r\n");
    let talk = [
        say(Client, requests),
        say(Server, "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nHTTP/1.1 500 x\r\nContent-"),
        say(Server, "Length: 1\r\n\r\nx"),
        say(Server, "HTTP/1.1 201 x\r\nContent-Length: 2\r\n\r\nx"),
        say(Server, "y"),
        say(Client, "BREW / HTTP/1.1\r\n\r\n"),
        say(Server, "HTTP/1.0 200 x\r\n\r\nx"),
        say(Server, "x"),
    ];
    let expected = [
        "http1",
        "http1 HEAD 200 1..1",
        "http1 POST 500 1..2",
        "http1 PUT 201 3..4",
        "http1 PATCH 200 6..7",
        "http1 other closed 2",
    ];
    assert_eq!(words(&talk), expected);
}

#[test]
fn latency_runs_from_the_first_byte_of_the_request() {
    let talk = [
        say(Client, "PO"),
        say(Client, "ST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"),
        say(Server, "HTTP/1.1 100 x\r\n\r\n"),
        say(Client, "abc\r\n"),
        say(Server, "HTTP/"),
        say(Server, "1.1 200 x\r\nContent-Length: 1\r\n\r\n"),
        say(Server, "x"),
    ];
    assert_eq!(words(&talk), ["http1", "http1 POST 200 4..6"]);
}

#[test]
fn after_an_upgrade_nothing_is_said() {
    let upgrade = "GET /chat HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let connect = "CONNECT a:1 HTTP/1.1\r\n\r\n";
    let switched = "HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n\x01\x05hello";
    let cases: [(&str, Talk, &[&str]); 5] = [
        (
            "granted",
            vec![say(Client, upgrade), say(Server, switched)],
            &["http1 GET 101 1..1", "opaque upgraded"],
        ),
        (
            "not granted",
            vec![
                say(Client, upgrade),
                say(Server, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
                say(Client, GET),
            ],
            &["http1 GET 200 1..1", "http1 GET closed 0"],
        ),
        (
            "a tunnel, and bytes ahead of it",
            vec![say(Client, format!("{connect}\x16\x03")), say(Server, "HTTP/1.1 200 OK\r\n\r\nabc")],
            &["http1 CONNECT 200 1..1", "opaque upgraded"],
        ),
        (
            "no tunnel",
            vec![
                say(Client, connect),
                say(Server, "HTTP/1.1 403 x\r\nContent-Length: 1\r\n\r\nx"),
                say(Client, GET),
                say(Server, "HTTP/1.1 204 x\r\n\r\n"),
            ],
            &["http1 CONNECT 403 1..1", "http1 GET 204 1..1"],
        ),
        (
            "no tunnel, but bytes for it",
            vec![
                say(Client, format!("{connect}abc")),
                say(Server, "HTTP/1.1 403 x\r\nContent-Length: 0\r\n\r\n"),
            ],
            &["http1 CONNECT 403 1..1", "opaque ambiguous"],
        ),
    ];
    for (name, talk, expected) in cases {
        assert_eq!(words(&talk)[1..], *expected, "{name}");
    }
}

#[test]
fn an_answer_may_come_before_the_request_is_whole() {
    let talk = [
        say(Client, "POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\nabc"),
        say(Server, "HTTP/1.1 413 x\r\nContent-Length: 0\r\n\r\n"),
        say(Client, [b'x'; 997]),
        say(Client, GET),
        say(Server, "HTTP/1.1 204 x\r\n\r\n"),
    ];
    assert_eq!(words(&talk), ["http1", "http1 POST 413 1..1", "http1 GET 204 1..1"]);
}

#[test]
fn only_so_many_requests_are_kept() {
    let most = words(&[say(Client, GET.repeat(http1_max()))]);
    assert_eq!(most.len(), 1 + http1_max());
    assert_eq!(words(&[say(Client, GET.repeat(http1_max() + 1))]), ["http1", "opaque pipeline"]);
}

fn http1_max() -> usize {
    super::super::http1::PIPELINE_MAX
}

#[test]
fn a_reset_leaves_no_response_whole() {
    let mut said = Vec::new();
    let mut sink = |event| said.push(event);
    let mut recogniser = Recogniser::new();
    recogniser.client(GET.as_bytes(), Duration::ZERO, &mut sink);
    recogniser.server(b"HTTP/1.1 200 OK\r\n\r\nabc", Duration::ZERO, &mut sink);
    recogniser.finish(Ending::Reset, Duration::from_secs(1), &mut sink);
    let cut = Unanswered {
        protocol: Protocol::Http1,
        method: Method::Get,
        status: Some(200),
        cut: Cut::Closed,
        after: Some(Duration::from_secs(1)),
    };
    assert_eq!(said, [Event::Known(Protocol::Http1), Event::Unanswered(cut)]);
}
