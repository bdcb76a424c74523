//! Two ends joined by a pipe, arbitrary bytes, and the refusals.

use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::explain::Violation;
use crate::policy::Denial;
use crate::reason::Reason;

/// Answers that are put off.
mod answers;

const NOW: Duration = Duration::ZERO;

fn request() -> ConnectRequest {
    ConnectRequest {
        authority: "10.0.0.2:80".parse().unwrap(),
        source: "[fd00::1]:4242".parse().unwrap(),
        host: Some("web.shop".to_owned()),
    }
}

/// Owned copies of events, for comparing.
fn drain(end: &mut Connection, mut input: &[u8]) -> Result<Vec<String>, ConnectionError> {
    let mut events = Vec::new();
    loop {
        let (taken, event) = end.receive(NOW, input)?;
        input = &input[taken..];
        match event {
            Some(event) => events.push(format!("{event:?}")),
            None if taken == 0 => break,
            None => {}
        }
    }
    assert!(input.len() < MAX_HEADER_BLOCK + FRAME_HEADER);
    Ok(events)
}

fn pair() -> (Connection, Connection) {
    let mut client = Connection::new(Role::Client, Settings::default());
    let mut server = Connection::new(Role::Server, Settings::default());
    let bytes = std::mem::take(client.output());
    drain(&mut server, &bytes).unwrap();
    let bytes = std::mem::take(server.output());
    drain(&mut client, &bytes).unwrap();
    let bytes = std::mem::take(client.output());
    drain(&mut server, &bytes).unwrap();
    (client, server)
}

fn deliver(from: &mut Connection, to: &mut Connection) -> Vec<String> {
    let bytes = std::mem::take(from.output());
    drain(to, &bytes).unwrap()
}

#[test]
fn a_request_arrives_as_it_was_sent() {
    let (mut client, mut server) = pair();
    let stream = client.connect(&request()).unwrap();
    let expected = Event::Connect { stream, request: Ok(request()) };
    assert_eq!(deliver(&mut client, &mut server), [format!("{expected:?}")]);
    let policy = Denial::decode("authorization no_match 0 AuthorizationPolicy shop/db");
    assert!(policy.is_some());
    let reason = Some(Reason::PolicyDenied);
    server.respond(stream, 403, reason, policy.as_ref());
    let expected = Event::Response { stream, status: 403, reason, policy };
    assert_eq!(
        deliver(&mut server, &mut client),
        [format!("{expected:?}"), "End { stream: StreamId(1) }".into()]
    );
}

#[test]
fn halves_close_one_by_one_and_a_reset_is_a_reset() {
    let (mut client, mut server) = pair();
    let stream = client.connect(&request()).unwrap();
    let end = client.data_header(stream, 0, true);
    client.output().extend(end);
    assert_eq!(deliver(&mut client, &mut server)[1], "End { stream: StreamId(1) }");
    server.respond(stream, 200, None, None);
    server.reset(stream, ErrorCode::CONNECT_ERROR);
    let events = deliver(&mut server, &mut client);
    assert_eq!(events[1], format!("{:?}", Event::Reset { stream, code: ErrorCode::CONNECT_ERROR }));
    assert_eq!((client.open_streams(), server.open_streams()), (0, 0));
}

#[test]
fn goaway_refuses_what_was_not_processed() {
    let (mut client, mut server) = pair();
    let first = client.connect(&request()).unwrap();
    deliver(&mut client, &mut server);
    let second = client.connect(&request()).unwrap();
    server.go_away(ErrorCode::NO_ERROR);
    let events = deliver(&mut server, &mut client);
    assert_eq!(events[1], format!("{:?}", Event::Reset { stream: second, code: ErrorCode::REFUSED_STREAM }));
    assert!(client.is_open(first));
    assert_eq!(client.connect(&request()), Err(OpenError::GoingAway));
}

