//! HTTP/2 with more exchanges open at once than are kept.

use proptest::prelude::*;

use super::http2::{END, HEAD, call, data, framed, get, goaway, headers, rst, status, talk, told};
use super::*;
use crate::framing::frame;
use crate::recognise::beyond::TOLD_MAX;
use crate::recognise::streams::STREAMS_MAX;

#[test]
fn exchanges_beyond_the_bound_are_counted_without_latency() {
    let beyond = 5;
    let ids = (0..STREAMS_MAX + beyond).map(|i| u32::try_from(2 * i + 1).unwrap());
    let requests: Vec<u8> = ids.clone().flat_map(call).collect();
    let answers: Vec<u8> = ids
        .flat_map(|id| match id % 4 {
            1 => [
                headers(0, id, &[(":status", "200"), ("content-type", "application/grpc")]),
                headers(END, id, &[("grpc-status", "5")]),
            ]
            .concat(),
            _ => [status(0, id, "200"), data(END, id, 10)].concat(),
        })
        .collect();
    let again = [say(Client, get(999)), say(Server, status(END, 999, "200"))];
    let told = told(&[&[say(Client, requests), say(Server, answers)][..], &again].concat());
    assert_eq!(told.len(), STREAMS_MAX + beyond + 1);
    assert_eq!(told[STREAMS_MAX - 2..STREAMS_MAX], ["grpc POST 200 NOT_FOUND 1..1", "grpc POST 200 1..1"]);
    let untimed = ["grpc other 200 NOT_FOUND", "http2 other 200"];
    assert!(
        told[STREAMS_MAX..STREAMS_MAX + beyond].iter().all(|word| untimed.contains(&word.as_str())),
        "{told:?}"
    );
    assert_eq!(told.last().unwrap(), "http2 GET 200 1..1");
}

/// The numbers of so many streams.
fn ids(count: usize) -> impl Iterator<Item = u32> + Clone {
    (0..u32::try_from(count).unwrap()).map(|number| 2 * number + 1)
}

