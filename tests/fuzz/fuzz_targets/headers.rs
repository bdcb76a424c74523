//! Header blocks, of requests and of answers. What is read as a request reads the same after it was written
//! again.
#![no_main]

use std::time::Duration;

use lark_core::framing::{ConnectRequest, Connection, Event, Role, Settings, StreamId};
use libfuzzer_sys::fuzz_target;

const END_HEADERS: u8 = 4;

fn headers(block: &[u8]) -> Vec<u8> {
    let [.., high, middle, low] = block.len().to_be_bytes();
    [[high, middle, low, 1, END_HEADERS, 0, 0, 0, 1].as_slice(), block].concat()
}

/// The requests that the accepting end reads.
fn read(bytes: &[u8], acknowledges: bool) -> Vec<(StreamId, ConnectRequest)> {
    let mut server = Connection::new(Role::Server, Settings::default());
    let mut hello = std::mem::take(Connection::new(Role::Client, Settings::default()).output());
    if acknowledges {
        hello.extend([0, 0, 0, 4, 1, 0, 0, 0, 0]);
    }
    hello.extend_from_slice(bytes);
    let (mut at, mut requests) = (0, Vec::new());
    while let Ok((taken, event)) = server.receive(Duration::ZERO, &hello[at..]) {
        at += taken;
        match event {
            Some(Event::Connect { stream, request }) => requests.extend(request.ok().map(|r| (stream, r))),
            Some(_) => {}
            None if taken == 0 => break,
            None => {}
        }
    }
    requests
}

fuzz_target!(|input: &[u8]| {
    let Some((how, block)) = input.split_first() else { return };
    if block.len() > 20_000 {
        return;
    }
    for (_, request) in read(&headers(block), how & 1 == 0) {
        let mut client = Connection::new(Role::Client, Settings::default());
        client.output().clear();
        let stream = client.connect(&request).expect("a fresh connection takes a stream");
        assert_eq!(read(client.output(), true), [(stream, request)]);
    }
    // The same block as an answer.
    let mut client = Connection::new(Role::Client, Settings::default());
    let mut bytes = std::mem::take(Connection::new(Role::Server, Settings::default()).output());
    bytes.extend(headers(block));
    let request = ConnectRequest {
        authority: ([10, 0, 0, 2], 80).into(),
        source: ([10, 0, 0, 1], 4).into(),
        host: None,
    };
    client.connect(&request).expect("a fresh connection takes a stream");
    let mut at = 0;
    while let Ok((taken, event)) = client.receive(Duration::ZERO, &bytes[at..]) {
        at += taken;
        if taken == 0 && event.is_none() {
            break;
        }
    }
});
