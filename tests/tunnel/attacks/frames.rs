//! Frames that no agent sends, by somebody with a valid certificate.

use std::time::Duration;

use lark_core::framing;
use lark_testbed::Record;
use lark_testbed::hostile::kind::*;
use lark_testbed::hostile::{END, END_HEADERS, connect_to, field, frame, setting};
use lark_tunnel::TunnelSettings;

use super::{FLOOD, SOMEBODY, Stage, mib};
use crate::ends::{on_worker, quick, raw};

/// The n-th piece of what is sent until the other end closes.
type Piece = fn(u32) -> Vec<u8>;

/// What is sent, and the cause that it is counted under.
const ATTACKS: &[(&str, Piece, &str)] = &[
    // Streams.
    ("streams opened and reset", |n| each(100, n, |n| [open(n), reset(n)].concat()), "rapid_reset"),
    ("streams without end", |n| each(100, n, open), "stream_flood"),
    ("requests for a proxy", |n| each(100, n, |n| headers(2 * n + 1, &[0x82])), "request_flood"),
    ("a stream of an even number", |_| headers(2, &connect()), "stream_state"),
    ("data for nobody", |_| frame(DATA, 0, 7, b"x"), "stream_state"),
    (
        "data after the end",
        |n| [first(n, &[]), frame(DATA, END, 1, b""), frame(DATA, 0, 1, b"x")].concat(),
        "stream_state",
    ),
    ("a promise", |_| frame(PUSH_PROMISE, END_HEADERS, 1, &[0; 4]), "frame_unexpected"),
    ("a frame too large", |_| frame(HEADERS, END_HEADERS, 1, &[0; 20_000]), "frame_size"),
    ("a PING too short", |_| frame(PING, 0, 0, &[0; 7]), "frame_size"),
    // CONTINUATION.
    ("a block without end", |n| pieces(n, 0, b""), "continuation_flood"),
    ("a block in many pieces", |n| pieces(n, 0, &field("a", "b")), "continuation_flood"),
    (
        "a block that is not continued",
        |_| [frame(HEADERS, 0, 1, &connect()), frame(PING, 0, 0, &[0; 8])].concat(),
        "frame_unexpected",
    ),
    ("a continuation of nothing", |_| frame(CONTINUATION, END_HEADERS, 1, b""), "frame_unexpected"),
    // HPACK.
    ("an index of nothing", |_| headers(1, &[0xff, 0xff, 0x7f]), "header_compression"),
    ("an integer without end", |_| headers(1, &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff]), "header_compression"),
    ("a table above the limit", |_| headers(1, &[0x3f, 0xe1, 0xff, 0x3f]), "header_compression"),
    ("a string longer than its block", |_| headers(1, &[0, 0x7f, 0xff, 0x10, b'a']), "header_compression"),
    ("Huffman that does not end", |_| headers(1, &[0, 0x82, 0xff, 0xff, 0x81, 0xff]), "header_compression"),
    ("many fields", |_| headers(1, &field("a", "b").repeat(65)), "headers_too_large"),
    ("one field again and again", |_| headers(1, &bomb()), "headers_too_large"),
    // Windows.
    ("a window above the limit", |_| update(0, 0x7fff_ffff), "window_overflow"),
    (
        "a first window above the limit",
        |_| frame(SETTINGS, 0, 0, &setting(4, 0x8000_0000)),
        "window_overflow",
    ),
    ("updates of nothing", |_| update(0, 0), "window_flood"),
    ("updates of a byte", |n| [first(n, &[]), update(1, 1).repeat(1000)].concat(), "window_flood"),
    (
        "more than the window",
        |n| [first(n, &[]), frame(DATA, 0, 1, &[0; 16_384])].concat(),
        "window_exceeded",
    ),
    // Frames that cost and carry nothing.
    ("PINGs", |_| frame(PING, 0, 0, &[0; 8]).repeat(100), "frame_flood"),
    ("answers to no PING", |_| frame(PING, END, 0, &[0; 8]).repeat(100), "frame_flood"),
    ("SETTINGS", |_| frame(SETTINGS, 0, 0, &setting(4, 1)).repeat(100), "frame_flood"),
    ("PRIORITY", |_| frame(PRIORITY, 0, 1, &[0; 5]).repeat(100), "frame_flood"),
    ("empty DATA", |n| [first(n, &[]), frame(DATA, 0, 1, b"").repeat(100)].concat(), "frame_flood"),
    ("unknown frames", |_| frame(99, 0, 0, b"x").repeat(100), "frame_flood"),
    ("a setting out of range", |_| frame(SETTINGS, 0, 0, &setting(5, 1)), "settings_invalid"),
];