/// What is told, and how often.
type Tally<'a> = &'a [(&'a str, usize)];

/// How often each of these was told.
fn tally(told: Vec<String>) -> Vec<(String, usize)> {
    let mut counts = std::collections::BTreeMap::new();
    told.into_iter().for_each(|word| *counts.entry(word).or_default() += 1);
    counts.into_iter().collect()
}

#[test]
fn exchanges_beyond_the_bound_are_counted_once_however_they_end() {
    let all = |each: fn(u32) -> Vec<u8>, count: usize| ids(count).flat_map(each).collect::<Vec<u8>>();
    let crossing = [say(Client, get(401)), say(Client, rst(401, 8)), say(Server, status(END, 401, "200"))];
    let calls = |count| say(Client, all(call, count));
    let cases: [(&str, Talk, Tally<'_>); 15] = [
        (
            "the connection ends",
            vec![calls(200)],
            &[("grpc POST closed 0", STREAMS_MAX), ("grpc other closed", 200 - STREAMS_MAX)],
        ),
        (
            "the connection ends, and some are no calls",
            vec![say(Client, [all(call, 42), get(85)].concat())],
            &[("grpc POST closed 0", STREAMS_MAX), ("grpc other closed", 2), ("http2 other closed", 1)],
        ),
        (
            "the client resets all, and one more that is answered the same moment",
            [&[calls(200), say(Client, all(|id| rst(id, 8), 200))][..], &crossing].concat(),
            &[
                ("grpc POST client_reset 1", STREAMS_MAX),
                ("grpc other client_reset", 200 - STREAMS_MAX),
                ("http2 GET client_reset 1", 1),
            ],
        ),
        (
            "the server resets all",
            vec![calls(45), say(Server, all(|id| rst(id, 2), 45))],
            &[("grpc POST server_reset 1", STREAMS_MAX), ("grpc other server_reset", 5)],
        ),
        (
            "the server refuses all",
            vec![calls(45), say(Server, all(|id| rst(id, 7), 45))],
            &[("grpc POST going_away 1", STREAMS_MAX), ("grpc other going_away", 5)],
        ),
        (
            "the server wants no more of what it has answered",
            vec![calls(42), say(Server, [status(END, 81, "200"), rst(81, 0)].concat())],
            &[("grpc POST closed 1", STREAMS_MAX), ("grpc other closed", 1), ("http2 other 200", 1)],
        ),
        (
            "the client resets one that is answered the same moment",
            vec![calls(41), say(Client, rst(81, 8)), say(Server, status(END, 81, "200"))],
            &[("grpc POST closed 2", STREAMS_MAX), ("grpc other client_reset", 1)],
        ),
        (
            "the client resets calls, and the rest are none",
            vec![calls(42), say(Client, [get(85), get(87), rst(81, 8), rst(83, 8)].concat())],
            &[("grpc POST closed 1", STREAMS_MAX), ("grpc other client_reset", 2), ("http2 other closed", 2)],
        ),
        (
            "a call is answered as if it were none, and the next is none",
            vec![calls(41), say(Server, status(END, 81, "503")), say(Client, get(83))],
            &[("grpc POST closed 2", STREAMS_MAX), ("http2 other 503", 1), ("http2 other closed", 1)],
        ),
        (
            "what is reset and answered is none of them",
            vec![calls(42), say(Client, rst(1, 8)), say(Server, status(END, 1, "200"))],
            &[
                ("grpc POST client_reset 1", 1),
                ("grpc POST closed 2", STREAMS_MAX - 1),
                ("grpc other closed", 2),
            ],
        ),
        (
            "what the server began is none of them",
            vec![calls(42), say(Client, rst(82, 8))],
            &[("grpc POST closed 1", STREAMS_MAX), ("grpc other closed", 2)],
        ),
        (
            "nobody opened these",
            vec![calls(42), say(Server, [rst(85, 2), status(END, 87, "200")].concat())],
            &[("grpc POST closed 1", STREAMS_MAX), ("grpc other closed", 2)],
        ),
        (
            "the server goes away, and has looked at some of them",
            vec![calls(50), say(Server, goaway(89)), say(Server, goaway(89))],
            &[("grpc POST closed 2", STREAMS_MAX), ("grpc other closed", 5), ("grpc other going_away", 5)],
        ),
        (
            "the server goes away, and has looked at none of them",
            vec![calls(50), say(Server, goaway(77)), say(Server, status(END, 99, "200"))],
            &[
                ("grpc POST closed 2", STREAMS_MAX - 1),
                ("grpc POST going_away 1", 1),
                ("grpc other going_away", 10),
            ],
        ),
        (
            "the server goes away, and one came between them that is kept",
            vec![
                calls(42),
                say(Client, rst(1, 8)),
                say(Client, [call(85), call(87)].concat()),
                say(Server, goaway(81)),
            ],
            &[
                ("grpc POST client_reset 1", 1),
                ("grpc POST closed 3", STREAMS_MAX - 1),
                ("grpc POST going_away 1", 1),
                ("grpc other closed", 1),
                ("grpc other going_away", 2),
            ],
        ),
    ];
    for (name, then, expected) in cases {
        let expected: Vec<_> = expected.iter().map(|(word, count)| ((*word).to_owned(), *count)).collect();
        assert_eq!(tally(told(&then)), expected, "{name}");
    }
}

#[test]
fn no_more_ends_are_told_at_once_than_a_worker_can_spare() {
    let most = STREAMS_MAX + usize::try_from(TOLD_MAX).unwrap();
    for (ends, goaways) in [(most, 0), (most + 1, 0), (most + 1, 3)] {
        let mut then = vec![say(
            Client,
            ids(ends).flat_map(|id| framed(frame::HEADERS, HEAD, id, [])).collect::<Vec<u8>>(),
        )];
        then.extend((0..goaways).map(|_| say(Server, goaway(0))));
        assert_eq!(shown(&talk(&then), || usize::MAX).len(), 1 + most, "{ends} ends");
    }
}

/// Something that happens on a connection with many streams.
#[derive(Debug, Clone, Copy)]
enum Happens {
    Asked(usize, bool),
    Answered(u32),
    Reset(Side, u32, u8),
    GoneAway(u32),
}

fn happens() -> impl Strategy<Value = Happens> {
    let id = || 1_u32..300;
    prop_oneof![
        4 => (1_usize..60, any::<bool>()).prop_map(|(count, call)| Happens::Asked(count, call)),
        4 => id().prop_map(Happens::Answered),
        4 => (prop::sample::select(vec![Client, Server]), id(), 0_u8..10)
            .prop_map(|(who, id, code)| Happens::Reset(who, id, code)),
        1 => id().prop_map(Happens::GoneAway),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn of_each_request_one_end_is_told(all in prop::collection::vec(happens(), 0..40)) {
        let (mut asked, mut then) = (0, Vec::new());
        for happens in all {
            then.push(match happens {
                Happens::Asked(count, is_call) => {
                    let new = ids(asked + count).skip(asked);
                    asked += count;
                    say(Client, new.flat_map(|id| if is_call { call(id) } else { get(id) }).collect::<Vec<u8>>())
                }
                Happens::Answered(id) => say(Server, status(END, id, "200")),
                Happens::Reset(who, id, code) => say(who, rst(id, code)),
                Happens::GoneAway(last) => say(Server, goaway(last)),
            });
        }
        let told = shown(&talk(&then), || usize::MAX);
        prop_assert_eq!(told.len(), 1 + asked, "{:?}", told);
    }
}
