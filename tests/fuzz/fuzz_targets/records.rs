//! TLS records as a peer may send them, with the keys and without: the input is what it seals, and what happens to
//! the records on the way. What is opened is what was sealed, in order and without a gap; where nothing was wrong all of
//! it, and the answer arrives.
#![no_main]

use lark_tunnel::RecordError;
use lark_tunnel::replay::{End, HELD_MAX};
use libfuzzer_sys::fuzz_target;

const CHANGE_CIPHER: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

/// Most bytes that a record may hold, and its header with what is added to them.
const FRAGMENT: usize = 16_384;
const RECORD_MAX: usize = 5 + FRAGMENT + 256;
/// An alert that says what was wrong.
const ALERT_MAX: usize = 64;
/// Announcements and tickets that may come in a row, each counted as a record and as a message.
const IN_A_ROW: usize = 32;
/// Most bytes of one input's records.
const STREAM: usize = 256 * 1024;

/// What the peer sends, and what of it must arrive.
struct Said {
    peer: End,
    stream: Vec<u8>,
    /// Where each record begins.
    records: Vec<usize>,
    data: Vec<Vec<u8>>,
    /// Announcements and tickets since the last data.
    in_a_row: usize,
    /// All is as it must be.
    is_right: bool,
}

impl Said {
    fn new(peer: End) -> Self {
        Self { peer, stream: Vec::new(), records: Vec::new(), data: Vec::new(), in_a_row: 0, is_right: true }
    }

    fn record(&mut self, record: &[u8]) {
        self.records.push(self.stream.len());
        self.stream.extend_from_slice(record);
    }

    fn seal(&mut self, kind: u8, bytes: &[u8]) {
        let record = self.peer.seal(kind, bytes).expect("a record of at most its size is sealed");
        self.record(&record);
    }

    fn counted(&mut self) {
        self.in_a_row += 1;
        self.is_right &= self.in_a_row <= IN_A_ROW;
    }

    /// The last record is taken out.
    fn last(&mut self) -> Vec<u8> {
        self.is_right = false;
        self.records.pop().map(|at| self.stream.split_off(at)).unwrap_or_default()
    }

    /// One step: what it does, how much, and its bytes.
    fn step(&mut self, what: u8, much: u8, bytes: &[u8]) {
        match what % 16 {
            0..=4 => {
                // Long ones too: the bytes again and again.
                let length = bytes.len() << (much % 16);
                let data: Vec<u8> = bytes.iter().copied().cycle().take(length.min(FRAGMENT)).collect();
                self.seal(DATA, &data);
                self.data.push(data);
                self.in_a_row = 0;
            }
            5 => {
                let record = self.peer.renew(much & 1 == 1).expect("keys are announced");
                self.record(&record);
                self.counted();
            }
            6 => {
                // A ticket in two records, or in one.
                let length = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
                let ticket = [&[4, 0, 0, length], bytes].concat();
                let (first, second) = ticket.split_at(usize::from(much) % ticket.len());
                for part in [first, second].into_iter().filter(|part| !part.is_empty()) {
                    self.seal(HANDSHAKE, part);
                    self.counted();
                }
            }
            // Whatever somebody with the keys says.
            7 => {
                self.is_right = false;
                self.seal(HANDSHAKE, bytes);
            }
            8 => {
                self.is_right = false;
                self.seal(ALERT, bytes);
            }
            9 => {
                self.is_right = false;
                // Kind nought is padding (RFC 8446, section 5.4): the kind would be the last of the bytes that is not.
                let kind = if matches!(much, 0 | DATA) { CHANGE_CIPHER } else { much };
                self.seal(kind, bytes);
            }
            // Whatever somebody without them does.
            10 => {
                self.is_right &= bytes.is_empty();
                self.record(bytes);
            }
            11 | 12 => {
                let mut record = self.last();
                let length = record.len().max(1);
                // The version in a header counts for nothing, and may be anything.
                if let Some(byte) =
                    record.get_mut(usize::from(what >> 4) * 256 % length + usize::from(much) % length)
                {
                    *byte ^= bytes.first().copied().unwrap_or(1);
                }
                self.record(&record);
            }
            13 => {
                let record = self.last();
                self.record(&record);
                self.record(&record);
            }
            14 => {
                let before = self.last();
                let earlier = self.last();
                self.record(&before);
                self.record(&earlier);
            }
            _ => {
                let mut record = self.last();
                record.truncate(usize::from(much));
                self.record(&record);
            }
        }
    }
}

/// Opens what has come so far; false when the records cannot go on.
fn open(end: &mut End, held: &mut Vec<u8>, opened: &mut usize, data: &[Vec<u8>]) -> bool {
    let mut left = held.as_mut_slice();
    let goes_on = loop {
        match end.open(&mut left) {
            Ok(Some(bytes)) => {
                assert!(
                    data.get(*opened).is_some_and(|sealed| sealed == bytes),
                    "record {opened} is another"
                );
                *opened += 1;
            }
            Ok(None) => break true,
            Err(error @ (RecordError::Io(_) | RecordError::PeerKeys(_) | RecordError::OwnKeys)) => {
                panic!("there is no socket and no kernel: {error}")
            }
            Err(RecordError::Tls(_) | RecordError::Closed) => break false,
        }
    };
    assert!(end.held() <= HELD_MAX + ALERT_MAX, "{} bytes are held", end.held());
    if goes_on {
        // What is left is the beginning of one record.
        assert!(left.len() < RECORD_MAX);
        *held = left.to_vec();
    }
    goes_on
}

fuzz_target!(|input: &[u8]| {
    let Some(([how, cut], mut script)) = input.split_first_chunk() else { return };
    // Who dialled may get tickets, whoever accepted may not.
    let Ok([dialled, accepted]) = End::both(how & 1 == 1) else { return };
    let (mut end, peer) = if how & 2 == 0 { (dialled, accepted) } else { (accepted, dialled) };
    let mut said = Said::new(peer);
    while let Some(([what, much, length], rest)) = script.split_first_chunk()
        && said.stream.len() < STREAM
    {
        let (bytes, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        script = rest;
        // Only the one that dialled is told tickets.
        said.is_right &= what % 16 != 6 || how & 2 == 0;
        said.step(*what, *much, bytes);
    }
    // Reads of a few bytes, or of nearly all.
    let piece = 1 + (usize::from(*cut) << (how >> 4));
    let (mut held, mut opened) = (Vec::new(), 0);
    let Said { mut peer, stream, data, is_right, .. } = said;
    for piece in stream.chunks(piece.max(stream.len() / 4096 + 1)) {
        held.extend_from_slice(piece);
        if !open(&mut end, &mut held, &mut opened, &data) {
            assert!(!is_right, "what is right was refused");
            return;
        }
    }
    if !is_right {
        return;
    }
    assert_eq!((opened, held.len()), (data.len(), 0), "all was opened");
    // Whatever was asked for on the way: the answer arrives.
    let answer = vec![b"the answer".to_vec()];
    end.write(&answer[0]).expect("the answer is sealed");
    let (mut held, mut opened) = (end.written(), 0);
    assert!(open(&mut peer, &mut held, &mut opened, &answer) && opened == 1);
});