#[test]
fn more_streams_than_allowed_are_refused() {
    let settings = Settings { max_streams: 2, ..Settings::default() };
    let mut client = Connection::new(Role::Client, Settings::default());
    let mut server = Connection::new(Role::Server, settings);
    // Opened before the client knows the limit.
    for _ in 0..3 {
        client.connect(&request()).unwrap();
    }
    assert_eq!(deliver(&mut client, &mut server).iter().filter(|e| e.starts_with("Connect")).count(), 2);
    let events = deliver(&mut server, &mut client);
    assert!(
        events.iter().any(|e| e.contains("Reset { stream: StreamId(5), code: ErrorCode(7) }")),
        "{events:?}"
    );
    assert_eq!(client.connect(&request()), Err(OpenError::PeerLimit(2)));
}

fn refused(bytes: &[u8]) -> ConnectionError {
    let (_, mut server) = pair();
    for _ in 0..20_000 {
        if let Err(error) = drain(&mut server, bytes) {
            assert!(server.output().len() >= 17, "no GOAWAY was queued");
            return error;
        }
        server.output().clear();
    }
    panic!("not refused: {bytes:?}");
}

fn framed(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::push(&mut out, kind, flags, stream, payload);
    out
}

#[test]
fn what_breaks_the_protocol_ends_the_connection_with_its_code() {
    let headers = |block: &[u8]| framed(frame::HEADERS, 4, 1, block);
    let settings = |name: u8, value: u32| {
        let mut payload = vec![0, name];
        payload.extend(value.to_be_bytes());
        framed(frame::SETTINGS, 0, 0, &payload)
    };
    let update = |increment: u32| framed(frame::WINDOW_UPDATE, 0, 0, &increment.to_be_bytes());
    let many = [&[0x40, 1, b'a', 1, b'b'][..]; 65].concat();
    let long = [&[0x40, 1, b'a', 0x7f, 0x81, 0x1e][..], &[b'x'; 3968], &[0xbe; 8]].concat();
    let cases = [
        (
            "data on an idle stream",
            framed(frame::DATA, 0, 1, b"x"),
            ErrorCode::PROTOCOL_ERROR,
            Violation::StreamState,
        ),
        (
            "even stream",
            framed(frame::HEADERS, 4, 2, &request().encode()),
            ErrorCode::PROTOCOL_ERROR,
            Violation::StreamState,
        ),
        (
            "stream zero",
            framed(frame::HEADERS, 4, 0, &request().encode()),
            ErrorCode::PROTOCOL_ERROR,
            Violation::StreamState,
        ),
        (
            "push promise",
            framed(frame::PUSH_PROMISE, 4, 1, &[0; 4]),
            ErrorCode::PROTOCOL_ERROR,
            Violation::FrameUnexpected,
        ),
        (
            "settings length",
            framed(frame::SETTINGS, 0, 0, &[0; 5]),
            ErrorCode::FRAME_SIZE_ERROR,
            Violation::FrameSize,
        ),
        (
            "settings on stream",
            framed(frame::SETTINGS, 0, 1, &[]),
            ErrorCode::PROTOCOL_ERROR,
            Violation::FrameUnexpected,
        ),
        ("push allowed twice", settings(2, 2), ErrorCode::PROTOCOL_ERROR, Violation::SettingsInvalid),
        ("frames too small", settings(5, 100), ErrorCode::PROTOCOL_ERROR, Violation::SettingsInvalid),
        (
            "first window overflow",
            settings(4, 0x8000_0000),
            ErrorCode::FLOW_CONTROL_ERROR,
            Violation::WindowOverflow,
        ),
        ("window of nothing", update(0), ErrorCode::PROTOCOL_ERROR, Violation::WindowFlood),
        ("window overflow", update(0x7fff_ffff), ErrorCode::FLOW_CONTROL_ERROR, Violation::WindowOverflow),
        (
            "ping length",
            framed(frame::PING, 0, 0, &[0; 7]),
            ErrorCode::FRAME_SIZE_ERROR,
            Violation::FrameSize,
        ),
        (
            "ping flood",
            framed(frame::PING, 0, 0, &[0; 8]),
            ErrorCode::ENHANCE_YOUR_CALM,
            Violation::FrameFlood,
        ),
        (
            "pong flood",
            framed(frame::PING, 1, 0, &[0; 8]),
            ErrorCode::ENHANCE_YOUR_CALM,
            Violation::FrameFlood,
        ),
        (
            "settings flood",
            framed(frame::SETTINGS, 0, 0, &[]),
            ErrorCode::ENHANCE_YOUR_CALM,
            Violation::FrameFlood,
        ),
        ("priority flood", framed(2, 0, 1, &[0; 5]), ErrorCode::ENHANCE_YOUR_CALM, Violation::FrameFlood),
        (
            "goaway flood",
            framed(frame::GOAWAY, 0, 0, &[0; 8]),
            ErrorCode::ENHANCE_YOUR_CALM,
            Violation::FrameFlood,
        ),
        (
            "continuation of nothing",
            framed(frame::CONTINUATION, 4, 1, &[]),
            ErrorCode::PROTOCOL_ERROR,
            Violation::FrameUnexpected,
        ),
        (
            "huge control frame",
            framed(frame::HEADERS, 4, 1, &vec![0; MAX_HEADER_BLOCK + 1]),
            ErrorCode::FRAME_SIZE_ERROR,
            Violation::FrameSize,
        ),
        ("garbage headers", headers(&[0xff; 40]), ErrorCode::COMPRESSION_ERROR, Violation::HeaderCompression),
        (
            "an integer without end",
            headers(&[0x7f, 0xff, 0xff, 0xff, 0xff]),
            ErrorCode::COMPRESSION_ERROR,
            Violation::HeaderCompression,
        ),
        (
            "a table above the limit",
            headers(&[0x3f, 0xe1, 0x7f]),
            ErrorCode::COMPRESSION_ERROR,
            Violation::HeaderCompression,
        ),
        ("many fields", headers(&many), ErrorCode::ENHANCE_YOUR_CALM, Violation::HeadersTooLarge),
    ];
    for (name, bytes, code, violation) in cases {
        let error = refused(&bytes);
        assert_eq!((error.code, error.violation), (code, violation), "{name}");
    }
    // On a stream, since the connection's window is as large as it can be already.
    let open = headers(&request().encode());
    let tiny = framed(frame::WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes()).repeat(10_001);
    let (_, mut server) = pair();
    drain(&mut server, &open).unwrap();
    assert_eq!(drain(&mut server, &tiny).unwrap_err().violation, Violation::WindowFlood);
    // Small on the wire, large in memory: an entry of the table, named again and again.
    let mut server = Connection::new(Role::Server, Settings::default());
    let mut bytes = frame::PREFACE.to_vec();
    bytes.extend(framed(frame::SETTINGS, 0, 0, &[]));
    bytes.extend(headers(&long));
    assert_eq!(drain(&mut server, &bytes).unwrap_err().violation, Violation::HeadersTooLarge);
}

