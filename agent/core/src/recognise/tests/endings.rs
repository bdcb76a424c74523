//! Who ended a connection with requests that are not answered.

use proptest::prelude::*;

use super::any::talk as any_talk;
use super::http1::GET;
use super::http2::{call, get, status, talk};
use super::*;

use Ending::{Closed, Reset, ResetByClient};

const BEGUN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc";
const UPLOAD: &str = "POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc";

#[test]
fn what_a_client_gives_up_is_told_from_what_a_server_leaves_unanswered() {
    let events = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    let cases: [(&str, Talk, Ending, &[&str]); 20] = [
        (
            "a download is not wanted any more",
            vec![say(Client, GET), say(Server, BEGUN), ends(Client), ends(Server)],
            Closed,
            &["GET 200 client_closed 3"],
        ),
        (
            "nor are events",
            vec![say(Client, GET), say(Server, events), ends(Client), ends(Server)],
            Closed,
            &["GET 200 client_closed 3"],
        ),
        (
            "nor is what was asked besides",
            vec![say(Client, [GET, GET].concat()), say(Server, BEGUN), ends(Client), ends(Server)],
            Closed,
            &["GET 200 client_closed 3", "GET client_closed 3"],
        ),
        (
            "an upload ends in the middle",
            vec![say(Client, UPLOAD), ends(Client), ends(Server)],
            Closed,
            &["POST client_closed 2"],
        ),
        (
            "a head ends in the middle",
            vec![say(Client, "GET / HTTP/1.1\r\nHo"), ends(Client), ends(Server)],
            Closed,
            &["GET client_closed 2"],
        ),
        (
            "a client asks no more and waits, in vain",
            vec![say(Client, GET), ends(Client), ends(Server)],
            Closed,
            &["GET closed 2"],
        ),
        (
            "the same, and a server that takes its time",
            vec![say(Client, GET), ends(Client), say(Server, "HTTP/1.1 100 x\r\n\r\n"), ends(Server)],
            Closed,
            &["GET closed 3"],
        ),
        (
            "the same, and the answer breaks off",
            vec![say(Client, GET), ends(Client), say(Server, BEGUN), ends(Server)],
            Closed,
            &["GET 200 closed 3"],
        ),
        (
            "a client asks no more while it is answered, and reads on",
            vec![say(Client, GET), say(Server, BEGUN), ends(Client), say(Server, "abc"), ends(Server)],
            Closed,
            &["GET 200 closed 4"],
        ),
        (
            "the same, to the end of the answer",
            vec![say(Client, GET), say(Server, BEGUN), ends(Client), say(Server, "abcdef"), ends(Server)],
            Closed,
            &["GET 200 1..3"],
        ),
        (
            "an answer that ends with the connection",
            vec![say(Client, GET), say(Server, "HTTP/1.1 200 OK\r\n\r\nabc"), ends(Client), ends(Server)],
            Closed,
            &["GET 200 1..1"],
        ),
        (
            "the server goes first",
            vec![say(Client, GET), say(Server, BEGUN), ends(Server), ends(Client)],
            Closed,
            &["GET 200 closed 3"],
        ),
        (
            "a tunnel that is not granted yet",
            vec![say(Client, "CONNECT a:1 HTTP/1.1\r\n\r\nabc"), ends(Client), ends(Server)],
            Closed,
            &["CONNECT closed 2"],
        ),
        ("the client resets", vec![say(Client, GET)], ResetByClient, &["GET client_closed 0"]),
        (
            "a client that had asked no more resets",
            vec![say(Client, GET), ends(Client), say(Server, BEGUN)],
            ResetByClient,
            &["GET 200 client_closed 2"],
        ),
        (
            "the client resets what the server has closed",
            vec![say(Client, GET), say(Server, BEGUN), ends(Server)],
            ResetByClient,
            &["GET 200 closed 2"],
        ),
        ("the server resets, or the way is lost", vec![say(Client, GET)], Reset, &["GET closed 0"]),
        (
            "the server resets what a client asked that waits",
            vec![say(Client, GET), ends(Client)],
            Reset,
            &["GET closed 1"],
        ),
        (
            "the server resets what the client has left",
            vec![say(Client, GET), say(Server, BEGUN), ends(Client)],
            Reset,
            &["GET 200 client_closed 2"],
        ),
        (
            "nothing is left to give up",
            vec![say(Client, GET), say(Server, "HTTP/1.1 204 x\r\n\r\n"), ends(Client)],
            ResetByClient,
            &["GET 204 1..1"],
        ),
    ];
    for (name, talk, ending, expected) in cases {
        let expected: Vec<_> = expected.iter().map(|word| format!("http1 {word}")).collect();
        assert_eq!(words_to(&talk, ending)[1..], expected, "{name}");
    }
}

