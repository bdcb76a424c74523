//! Arbitrary bytes, and bytes that nearly are a protocol.

use proptest::prelude::*;

use super::*;
use crate::framing::frame::PREFACE;

/// Pieces that make the inner states reachable.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        "GET / HTTP/1.1\r\n",
        "HEAD /x HTTP/1.0\r\n",
        "CONNECT a:1 HTTP/1.1\r\n",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 101 x\r\n",
        "HTTP/1.1 100 x\r\n",
        "HTTP/1.1 304 x\r\n",
        "Content-Length: 3\r\n",
        "Transfer-Encoding: chunked\r\n",
        "\r\n",
        "3\r\nabc\r\n",
        "0\r\n",
        "abc",
        "\n",
    ];
    let octet = prop_oneof![0_u8..9, any::<u8>()];
    let frame = (0_u8..11, any::<u8>(), 0_u32..6, prop::collection::vec(octet, 0..40)).prop_map(
        |(kind, flags, stream, payload)| {
            let mut out = Vec::new();
            crate::framing::frame::push(&mut out, kind, flags & 0x2d, stream, &payload);
            out
        },
    );
    let block = prop::collection::vec(
        prop::sample::select(vec![
            0x82, 0x83, 0x88, 0x8d, 0x8e, 0x40, 0x5f, 0x20, 0x3f, 0xbe, 0x08, 3, b'2', b'0',
        ]),
        0..12,
    );
    let headers = (prop::sample::select(vec![1_u8, 9]), 0x4_u8..6, 0_u32..8, block).prop_map(
        |(kind, flags, stream, payload)| {
            let mut out = Vec::new();
            crate::framing::frame::push(&mut out, kind, flags, stream, &payload);
            out
        },
    );
    prop_oneof![
        6 => prop::sample::select(words.to_vec()).prop_map(|word| word.as_bytes().to_vec()),
        1 => Just([&PREFACE[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat()),
        1 => Just(vec![0, 0, 0, 4, 0, 0, 0, 0, 0]),
        3 => frame,
        4 => headers,
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ]
}

pub(super) fn talk() -> impl Strategy<Value = Talk> {
    let opening = prop_oneof![
        3 => Just(vec![(Client, b"GET / HTTP/1.1\r\n\r\n".to_vec())]),
        3 => Just(vec![(Client, [&PREFACE[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat()),
                       (Server, vec![0, 0, 0, 4, 0, 0, 0, 0, 0])]),
        1 => Just(vec![]),
    ];
    let side = prop_oneof![Just(Client), Just(Server)];
    (opening, prop::collection::vec((side, piece()), 0..30)).prop_map(|(mut talk, rest)| {
        talk.extend(rest);
        talk
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn how_bytes_are_cut_does_not_matter(talk in talk(), cuts in prop::collection::vec(1_usize..40, 1..40)) {
        let whole = shown(&talk, || usize::MAX);
        let mut cuts = cuts.iter().cycle();
        prop_assert_eq!(&shown(&talk, || *cuts.next().unwrap()), &whole);
        prop_assert_eq!(&shown(&talk, || 1), &whole);
    }

    #[test]
    fn arbitrary_bytes_stay_within_bounds(script in prop::collection::vec(any::<u8>(), 0..2000)) {
        let (mut known, mut opaque) = (0, 0);
        let most = replay(&script, &mut |event| match event {
            Event::Known(_) => known += 1,
            Event::Opaque(_) => opaque += 1,
            Event::Response(_) | Event::Unanswered(_) => {}
        });
        prop_assert!(most <= MEMORY_MAX);
        prop_assert!(known <= 1 && opaque <= 1);
    }
}