#[test]
fn endless_header_pieces_are_refused() {
    let mut bytes = framed(frame::HEADERS, 0, 1, &request().encode());
    bytes.extend(framed(frame::CONTINUATION, 0, 1, b""));
    assert_eq!(refused(&bytes).violation, Violation::ContinuationFlood);
    let (_, mut server) = pair();
    let block = request().encode();
    let (first, second) = block.split_at(10);
    let mut bytes = framed(frame::HEADERS, 0, 1, first);
    bytes.extend(framed(frame::CONTINUATION, 4, 1, second));
    assert_eq!(drain(&mut server, &bytes).unwrap().len(), 1);
}

#[test]
fn rapid_resets_are_cut_off_and_memory_stays() {
    let (mut client, mut server) = pair();
    let error = (0..30_000).find_map(|_| {
        let stream = client.connect(&request()).unwrap();
        client.reset(stream, ErrorCode::CANCEL);
        let bytes = std::mem::take(client.output());
        let result = drain(&mut server, &bytes).err();
        assert_eq!(server.open_streams(), 0);
        result
    });
    assert_eq!(error.unwrap().violation, Violation::RapidReset);
}

#[test]
fn streams_that_are_not_served_are_borne_with_for_a_while() {
    let settings = Settings { max_streams: 2, ..Settings::default() };
    let refused = |settings: Settings, block: &[u8]| {
        let mut server = Connection::new(Role::Server, settings);
        let mut bytes = frame::PREFACE.to_vec();
        bytes.extend(framed(frame::SETTINGS, 0, 0, &[]));
        drain(&mut server, &bytes).unwrap();
        (1..10_000).step_by(2).find_map(|stream| {
            let error = drain(&mut server, &framed(frame::HEADERS, 4, stream, block)).err()?;
            Some((stream, error.violation))
        })
    };
    assert_eq!(refused(settings, &request().encode()), Some((2 * (2 + 2_000) + 1, Violation::StreamFlood)));
    // `:method: GET`
    assert_eq!(refused(Settings::default(), &[0x82]), Some((2 * 100 + 1, Violation::RequestFlood)));
}