fn connect() -> Vec<u8> {
    connect_to("10.0.0.2:80", SOMEBODY)
}

fn headers(stream: u32, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, block)
}

/// The n-th stream.
fn open(n: u32) -> Vec<u8> {
    headers(2 * n + 1, &connect())
}

fn reset(n: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, 2 * n + 1, &8_u32.to_be_bytes())
}

/// The only stream, with the first piece.
fn first(n: u32, otherwise: &[u8]) -> Vec<u8> {
    if n == 0 { open(0) } else { otherwise.to_vec() }
}

fn each(count: u32, n: u32, piece: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    (n * count..(n + 1) * count).flat_map(piece).collect()
}

fn pieces(n: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    let begin = if n == 0 { frame(HEADERS, 0, 1, &connect()) } else { Vec::new() };
    [begin, frame(CONTINUATION, flags, 1, block)].concat()
}

fn update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

/// An entry of 4 KiB for the table, which is there until our SETTINGS are acknowledged, and its index.
fn bomb() -> Vec<u8> {
    [&[0x40, 1, b'a', 0x7f, 0x81, 0x1e][..], &[b'x'; 3968], &[0xbe; 100]].concat()
}

#[test]
fn broken_protocols_are_counted_each_by_its_kind_and_harm_nobody() {
    on_worker(async {
        let few = framing::Settings { max_streams: 50, ..framing::Settings::default() };
        // So many that the first attack ends by its resets: what arrives in one turn is otherwise more than a node's
        // share, and refused before its reset, which is then none that counts (the next test).
        let settings = TunnelSettings { framing: few, deliveries_max: 100_000, ..quick() };
        let mut stage = Stage::new(settings).await;
        for (what, piece, cause) in ATTACKS {
            let before = stage.lost(cause);
            let mut hostile = stage.tunnel(&[]).await;
            for n in 0..100_000 {
                if hostile.send(&piece(n)).await.is_err() || stage.lost(cause) > before {
                    break;
                }
                tokio::task::yield_now().await;
            }
            stage.until(&format!("{what} as {cause}"), |stage| stage.lost(cause), before + 1).await;
            stage.others_are_unharmed().await;
        }
        let before = stage.lost("no_preface");
        let mut hostile = raw(&stage.authority.store("web", |_| ()), super::TAKEN, stage.node.address).await;
        hostile.send(b"GET / HTTP/1.1\r\nhost: db\r\n\r\n").await.unwrap();
        hostile.closed().await;
        stage.until("no preface", |stage| stage.lost("no_preface"), before + 1).await;
        stage.others_are_unharmed().await;
        assert!(stage.grown() < 48 << 20, "{} bytes", stage.grown());
        let fault = "frames against the protocol: rapid resets, CONTINUATION, HPACK, windows, floods";
        let count = ATTACKS.len() + 1;
        let seen = format!("{count} of {count} ended and counted by cause; {}", mib(stage.grown()));
        Record::told(fault, u64::try_from(count).unwrap(), seen).unwrap();
    });
}

/// Refused streams cost a decision and an answer each, and whoever reads these may go on.
#[test]
fn streams_opened_and_reset_beyond_a_share_are_refused_and_harm_nobody() {
    on_worker(async {
        let mut stage = Stage::new(TunnelSettings { deliveries_max: 40, ..quick() }).await;
        let mut hostile = stage.tunnel(&[]).await;
        let mut refused = 0;
        for n in 0..100 {
            // Whatever of them was under way when its reset came is not answered.
            hostile.send(&each(100, n, |n| [open(n), reset(n)].concat())).await.unwrap();
            hostile.send(&frame(PING, 0, 0, &[7; 8])).await.unwrap();
            loop {
                match hostile.next().await.unwrap() {
                    said if said.kind == HEADERS && said.flags & END != 0 => refused += 1,
                    said if said.kind == PING => break,
                    _ => {}
                }
            }
        }
        assert_eq!(stage.refused("limit_reached"), refused);
        assert!((7_000..10_000).contains(&refused), "{refused} of 10,000 were refused");
        stage.others_are_unharmed().await;
        assert!(stage.grown() < 48 << 20, "{} bytes", stage.grown());
    });
}

