//! Header compression against the tunnels' decoder, which keeps everything.

use proptest::prelude::*;

use super::*;
use crate::framing::hpack as whole;
use crate::recognise::hpack::{Decoder, Fields};
use crate::recognise::huffman::Huffman;

fn integer(out: &mut Vec<u8>, first: u8, prefix: u32, value: usize) {
    let mask = (1_usize << prefix) - 1;
    if value < mask {
        out.push(first | u8::try_from(value).unwrap());
        return;
    }
    out.push(first | u8::try_from(mask).unwrap());
    let mut rest = value - mask;
    while rest > 127 {
        out.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    out.push(u8::try_from(rest).unwrap());
}

fn string(out: &mut Vec<u8>, text: &[u8], huffman: bool) {
    let mut coded = Vec::new();
    if huffman {
        httlib_huffman::encode(text, &mut coded).unwrap();
    } else {
        coded.extend(text);
    }
    integer(out, if huffman { 0x80 } else { 0 }, 7, coded.len());
    out.extend(coded);
}

/// One representation of a field, or a new size of the table.
#[derive(Debug, Clone)]
enum Piece {
    Indexed(usize),
    Literal { inserted: bool, name: Result<Vec<u8>, usize>, value: Vec<u8>, huffman: bool },
}

fn encoded(pieces: &[Piece]) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Indexed(index) => integer(&mut out, 0x80, 7, *index),
            Piece::Literal { inserted, name, value, huffman } => {
                let (first, prefix) = if *inserted { (0x40, 6) } else { (0x10, 4) };
                match name {
                    Ok(name) => {
                        integer(&mut out, first, prefix, 0);
                        string(&mut out, name, *huffman);
                    }
                    Err(index) => integer(&mut out, first, prefix, *index),
                }
                string(&mut out, value, *huffman);
            }
        }
    }
    out
}

/// What the fields that the other decoder keeps say.
fn said(fields: &[(Vec<u8>, Vec<u8>)]) -> Fields {
    let mut said = Fields::default();
    for (name, value) in fields {
        match name.as_slice() {
            b":method" => said.method = Some(Method::of(value)),
            b":status" => {
                let code = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
                said.status = Some(code.filter(|code| (100..1000).contains(code)).unwrap_or(0));
            }
            b"content-type" => {
                said.is_grpc = value.starts_with(b"application/grpc") && value.get(16) != Some(&b'-')
            }
            b"grpc-status" => said.grpc_status = Some(GrpcStatus::of(value)),
            _ => {}
        }
    }
    said
}

