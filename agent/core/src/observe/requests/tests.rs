use proptest::prelude::*;

use super::*;
use crate::recognise::{Answer, Class, Cut, GrpcStatus};

fn took(millis: u64) -> Option<Latency> {
    let first_byte = Duration::from_millis(millis);
    Some(Latency { first_byte, last_byte: first_byte * 2 })
}

#[test]
fn success_is_of_what_can_be_judged() {
    let requests = Requests::default();
    assert_eq!(requests.totals().success_rate(), None);
    for outcome in [
        Outcome::Http1(Answer::Whole(Class::Success)),
        Outcome::Http2(Answer::Whole(Class::ClientError)),
        Outcome::Grpc(Ok(Some(GrpcStatus::NotFound))),
        Outcome::Grpc(Ok(None)),
        Outcome::Grpc(Err(Cut::ClientReset)),
    ] {
        requests.add(outcome, None);
    }
    let totals = requests.totals();
    assert_eq!((totals.count(), totals.success_rate()), (5, Some(0.75)));
    let words: Vec<_> = totals
        .outcomes()
        .map(|(outcome, count)| {
            (outcome.protocol().label(), outcome.status(), outcome.judgement().label(), count)
        })
        .collect();
    assert_eq!(
        words,
        [
            ("http1", "2xx", "success", 1),
            ("http2", "4xx", "success", 1),
            ("grpc", "none", "failure", 1),
            ("grpc", "NOT_FOUND", "success", 1),
            ("grpc", "client_reset", "abandoned", 1),
        ]
    );
}

#[test]
fn what_came_since_is_what_was_added() {
    let (requests, ok) = (Requests::default(), Outcome::Http1(Answer::Whole(Class::Success)));
    requests.add(ok, took(3));
    let before = requests.totals();
    requests.add(ok, took(700));
    let since = requests.totals().since(&before);
    assert_eq!((since.count(), since.first_byte.count()), (1, 1));
    assert_eq!(since.first_byte.sum, Duration::from_millis(700));
    let mut both = before;
    both.add(&since);
    assert_eq!(both, requests.totals());
}

#[test]
fn quantiles_are_those_of_prometheus() {
    let requests = Requests::default();
    let ok = Outcome::Http1(Answer::Whole(Class::Success));
    assert_eq!(requests.totals().first_byte.quantile(0.5), None);
    // Ten up to 5 ms and ten up to 10 ms: half of them is the bound between.
    for millis in [4, 8] {
        (0..10).for_each(|_| requests.add(ok, took(millis)));
    }
    let distribution = requests.totals().first_byte;
    let at = |q| distribution.quantile(q).unwrap().as_secs_f64() * 1000.0;
    for (q, millis) in [(0.0, 2.5), (0.25, 3.75), (0.5, 5.0), (0.75, 7.5), (1.0, 10.0)] {
        assert!((at(q) - millis).abs() < 1e-6, "{q}: {}", at(q));
    }
    requests.add(ok, took(60_000));
    assert_eq!(requests.totals().first_byte.quantile(1.0), Some(Duration::from_secs(10)));
}

#[test]
fn each_outcome_has_its_own_number_and_words() {
    let all: Vec<Outcome> = Outcome::all().collect();
    assert_eq!(all.len(), Outcome::COUNT);
    assert!(all.iter().enumerate().all(|(number, outcome)| outcome.index() == number));
    let words: std::collections::BTreeSet<_> =
        all.iter().map(|outcome| (outcome.protocol(), outcome.status())).collect();
    assert_eq!(words.len(), all.len());
}

proptest! {
    #[test]
    fn quantiles_grow_and_lie_in_the_bucket_of_their_rank(
        micros in prop::collection::vec(0_u64..20_000_000, 1..60),
        q in prop::collection::vec(0.0_f64..=1.0, 2..6),
    ) {
        let requests = Requests::default();
        for each in &micros {
            let first_byte = Duration::from_micros(*each);
            let latency = Latency { first_byte, last_byte: first_byte };
            requests.add(Outcome::Http1(Answer::Whole(Class::Success)), Some(latency));
        }
        let distribution = requests.totals().first_byte;
        let (mut q, mut sorted) = (q, micros);
        q.sort_by(f64::total_cmp);
        sorted.sort_unstable();
        let found: Vec<_> = q.iter().filter_map(|q| distribution.quantile(*q)).collect();
        prop_assert!(found.is_sorted());
        prop_assert!(found.iter().all(|found| *found <= Duration::from_secs(10)));
        let largest = Duration::from_micros(*sorted.last().unwrap());
        let bound = BOUNDS.into_iter().find(|bound| *bound >= largest).unwrap_or(Duration::from_secs(10));
        prop_assert!(distribution.quantile(1.0).unwrap() <= bound);
        prop_assert_eq!(distribution.cumulative().last().unwrap().1
            + sorted.iter().filter(|micros| **micros > 10_000_000).count() as u64, distribution.count());
    }
}
