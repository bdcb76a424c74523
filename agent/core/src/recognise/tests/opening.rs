//! What the first bytes tell.

use super::*;

const CLIENT_HELLO: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
/// Length, key 3, version 1, correlation id 7, client id "c", no topics.
const KAFKA: &[u8] = b"\0\0\0\x0f\0\x03\0\x01\0\0\0\x07\0\x01c\0\0\0\0";
const MYSQL: &[u8] = b"\x4a\0\0\0\x0a8.0.36\0";

#[test]
fn protocols_are_known_by_their_first_bytes() {
    let cases: [(&str, Talk, &[&str]); 20] = [
        ("TLS", vec![say(Client, CLIENT_HELLO), say(Server, "x")], &["tls"]),
        ("a TLS alert", vec![say(Client, [0x15, 3, 1, 0, 2, 2])], &["opaque unknown"]),
        ("a TLS record without ClientHello", vec![say(Client, [0x16, 3, 1, 2, 0, 2])], &["opaque unknown"]),
        ("start-up", vec![say(Client, b"\0\0\0\x29\0\x03\0\0user\0"), say(Server, "R")], &["postgres"]),
        ("start-up of protocol 3.2", vec![say(Client, b"\0\0\0\x29\0\x03\0\x02_pq_.x\0")], &["postgres"]),
        (
            "start-up, its version first",
            vec![say(Client, b"\0\0\0\x29\0\x03\0\0"), say(Client, "u")],
            &["postgres"],
        ),
        ("start-up, no more than its version", vec![say(Client, b"\0\0\0\x29\0\x03\0\0")], &[]),
        ("Kafka, Metadata", vec![say(Client, KAFKA), say(Server, "x")], &["opaque unknown"]),
        (
            "Kafka, Metadata, its version first",
            vec![say(Client, &KAFKA[..8]), say(Client, &KAFKA[8..])],
            &["opaque unknown"],
        ),
        ("SSLRequest", vec![say(Client, b"\0\0\0\x08\x04\xd2\x16\x2f"), say(Server, "S")], &["postgres"]),
        ("GSSENCRequest", vec![say(Client, b"\0\0\0\x08\x04\xd2\x16\x30")], &["postgres"]),
        ("start-up of protocol 2", vec![say(Client, b"\0\0\x01\x28\0\x02\0\0user")], &["opaque unknown"]),
        (
            "SSH",
            vec![say(Server, "SSH-2.0-OpenSSH\r\n"), say(Client, "SSH-2.0-x\r\n")],
            &["opaque server_first"],
        ),
        ("MySQL", vec![say(Server, MYSQL), say(Client, "\x55")], &["opaque server_first"]),
        (
            "a short greeting",
            vec![say(Server, "+OK\r\n"), say(Client, "USER a\r\n")],
            &["opaque server_first"],
        ),
        ("Redis, inline", vec![say(Client, "GET key\r\n"), say(Server, "$-1\r\n")], &["opaque unknown"]),
        ("Redis", vec![say(Client, "*1\r\n$4\r\nPING\r\n")], &["opaque unknown"]),
        ("a word without end", vec![say(Client, [b'A'; 30])], &["opaque unknown"]),
        ("an answer to half a word", vec![say(Client, "GE"), say(Server, "?")], &["opaque unknown"]),
        ("an answer to half a line", vec![say(Client, "GET /"), say(Server, "?")], &["opaque unsolicited"]),
    ];
    for (name, talk, expected) in cases {
        assert_eq!(words(&talk), expected, "{name}");
    }
}

#[test]
fn nothing_is_said_of_a_connection_without_bytes() {
    assert_eq!(events(&[], Ending::Closed), []);
    let mut recogniser = Recogniser::new();
    recogniser.client(b"", Duration::ZERO, &mut |event| panic!("{event:?}"));
    recogniser.server(b"", Duration::ZERO, &mut |event| panic!("{event:?}"));
    assert!(!recogniser.is_silent());
}

#[test]
fn nothing_is_said_after_the_end() {
    let mut said = Vec::new();
    let mut recogniser = Recogniser::new();
    recogniser.client(b"\x01", Duration::ZERO, &mut |event| said.push(event));
    assert!(recogniser.is_silent());
    recogniser.client(b"GET / HTTP/1.1\r\n\r\n", Duration::ZERO, &mut |event| said.push(event));
    recogniser.server(b"HTTP/1.1 204 x\r\n\r\n", Duration::ZERO, &mut |event| said.push(event));
    recogniser.finish(Ending::Reset, Duration::ZERO, &mut |event| said.push(event));
    assert_eq!(said, [Event::Opaque(Opaque::Unknown)]);
    assert_eq!(recogniser.memory(), size_of::<Recogniser>());
}
