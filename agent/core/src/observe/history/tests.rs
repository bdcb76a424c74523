use super::*;
use crate::observe::Requests;
use crate::recognise::{Answer, Class, Latency, Outcome};

fn reading(connections: u64) -> Reading {
    Reading { connections, bytes: connections * 10, ..Reading::default() }
}

fn told(history: &History<u32>, key: u32) -> Vec<u32> {
    let found = history.series().find(|(k, _)| **k == key);
    found.map(|(_, samples)| samples.map(|s| s.connections).collect()).unwrap_or_default()
}

#[test]
fn a_sample_is_what_came_since_the_one_before() {
    let requests = Requests::default();
    let took = |ms| {
        let took = Duration::from_millis(ms);
        Some(Latency { first_byte: took, last_byte: took })
    };
    let mut history = History::default();
    let read = |history: &mut History<u32>, at, bytes| {
        let reading = Reading { requests: requests.totals(), bytes, ..Reading::default() };
        history.take(at, [(1, reading)].into());
    };
    requests.add(Outcome::Http1(Answer::Whole(Class::Success)), took(1));
    read(&mut history, 100, 1000);
    read(&mut history, 115, 1000);
    requests.add(Outcome::Http1(Answer::Whole(Class::Success)), took(40));
    requests.add(Outcome::Http1(Answer::Whole(Class::ServerError)), took(40));
    read(&mut history, 130, 1600);
    assert_eq!(history.at().collect::<Vec<_>>(), [100, 115, 130]);
    let samples: Vec<Sample> = history.series().flat_map(|(_, samples)| samples).collect();
    let busy = Sample {
        requests: 2,
        failures: 1,
        p50_us: 37_500,
        p95_us: 48_750,
        p99_us: 49_750,
        bytes: 600,
        ..Sample::default()
    };
    assert_eq!(samples, [Sample::default(), Sample::default(), busy]);
}

#[test]
fn who_appears_later_began_at_nothing() {
    let mut history = History::default();
    history.take(0, [(1, reading(5))].into());
    history.take(15, [(1, reading(6)), (2, reading(3))].into());
    assert_eq!((told(&history, 1), told(&history, 2)), (vec![0, 1], vec![3]));
}

#[test]
fn an_hour_is_kept_and_no_more() {
    let mut history = History::default();
    for step in 0..1000 {
        history.take(step * 15, [(1, reading(step))].into());
    }
    assert_eq!(told(&history, 1), vec![1; SAMPLES]);
    assert_eq!((history.at().count(), history.at().next()), (SAMPLES, Some(760 * 15)));
}

#[test]
fn beyond_the_bound_the_quiet_make_room_and_come_back_without_their_past() {
    let most = u32::try_from(SERIES_MAX).unwrap();
    let mut history = History::default();
    let all = |activity: u64, quiet: u32| -> BTreeMap<u32, Reading> {
        (0..=most).map(|key| (key, reading(if key == quiet { 7 } else { activity }))).collect()
    };
    // The last has no room while all others are busy.
    for step in 0..10 {
        history.take(step, all(step, u32::MAX));
    }
    assert_eq!((history.series().count(), told(&history, most)), (SERIES_MAX, vec![]));
    for step in 10..300 {
        history.take(step, all(step, 3));
    }
    assert_eq!(history.series().count(), SERIES_MAX);
    assert_eq!(told(&history, 3), Vec::<u32>::new());
    assert!(!told(&history, most).is_empty());
    // All but one rest for an hour; then the retired one stirs, and only what comes from then on counts.
    let mut rest = all(299, 3);
    for step in 300..600 {
        rest.insert(5, reading(step));
        history.take(step, rest.clone());
    }
    rest.insert(3, reading(8));
    history.take(600, rest.clone());
    rest.insert(3, reading(10));
    history.take(601, rest);
    assert_eq!(told(&history, 3), [0, 2]);
}