fn piece() -> impl Strategy<Value = Piece> {
    let name = prop_oneof![
        3 => prop::sample::select(vec![":method", ":status", "content-type", "grpc-status", "cookie", "x"])
            .prop_map(|name| Ok(name.as_bytes().to_vec())),
        1 => "[a-z-]{0,40}".prop_map(|name| Ok(name.into_bytes())),
        4 => (1_usize..80).prop_map(Err),
    ];
    let value = prop_oneof![
        4 => prop::sample::select(vec!["GET", "PATCH", "200", "503", "404", "application/grpc", "application/grpc-web",
                                       "application/grpc+proto", "text/plain", "0", "7", "16"])
            .prop_map(|value| value.as_bytes().to_vec()),
        2 => prop::collection::vec(any::<u8>(), 0..200),
        1 => (0_usize..5000).prop_map(|length| vec![b'a'; length]),
    ];
    prop_oneof![
        2 => (1_usize..100).prop_map(Piece::Indexed),
        3 => (any::<bool>(), name, value, any::<bool>())
            .prop_map(|(inserted, name, value, huffman)| Piece::Literal { inserted, name, value, huffman }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever the other decoder takes, this one takes too, and both say the same.
    #[test]
    fn blocks_say_the_same_as_to_a_decoder_that_keeps_all(
        blocks in prop::collection::vec(prop::collection::vec(piece(), 0..12), 1..12), cut in 1_usize..50,
    ) {
        let (mut all, mut tags) = (whole::Decoder::default(), Decoder::new());
        for pieces in &blocks {
            let block = encoded(pieces);
            let Ok(fields) = all.decode(&block) else { return Ok(()) };
            let mut seen = Fields::default();
            for slice in block.chunks(cut) {
                prop_assert_eq!(tags.feed(slice, &mut seen), Ok(()));
            }
            prop_assert!(tags.is_between());
            let expected = said(&fields);
            prop_assert_eq!(
                (seen.method, seen.status, seen.is_grpc, seen.grpc_status),
                (expected.method, expected.status, expected.is_grpc, expected.grpc_status)
            );
        }
    }

    #[test]
    fn huffman_strings_come_out_as_they_went_in(text in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut coded = Vec::new();
        httlib_huffman::encode(&text, &mut coded).unwrap();
        prop_assert_eq!(unhuffman(&coded), Ok(text));
    }

    /// Only what encoding gives is taken.
    #[test]
    fn other_huffman_strings_are_refused(coded in prop::collection::vec(prop_oneof![any::<u8>(), Just(0xff)], 0..12)) {
        if let Ok(text) = unhuffman(&coded) {
            let mut again = Vec::new();
            httlib_huffman::encode(&text, &mut again).unwrap();
            prop_assert_eq!(again, coded);
        }
    }
}

fn unhuffman(coded: &[u8]) -> Result<Vec<u8>, Opaque> {
    let (mut huffman, mut text) = (Huffman::new(), Vec::new());
    for octet in coded {
        huffman.octet(*octet, |symbol| text.push(symbol))?;
    }
    huffman.finish(|symbol| text.push(symbol))?;
    Ok(text)
}

fn decoded(decoder: &mut Decoder, pieces: &[Piece]) -> Result<Fields, Opaque> {
    let mut fields = Fields::default();
    decoder.feed(&encoded(pieces), &mut fields).map(|()| fields)
}

fn inserted(name: &str, value: &str) -> Piece {
    Piece::Literal { inserted: true, name: Ok(name.into()), value: value.into(), huffman: false }
}

#[test]
fn a_larger_table_is_followed_as_far_as_entries_are_kept() {
    let mut decoder = Decoder::new();
    let mut size = Vec::new();
    integer(&mut size, 0x20, 5, 65_536);
    decoder.feed(&size, &mut Fields::default()).unwrap();
    // One that the default table would not hold, and as many as are kept.
    decoded(&mut decoder, &[inserted(":status", "418"), inserted("x", &"y".repeat(5000))]).unwrap();
    decoded(&mut decoder, &vec![inserted("x", "y"); 126]).unwrap();
    assert_eq!(decoded(&mut decoder, &[Piece::Indexed(62 + 127)]).unwrap().status, Some(418));
    decoded(&mut decoder, &[inserted("x", "y")]).unwrap();
    assert_eq!(decoded(&mut decoder, &[Piece::Indexed(62 + 128)]).unwrap_err(), Opaque::HeaderTable);
}

#[test]
fn an_entry_larger_than_the_table_empties_it() {
    let mut decoder = Decoder::new();
    decoded(&mut decoder, &[inserted(":status", "418")]).unwrap();
    let codes = [vec![b'a'; 6000], vec![b'a'; 4063]];
    for value in codes {
        let mut again = Decoder::new();
        decoded(&mut again, &[inserted(":status", "418")]).unwrap();
        let large =
            Piece::Literal { inserted: true, name: Ok(b"x".to_vec()), value: value.clone(), huffman: true };
        decoded(&mut again, &[large]).unwrap();
        let fits = value.len() == 4063;
        assert_eq!(decoded(&mut again, &[Piece::Indexed(62)]).is_ok(), fits, "{}", value.len());
    }
    decoder.feed(&[0x20], &mut Fields::default()).unwrap();
    assert_eq!(decoded(&mut decoder, &[Piece::Indexed(62)]).unwrap_err(), Opaque::Broken);
}
