//! Conversations in tables, cut in every way, and arbitrary bytes.

use std::time::Duration;

use super::*;

mod any;
mod beyond;
mod coding;
mod endings;
mod http1;
mod http2;
mod opening;

use Side::{Client, Server};

type Talk = Vec<(Side, Vec<u8>)>;

fn say(who: Side, bytes: impl AsRef<[u8]>) -> (Side, Vec<u8>) {
    (who, bytes.as_ref().to_vec())
}

/// Says no more, which a slice of nothing stands for.
fn ends(who: Side) -> (Side, Vec<u8>) {
    say(who, "")
}

/// Shows a conversation, each slice a millisecond after the one before, cut as told. The connection is closed at
/// the end.
fn shown(talk: &[(Side, Vec<u8>)], cut: impl FnMut() -> usize) -> Vec<Event> {
    shown_to(talk, Ending::Closed, cut)
}

/// The same, with another end.
fn shown_to(talk: &[(Side, Vec<u8>)], ending: Ending, mut cut: impl FnMut() -> usize) -> Vec<Event> {
    let mut events = Vec::new();
    let mut sink = |event| events.push(event);
    let mut recogniser = Recogniser::new();
    let mut now = Duration::ZERO;
    for (who, bytes) in talk {
        now += Duration::from_millis(1);
        match who {
            Client if bytes.is_empty() => recogniser.client_ended(),
            Server if bytes.is_empty() => recogniser.server_ended(),
            _ => {}
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (slice, later) = rest.split_at(cut().clamp(1, rest.len()));
            rest = later;
            match who {
                Client => recogniser.client(slice, now, &mut sink),
                Server => recogniser.server(slice, now, &mut sink),
            }
            assert!(recogniser.memory() <= MEMORY_MAX, "{} bytes", recogniser.memory());
        }
    }
    recogniser.finish(ending, now, &mut sink);
    assert!(recogniser.is_silent());
    events
}

/// The events of a conversation, which have to be the same however it is cut.
fn events(talk: &[(Side, Vec<u8>)], ending: Ending) -> Vec<Event> {
    let whole = shown_to(talk, ending, || usize::MAX);
    for size in [1, 2, 3, 7, 61] {
        assert_eq!(shown_to(talk, ending, || size), whole, "in slices of {size}");
    }
    whole
}

/// Events in short: what a table can show.
fn words(talk: &[(Side, Vec<u8>)]) -> Vec<String> {
    words_to(talk, Ending::Closed)
}

/// The same, with another end.
fn words_to(talk: &[(Side, Vec<u8>)], ending: Ending) -> Vec<String> {
    let ms = |time: Duration| time.as_millis();
    let word = |event: Event| match event {
        Event::Known(protocol) => protocol.to_string(),
        Event::Opaque(reason) => format!("opaque {reason}"),
        Event::Response(Response { protocol, method, status, grpc_status, latency }) => {
            let call = grpc_status.map(|status| format!(" {status}")).unwrap_or_default();
            let latency =
                latency.map(|l| format!(" {}..{}", ms(l.first_byte), ms(l.last_byte))).unwrap_or_default();
            format!("{protocol} {method} {status}{call}{latency}")
        }
        Event::Unanswered(Unanswered { protocol, method, status, cut, after }) => {
            let status = status.map(|status| format!(" {status}")).unwrap_or_default();
            let after = after.map(|after| format!(" {}", ms(after))).unwrap_or_default();
            format!("{protocol} {method}{status} {cut}{after}")
        }
    };
    events(talk, ending).into_iter().map(word).collect()
}

#[test]
fn labels_are_distinct() {
    fn distinct(labels: impl Iterator<Item = &'static str> + Clone) {
        assert_eq!(labels.clone().collect::<std::collections::BTreeSet<_>>().len(), labels.count());
    }
    distinct(Protocol::ALL.iter().map(|p| p.label()));
    distinct(Method::ALL.iter().map(|m| m.label()));
    distinct(GrpcStatus::ALL.iter().map(|s| s.label()));
    distinct(Opaque::ALL.iter().map(|o| o.label()));
    distinct(Cut::ALL.iter().map(|c| c.label()));
    assert!(GrpcStatus::ALL.iter().enumerate().all(|(code, status)| usize::from(status.code()) == code));
}

#[test]
fn success_is_what_the_server_is_not_to_blame_for() {
    let response = |protocol, status, grpc_status| Response {
        protocol,
        method: Method::Get,
        status,
        grpc_status,
        latency: None,
    };
    let cases = [
        (response(Protocol::Http1, 200, None), "2xx", true),
        (response(Protocol::Http1, 101, None), "1xx", true),
        (response(Protocol::Http2, 404, None), "4xx", true),
        (response(Protocol::Http2, 503, None), "5xx", false),
        (response(Protocol::Http1, 999, None), "other", false),
        (response(Protocol::Grpc, 200, Some(GrpcStatus::Ok)), "2xx", true),
        (response(Protocol::Grpc, 200, Some(GrpcStatus::NotFound)), "2xx", true),
        (response(Protocol::Grpc, 200, Some(GrpcStatus::Unavailable)), "2xx", false),
        (response(Protocol::Grpc, 200, None), "2xx", false),
        (response(Protocol::Grpc, 503, None), "5xx", false),
    ];
    for (response, class, success) in cases {
        assert_eq!((response.class().label(), response.is_success()), (class, success), "{response:?}");
    }
}