#[test]
fn streams_that_ask_for_what_is_not_served_are_counted_each_by_its_reason() {
    on_worker(async {
        let mut stage = Stage::new(quick()).await;
        let mut hostile = stage.tunnel(&[]).await;
        let requests = [
            (connect_to("db.shop:80", SOMEBODY), "authority_unusable"),
            (connect_to("localhost:80", SOMEBODY), "authority_unusable"),
            (connect_to("10.0.0.2", SOMEBODY), "authority_unusable"),
            (connect_to("10.0.0.2:65536", SOMEBODY), "authority_unusable"),
            (connect_to("10.0.0.2:80@10.0.0.3:80", SOMEBODY), "authority_unusable"),
            (connect_to("10.0.0.2:80\0", SOMEBODY), "authority_unusable"),
            (connect_to("010.0.0.2:80", SOMEBODY), "authority_unusable"),
            (connect_to("10.0.0.2:80", "for=web"), "forwarded_unusable"),
            (connect_to("10.0.0.2:80", "for=\"10.0.0.1:1\", for=\"10.0.0.9:1\""), "forwarded_unusable"),
            (connect_to("10.0.0.2:80", "for=\"10.0.0.1:1\";for=\"10.0.0.9:1\""), "forwarded_unusable"),
            (connect_to("10.0.0.2:80", "by=\"10.0.0.1:1\""), "forwarded_unusable"),
            ([connect(), field("forwarded", SOMEBODY)].concat(), "not_connect"),
            ([connect(), field(":authority", "10.0.0.3:80")].concat(), "not_connect"),
            ([connect(), field(":path", "/")].concat(), "not_connect"),
            (field(":method", "GET"), "not_connect"),
        ];
        for (stream, (block, reason)) in (1..).step_by(2).zip(&requests) {
            let before = stage.refused(reason);
            let answer = hostile.ask(stream, block).await.unwrap();
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert!(answer.contains(reason) && answer.contains("400"), "{reason}: {answer}");
            assert_eq!(stage.refused(reason), before + 1, "{reason}");
        }
        assert_eq!(stage.deliver.begun.get(), 1, "somebody was asked to deliver it");
        stage.others_are_unharmed().await;
        let fault =
            "streams for a host name, without an address, with a forged form of `forwarded`, or no CONNECT";
        let count = requests.len();
        let seen = format!("{count} of {count} refused and counted by reason");
        Record::told(fault, u64::try_from(count).unwrap(), seen).unwrap();
    });
}

/// Zero windows are no breach: such streams wait, and cost next to nothing.
#[test]
fn streams_without_window_wait_and_harm_nobody() {
    on_worker(async {
        let mut stage = Stage::new(quick()).await;
        let mut hostile = stage.tunnel(&setting(4, 0)).await;
        for n in 0..500 {
            hostile.ask(2 * n + 1, &connect()).await.unwrap();
        }
        // Each application has something to say, and never gets to.
        for n in 0..500 {
            hostile.send(&frame(DATA, 0, 2 * n + 1, &[7; 10_000])).await.unwrap();
        }
        stage.others_are_unharmed().await;
        hostile.send(&update(1, 5)).await.unwrap();
        let data = hostile.next_of(DATA).await.unwrap();
        assert_eq!((data.stream, data.payload), (1, vec![7; 5]));
        stage.others_are_unharmed().await;
        assert!(stage.grown() < 48 << 20, "{} bytes", stage.grown());
        let seen = format!("all wait; {}", mib(stage.grown()));
        Record::told("streams whose window is zero", 500, seen).unwrap();
    });
}

#[test]
fn whoever_takes_nothing_of_what_waits_for_him_is_cut_off() {
    on_worker(async {
        let settings = TunnelSettings { keepalive: Duration::from_millis(600), ..quick() };
        let mut stage = Stage::new(settings).await;
        let mut hostile = stage.tunnel(&setting(4, 0x7fff_ffff)).await;
        let flood = headers(1, &connect_to(FLOOD, SOMEBODY));
        hostile.send(&[flood, update(0, 0x7fff_0000)].concat()).await.unwrap();
        // Nothing of what comes is read; the PINGs say that somebody is there.
        while stage.lost("peer_stalled") == 0 {
            if hostile.send(&frame(PING, 0, 0, &[0; 8])).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        stage.until("a peer that takes nothing", |stage| stage.lost("peer_stalled"), 1).await;
        stage.others_are_unharmed().await;
        let fault = "a peer that takes nothing of what waits for it";
        Record::told(fault, 1, "cut off and counted; others unharmed").unwrap();
    });
}