#[test]
fn whoever_ends_http2_waits_for_nothing() {
    let two = || say(Client, [get(1), call(3)].concat());
    let given_up: &[&str] = &["http2 GET client_closed 1", "grpc POST client_closed 1"];
    let failed: &[&str] = &["http2 GET closed 1", "grpc POST closed 1"];
    let cases: [(&str, Talk, Ending, &[&str]); 7] = [
        ("the client closes", vec![two(), ends(Client)], Closed, given_up),
        ("the client closes, and the way is lost", vec![two(), ends(Client)], Reset, given_up),
        ("the server closes", vec![two(), ends(Server)], Closed, failed),
        ("the server closes, and the client resets", vec![two(), ends(Server)], ResetByClient, failed),
        (
            "the client resets",
            vec![two(), say(Server, status(0, 1, "200"))],
            ResetByClient,
            &["http2 GET 200 client_closed 1", "grpc POST client_closed 1"],
        ),
        (
            "the server resets, or the way is lost",
            vec![two(), say(Server, status(0, 5, "200"))],
            Reset,
            failed,
        ),
        (
            "the client closes, and gets an answer",
            vec![two(), ends(Client), say(Server, status(0x1, 3, "200"))],
            Closed,
            &["grpc POST 200 2..2", "http2 GET client_closed 2"],
        ),
    ];
    for (name, then, ending, expected) in cases {
        assert_eq!(words_to(&talk(&then), ending)[1..], *expected, "{name}");
    }
}

/// What was told, and of it what became of requests when the connection ended: given up, or failed.
fn given_up_or_failed(talk: &[(Side, Vec<u8>)], ending: Ending) -> (usize, usize, usize) {
    let told = shown_to(talk, ending, || usize::MAX);
    let count = |this: Cut| {
        let is_cut =
            |event: &&Event| matches!(event, Event::Unanswered(Unanswered { cut, .. }) if *cut == this);
        told.iter().filter(is_cut).count()
    };
    (told.len(), count(Cut::ClientClosed), count(Cut::Closed))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn who_ends_the_connection_decides_of_all_that_is_not_answered(talk in any_talk(), at in 0_usize..40) {
        // Where somebody says no more, nothing else is to.
        let talk: Talk = talk.into_iter().filter(|(_, bytes)| !bytes.is_empty()).collect();
        let with = |who: Side| {
            let mut talk = talk.clone();
            talk.insert(at.min(talk.len()), ends(who));
            talk
        };
        let (all, none, left) = given_up_or_failed(&talk, Reset);
        prop_assert_eq!(none, 0);
        prop_assert_eq!(given_up_or_failed(&talk, ResetByClient), (all, left, 0));
        prop_assert_eq!(given_up_or_failed(&with(Client), ResetByClient), (all, left, 0));
        for ending in [Reset, ResetByClient] {
            prop_assert_eq!(given_up_or_failed(&with(Server), ending), (all, 0, left));
        }
        let (told, given_up, failed) = given_up_or_failed(&with(Client), Reset);
        prop_assert_eq!((told, given_up + failed), (all, left));
        prop_assert!(given_up == 0 || failed == 0);
    }
}