#[test]
fn data_beyond_the_window_is_refused() {
    let (mut client, mut server) = pair();
    let stream = client.connect(&request()).unwrap();
    deliver(&mut client, &mut server);
    let frame = framed(frame::DATA, 0, stream.0, &[0; 65_536]);
    let error = (0..100).find_map(|_| drain(&mut server, &frame).err()).unwrap();
    assert_eq!((error.code, error.violation), (ErrorCode::FLOW_CONTROL_ERROR, Violation::WindowExceeded));
}

#[test]
fn a_peer_that_does_not_read_is_cut_off() {
    for most in [MAX_OUTPUT, 32 * 1024] {
        cut_off(most);
    }
}

fn cut_off(most: usize) {
    let (_, mut server) = pair();
    server.bound_output(most);
    let error = (0_u64..10_000_000).find_map(|i| {
        let ping = framed(frame::PING, 0, 0, &[0; 8]);
        let mut rest = ping.as_slice();
        loop {
            match server.receive(Duration::from_secs(i / 100), rest) {
                Ok((0, None)) => return None,
                Ok((taken, _)) => rest = &rest[taken..],
                Err(error) => return Some(error),
            }
        }
    });
    assert_eq!(error.unwrap().violation, Violation::AnswersUnread);
    assert!((most..most + 100).contains(&server.output().len()));
}

#[test]
fn odd_requests_are_told_and_do_not_end_the_connection() {
    let encode = |fields: &[(&[u8], &[u8])]| {
        let mut block = Vec::new();
        for (name, value) in fields {
            hpack::named(&mut block, name, value);
        }
        block
    };
    let good: [(&[u8], &[u8]); 3] =
        [(b":method", b"CONNECT"), (b":authority", b"10.0.0.2:80"), (b"forwarded", b"for=\"10.0.0.1:5\"")];
    let with = |index: usize, value: &'static [u8]| {
        let mut fields = good;
        fields[index].1 = value;
        encode(&fields)
    };
    let cases = [
        (encode(&good), None),
        (with(0, b"GET"), Some("NotConnect")),
        (with(1, b"web.shop:80"), Some("Authority")),
        (with(1, b"10.0.0.2"), Some("Authority")),
        (with(1, b"10.0.0.2:99999"), Some("Authority")),
        (with(1, b"\xff\x00"), Some("Authority")),
        (with(2, b"for=10.0.0.1"), Some("Forwarded")),
        (with(2, b"for=\"10.0.0.1:5\", for=\"10.0.0.9:5\""), Some("Forwarded")),
        (with(2, b"for=\"10.0.0.1:5\";for=\"10.0.0.9:5\""), Some("Forwarded")),
        (encode(&[good[0], good[1]]), Some("Forwarded")),
        (encode(&[good[0], good[1], good[2], good[1]]), Some("Unexpected")),
        (encode(&[good[0], good[1], good[2], (b":path", b"/")]), Some("Unexpected")),
    ];
    for (block, wrong) in cases {
        let (_, mut server) = pair();
        let events = drain(&mut server, &framed(frame::HEADERS, 4, 1, &block)).unwrap();
        match wrong {
            None => assert!(events[0].contains("Ok("), "{events:?}"),
            Some(wrong) => assert!(events[0].contains(wrong), "{events:?}"),
        }
    }
}

