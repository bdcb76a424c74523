//! Frames as a peer may send them, to either end. The first byte says to which, and how the bytes are cut.
#![no_main]

use std::time::Duration;

use lark_core::framing::{
    ConnectRequest, Connection, Event, FRAME_HEADER, MAX_HEADER_BLOCK, MAX_OUTPUT, Role, Settings,
};
use libfuzzer_sys::fuzz_target;

/// What the other end says first, before anything odd.
fn opened(role: Role) -> (Connection, Vec<u8>) {
    let other = if role == Role::Client { Role::Server } else { Role::Client };
    let mut peer = Connection::new(other, Settings::default());
    (Connection::new(role, Settings { max_streams: 8, ..Settings::default() }), std::mem::take(peer.output()))
}

fn request() -> ConnectRequest {
    ConnectRequest {
        authority: ([10, 0, 0, 2], 80).into(),
        source: ([10, 0, 0, 1], 4242).into(),
        host: Some("db.shop".to_owned()),
    }
}

/// Takes in what there is; false when the connection is over.
fn receive(end: &mut Connection, now: Duration, held: &mut Vec<u8>) -> bool {
    let (mut at, mut taken_by_pods) = (0, Vec::new());
    loop {
        let Ok((taken, event)) = end.receive(now, &held[at..]) else { return false };
        at += taken;
        match event {
            Some(Event::Connect { stream, request }) => {
                match request {
                    // Each other one is answered with what is said next.
                    Ok(_) if stream.value() & 2 == 0 => end.open_late(stream),
                    Ok(_) => end.respond(stream, 200, None, None),
                    Err(error) => end.respond(stream, 400, Some(error.reason()), None),
                }
            }
            Some(Event::Data { stream, bytes }) => taken_by_pods.push((stream, bytes.len())),
            Some(_) => {}
            None if taken == 0 => break,
            None => {}
        }
        for (stream, count) in taken_by_pods.drain(..) {
            end.consumed(stream, count);
        }
    }
    held.drain(..at);
    // What is left is the beginning of one frame.
    assert!(held.len() < MAX_HEADER_BLOCK + FRAME_HEADER);
    true
}

fuzz_target!(|input: &[u8]| {
    let Some((how, bytes)) = input.split_first() else { return };
    let role = if how & 1 == 0 { Role::Server } else { Role::Client };
    let (mut end, mut held) = opened(role);
    if how & 2 == 0 {
        held.clear();
    }
    for _ in 0..4 {
        if role == Role::Client
            && let Ok(stream) = end.connect(&request())
        {
            let count = end.capacity(stream).min(end.max_frame()).min(100);
            end.data_header(stream, count, how & 4 == 0);
        }
    }
    let piece = usize::from(how >> 3) * 7 + 1;
    for (turn, piece) in (0..).zip(bytes.chunks(piece)) {
        held.extend_from_slice(piece);
        let goes_on = receive(&mut end, Duration::from_millis(turn), &mut held);
        if turn % 3 == 2 {
            end.answer_late();
        }
        assert!(end.output().len() <= MAX_OUTPUT + 64 * 1024);
        assert!(end.open_streams() <= 8);
        if !goes_on {
            return;
        }
    }
});
