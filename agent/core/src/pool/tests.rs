use std::cell::RefCell;

use super::*;
use proptest::prelude::*;

const LIMITS: Limits =
    Limits { max_age: Duration::from_secs(3600), tunnels: 2, warm: Duration::from_secs(600), ahead: 3 };
const FRESH: Facts = Facts {
    expires_in: Duration::from_secs(100),
    root_accepted: true,
    streams: 0,
    streams_max: 3,
    going_away: false,
};

type Names = Pool<&'static str, u32, &'static str>;

fn key(account: &str) -> PoolKey {
    PoolKey {
        source: "spiffe://d/ns/a/sa/web".parse().unwrap(),
        destination: format!("spiffe://d/ns/a/sa/{account}").parse().unwrap(),
        node: ([10, 0, 0, 2], 15008).into(),
    }
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn the_first_stream_opens_and_others_wait_for_it() {
    let mut pool = Names::new(LIMITS);
    assert_eq!(pool.want(&key("db"), at(0), |_| FRESH), Want::Open);
    pool.opening(key("db"), at(0), 7);
    assert_eq!(pool.want(&key("db"), at(0), |_| FRESH), Want::Wait(7));
    assert_eq!(pool.want(&key("cache"), at(0), |_| FRESH), Want::Open, "another identity, another tunnel");
    pool.opened(&key("db"), at(1), "first");
    assert_eq!(pool.want(&key("db"), at(1), |_| FRESH), Want::Use("first"));
}

#[test]
fn a_full_tunnel_is_kept_beside_another_up_to_the_limit() {
    let mut pool = Names::new(LIMITS);
    let full = Facts { streams: 3, ..FRESH };
    pool.opening(key("db"), at(0), 1);
    pool.opened(&key("db"), at(0), "first");
    assert_eq!(pool.want(&key("db"), at(0), |_| full), Want::Open);
    pool.opening(key("db"), at(0), 2);
    pool.opened(&key("db"), at(0), "second");
    let first_full = |tunnel: &&str| if *tunnel == "first" { full } else { FRESH };
    assert_eq!(pool.want(&key("db"), at(0), first_full), Want::Use("second"));
    assert_eq!(pool.want(&key("db"), at(0), |_| full), Want::Full(2));
    assert_eq!(pool.want(&key("db"), at(0), |_| FRESH), Want::Use("first"));
}

#[test]
fn a_failure_is_told_at_once_until_its_pause_is_over() {
    let mut pool = Names::new(LIMITS);
    pool.opening(key("db"), at(0), 1);
    pool.failed(&key("db"), at(0), "refused");
    let soon = Duration::from_millis(49);
    assert_eq!(pool.want(&key("db"), soon, |_| FRESH), Want::Failed("refused"));
    assert_eq!(pool.want(&key("db"), soon * 2, |_| FRESH), Want::Open);
    pool.opening(key("db"), soon * 2, 2);
    pool.failed(&key("db"), soon * 2, "refused again");
    assert_eq!(pool.want(&key("db"), soon * 4, |_| FRESH), Want::Failed("refused again"));
    pool.opened(&key("db"), at(1), "first");
    pool.closed(&key("db"), |_| true);
    assert_eq!(pool.want(&key("db"), at(1), |_| FRESH), Want::Open, "a success ends the pause");
}

#[test]
fn failures_count_until_a_tunnel_takes_a_stream() {
    let mut pool = Names::new(LIMITS);
    let give_up = |pool: &mut Names, now| {
        pool.opening(key("db"), now, 1);
        pool.opened(&key("db"), now, "first");
        pool.closed(&key("db"), |_| true);
        pool.gave_up(&key("db"), now, "in vain");
    };
    give_up(&mut pool, at(0));
    give_up(&mut pool, at(1));
    let after = |pool: &mut Names, ms| pool.want(&key("db"), at(1) + Duration::from_millis(ms), |_| FRESH);
    assert_eq!(after(&mut pool, 99), Want::Failed("in vain"), "the second pause is twice the first");
    assert_eq!(after(&mut pool, 100), Want::Open);
    pool.opened(&key("db"), at(2), "second");
    assert_eq!(pool.want(&key("db"), at(2), |_| FRESH), Want::Use("second"));
    pool.closed(&key("db"), |_| true);
    give_up(&mut pool, at(3));
    assert_eq!(pool.want(&key("db"), at(3) + Duration::from_millis(50), |_| FRESH), Want::Open);
}

#[test]
fn whoever_gives_up_takes_no_hope_from_others() {
    let mut pool = Names::new(LIMITS);
    pool.opening(key("db"), at(0), 1);
    pool.gave_up(&key("db"), at(0), "in vain");
    assert_eq!(pool.want(&key("db"), at(0), |_| FRESH), Want::Wait(1));
    pool.opened(&key("db"), at(0), "first");
    pool.gave_up(&key("db"), at(0), "in vain");
    assert_eq!(pool.want(&key("db"), at(0), |_| Facts { streams: 3, ..FRESH }), Want::Open);
}

#[test]
fn what_was_not_tried_needs_no_pause() {
    let mut pool = Names::new(LIMITS);
    for waiting in 1..10 {
        assert_eq!(pool.want(&key("db"), at(0), |_| FRESH), Want::Open);
        pool.opening(key("db"), at(0), waiting);
        pool.not_tried(&key("db"));
    }
}

#[test]
fn what_is_over_is_forgotten() {
    let mut pool = Names::new(LIMITS);
    for n in (0..1_000_000).step_by(100) {
        let key = key(&format!("a{n}"));
        pool.opening(key.clone(), at(n), 1);
        pool.failed(&key, at(n), "refused");
    }
    assert!(pool.keys() <= 2 * SWEEP_AT_LEAST, "{} keys are remembered", pool.keys());
    pool.opened(&key("db"), at(0), "first");
    pool.closed(&key("db"), |tunnel| *tunnel == "first");
    assert_eq!(pool.tunnels(), 0);
}

#[test]
fn what_was_used_lately_is_opened_before_it_is_needed() {
    let mut pool = Names::new(LIMITS);
    let soon_over = Facts { expires_in: at(29), ..FRESH };
    let away = Facts { going_away: true, ..FRESH };
    let (open, ahead) = (Vec::<PoolKey>::new(), vec![key("db")]);
    pool.opening(key("db"), at(0), 1);
    assert_eq!(pool.ahead(at(0), |_| FRESH), open, "its handshake is under way");
    pool.opened(&key("db"), at(0), "first");
    for (now, facts, expected) in [
        (at(1), FRESH, &open),
        (at(1), soon_over, &ahead),
        (at(1), away, &ahead),
        (at(599), away, &ahead),
        (at(601), away, &open),
    ] {
        assert_eq!(&pool.ahead(now, |_| facts), expected, "{now:?} {facts:?}");
    }
    pool.want(&key("db"), at(3571), |_| FRESH);
    assert_eq!(pool.ahead(at(3571), |_| FRESH), ahead, "it is nearly of age");
    pool.closed(&key("db"), |_| true);
    pool.opening(key("db"), at(3571), 2);
    pool.failed(&key("db"), at(3571), "refused");
    assert_eq!(pool.ahead(at(3572), |_| FRESH), open, "a node that does not answer is left in peace");
    assert_eq!(pool.ahead(at(3573), |_| FRESH), ahead);
    pool.clear();
    assert_eq!(pool.ahead(at(3574), |_| FRESH), open);
}

#[test]
fn the_most_recently_used_are_kept_warm() {
    let mut pool = Names::new(LIMITS);
    for (n, account) in ["a", "b", "c", "d", "e"].iter().enumerate() {
        pool.opening(key(account), at(n as u64), 1);
        pool.opened(&key(account), at(n as u64), "lost");
        pool.closed(&key(account), |_| true);
    }
    assert_eq!(pool.ahead(at(9), |_| FRESH), ["e", "d", "c"].map(key));
}

#[test]
fn pauses_stay_below_the_time_a_client_retries_in() {
    assert_eq!(pause(0), Duration::ZERO);
    assert!((1..100).all(|n| pause(n) <= pause(n + 1)));
    assert!(pause(u32::MAX) <= Duration::from_secs(1));
}

proptest! {
    #[test]
    fn no_stream_goes_where_it_must_not(
        age in 0_u64..8000, expires in 0_u64..3, root: bool, streams in 0_usize..5, away: bool,
    ) {
        let facts = Facts {
            expires_in: at(expires), root_accepted: root, streams, streams_max: 3, going_away: away,
        };
        match choose(&facts, at(age), LIMITS.max_age) {
            Choice::Use => prop_assert!(age < 3600 && expires > 0 && root && !away && streams < 3),
            Choice::Full => prop_assert!(age < 3600 && expires > 0 && root && !away && streams >= 3),
            Choice::Retire => prop_assert!(age >= 3600 || expires == 0 || !root || away),
        }
    }

    /// Whatever happens in whatever order: one handshake at a time, never more tunnels than the limit,
    /// and nobody gets a tunnel that was retired before.
    #[test]
    fn any_order_of_events_keeps_the_invariants(events in prop::collection::vec(0_u8..8, 1..200)) {
        let mut pool: Pool<usize, usize, ()> = Pool::new(LIMITS);
        let facts = RefCell::new(Vec::<Facts>::new());
        let mut retired = std::collections::HashSet::new();
        let (mut now, mut handshakes) = (Duration::ZERO, 0);
        for event in events {
            now += Duration::from_millis(20);
            let last = facts.borrow().len().checked_sub(1);
            match (event, last) {
                (0, _) => match pool.want(&key("db"), now, |t| facts.borrow()[*t]) {
                    Want::Use(tunnel) => {
                        prop_assert!(!retired.contains(&tunnel));
                        prop_assert!(facts.borrow()[tunnel].streams < 3);
                        facts.borrow_mut()[tunnel].streams += 1;
                    }
                    Want::Open => {
                        prop_assert_eq!(handshakes, 0);
                        handshakes = 1;
                        pool.opening(key("db"), now, 0);
                    }
                    Want::Wait(_) => prop_assert_eq!(handshakes, 1),
                    Want::Failed(()) => prop_assert_eq!(handshakes, 0),
                    Want::Full(count) => prop_assert_eq!(count, LIMITS.tunnels),
                },
                (1, _) if handshakes == 1 => {
                    handshakes = 0;
                    facts.borrow_mut().push(FRESH);
                    pool.opened(&key("db"), now, facts.borrow().len() - 1);
                }
                (2, _) if handshakes == 1 => {
                    handshakes = 0;
                    pool.failed(&key("db"), now, ());
                }
                (6, _) if handshakes == 1 => {
                    handshakes = 0;
                    pool.not_tried(&key("db"));
                }
                (7, _) => pool.gave_up(&key("db"), now, ()),
                (3, Some(last)) => {
                    facts.borrow_mut()[last].going_away = true;
                    retired.insert(last);
                }
                (4, Some(last)) => {
                    pool.closed(&key("db"), |t| *t == last);
                    retired.insert(last);
                }
                (5, Some(last)) => facts.borrow_mut()[last].streams = 0,
                _ => {}
            }
            prop_assert!(pool.tunnels() <= LIMITS.tunnels);
        }
    }
}