#[test]
fn huffman_strings_must_be_canonical() {
    let mut coded = Vec::new();
    httlib_huffman::encode(b"CONNECT", &mut coded).unwrap();
    let block = |value: &[u8]| {
        let mut block = vec![hpack::METHOD, 0x80 | u8::try_from(value.len()).unwrap()];
        block.extend(value);
        block
    };
    let mut decoder = hpack::Decoder::default();
    assert_eq!(decoder.decode(&block(&coded)).unwrap(), [(b":method".to_vec(), b"CONNECT".to_vec())]);
    let mut long = coded.clone();
    long.push(0xff);
    assert!(decoder.decode(&block(&long)).is_err(), "a whole byte of padding was taken");
    let last = coded.len() - 1;
    coded[last] &= 0xfe;
    assert!(decoder.decode(&block(&coded)).is_err(), "padding of zeros was taken");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..4096), framed_kind in 0_u8..12,
                                   flags: u8, stream in 0_u32..6) {
        for role in [Role::Client, Role::Server] {
            let (client, server) = pair();
            let mut end = if role == Role::Client { client } else { server };
            if role == Role::Client { end.connect(&request()).unwrap(); }
            let _ = drain(&mut end, &framed(framed_kind, flags, stream, &bytes));
            let mut raw = Connection::new(role, Settings::default());
            let _ = drain(&mut raw, &bytes);
        }
    }

    #[test]
    fn the_split_of_the_input_does_not_matter(cut in prop::collection::vec(1_usize..200, 1..200), payload in 0_usize..100_000) {
        let (mut client, mut server) = pair();
        let (_, mut whole) = pair();
        let stream = client.connect(&request()).unwrap();
        let header = client.data_header(stream, payload.min(60_000), true);
        let mut bytes = std::mem::take(client.output());
        bytes.extend(header);
        bytes.extend(std::iter::repeat_n(7, payload.min(60_000)));
        let total = |events: &[String]| events.iter().filter(|e| !e.starts_with("Data")).cloned().collect::<Vec<_>>();
        let expected = total(&drain(&mut whole, &bytes).unwrap());
        let mut seen = Vec::new();
        let mut received = 0;
        let mut held: Vec<u8> = Vec::new();
        let mut rest = bytes.as_slice();
        let mut cuts = cut.iter().cycle();
        while !rest.is_empty() {
            let (now, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            rest = later;
            held.extend(now);
            let mut at = 0;
            loop {
                let (taken, event) = server.receive(NOW, &held[at..]).unwrap();
                at += taken;
                match event {
                    Some(Event::Data { bytes, .. }) => received += bytes.len(),
                    Some(event) => seen.push(format!("{event:?}")),
                    None if taken == 0 => break,
                    None => {}
                }
            }
            held.drain(..at);
        }
        prop_assert_eq!(seen, expected);
        prop_assert_eq!(received, payload.min(60_000));
    }

    /// Two ends, one writer, a reader that takes what it likes: everything arrives, in order, and
    /// what lies between them never exceeds the window.
    #[test]
    fn flow_control_holds_under_any_schedule(takes in prop::collection::vec(0_usize..300_000, 1..60)) {
        const TOTAL: usize = 3_000_000;
        let (mut client, mut server) = pair();
        let stream = client.connect(&request()).unwrap();
        let (mut sent, mut read, mut waiting) = (0, 0, 0);
        let mut takes = takes.iter().cycle().chain(std::iter::repeat(&1));
        for round in 0..1_000_000 {
            while sent < TOTAL {
                let length = client.capacity(stream).min(client.max_frame()).min(TOTAL - sent).min(100_000);
                if length == 0 { break }
                let header = client.data_header(stream, length, false);
                let body: Vec<u8> = (sent..sent + length).map(|i| u8::try_from(i % 251).unwrap()).collect();
                client.output().extend(header);
                client.output().extend(body);
                sent += length;
            }
            let bytes = std::mem::take(client.output());
            let mut at = 0;
            loop {
                let (taken, event) = server.receive(NOW, &bytes[at..]).unwrap();
                at += taken;
                match event {
                    Some(Event::Data { bytes, .. }) => {
                        for byte in bytes {
                            prop_assert_eq!(usize::from(*byte), (read + waiting) % 251);
                            waiting += 1;
                        }
                    }
                    Some(_) => {}
                    None if taken == 0 => break,
                    None => {}
                }
            }
            prop_assert!(waiting <= 4 * 1024 * 1024);
            let take = waiting.min(*takes.next().unwrap()).max(usize::from(waiting > 0 && round % 10 == 9));
            waiting -= take;
            read += take;
            server.consumed(stream, take);
            deliver(&mut server, &mut client);
            if read == TOTAL { break }
        }
        prop_assert_eq!(read, TOTAL);
    }
}

#[test]
fn addresses_come_out_canonical() {
    let mapped =
        ConnectRequest { authority: "[::ffff:10.0.0.2]:80".parse::<SocketAddr>().unwrap(), ..request() };
    let mut decoder = hpack::Decoder::default();
    let fields = decoder.decode(&mapped.encode()).unwrap();
    assert_eq!(ConnectRequest::decode(&fields), Ok(request()));
}

#[test]
fn payload_that_goes_another_way_is_counted_as_if_it_had_come_here() {
    let (mut client, mut server) = pair();
    let stream = client.connect(&request()).unwrap();
    deliver(&mut client, &mut server);
    for (end, padding) in [(false, 0_u8), (false, 3), (true, 0)] {
        assert_eq!(server.under_way(), None);
        let flags = if end { frame::END_STREAM } else { 0 } | if padding > 0 { frame::PADDED } else { 0 };
        let length = 100 + usize::from(padding) + usize::from(padding > 0);
        let mut bytes =
            frame::Header { length, kind: frame::DATA, flags, stream: stream.value() }.bytes().to_vec();
        if padding > 0 {
            bytes.push(padding);
        }
        bytes.extend([7; 10]);
        let (taken, event) = server.receive(NOW, &bytes).unwrap();
        assert_eq!((taken, event), (bytes.len(), Some(Event::Data { stream, bytes: &[7; 10] })));
        assert_eq!(server.under_way(), Some((stream, 90)));
        assert_eq!(server.passed(60), None);
        assert_eq!(server.under_way(), Some((stream, 30)));
        assert_eq!(server.passed(30), end.then_some(Event::End { stream }));
        assert_eq!(server.under_way(), None);
        if padding > 0 {
            assert_eq!(server.receive(NOW, &[0; 3]).unwrap(), (3, None));
        }
    }
    // Of a stream that was reset nothing is wanted.
    let other = client.connect(&request()).unwrap();
    deliver(&mut client, &mut server);
    let header = client.data_header(other, 10, true);
    assert_eq!(server.receive(NOW, &header).unwrap(), (9, None));
    server.reset(other, ErrorCode::CANCEL);
    assert_eq!(server.under_way(), None);
    assert_eq!(server.receive(NOW, &[0; 10]).unwrap(), (10, None));
}
