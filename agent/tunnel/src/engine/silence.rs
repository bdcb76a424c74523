//! Pure: whether a peer that says nothing is still there.

use std::time::Duration;

use tokio::time::Instant;

/// When the peer was heard, and asked.
#[derive(Debug)]
pub(super) struct Silence {
    heard: Instant,
    asked: Option<Instant>,
}

/// What a silence that is not too long asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// Whether the peer is to be asked now.
    pub(super) ask: bool,
    /// When to look again: later than now, unless a third of the keepalive is nothing.
    pub(super) again: Instant,
}

impl Silence {
    pub(super) const fn new(now: Instant) -> Self {
        Self { heard: now, asked: None }
    }

    /// The peer has said something.
    pub(super) const fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// Looks how long the silence lasts: nothing if for `keepalive`, and a third of it since the peer was asked, which is
    /// the end. The peer is asked once for each third, however often this is called: it takes too many questions for an
    /// attack. Whoever looks late, after a pause of his whole machine for one, asks before he gives up.
    pub(super) fn look(&mut self, now: Instant, keepalive: Duration) -> Option<Look> {
        // Rounded up, so that the third of them is no sooner than the end.
        let third = (keepalive + Duration::from_nanos(2)) / 3;
        let asked = self.asked.filter(|asked| *asked > self.heard);
        let due = asked.unwrap_or(self.heard) + third;
        if now < due {
            return Some(Look { ask: false, again: due });
        }
        if asked.is_some() && now >= self.heard + keepalive {
            return None;
        }
        self.asked = Some(now);
        Some(Look { ask: true, again: now + third })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEEPALIVE: Duration = Duration::from_millis(3000);

    #[test]
    fn a_silent_peer_is_asked_after_each_third_and_then_given_up() {
        let began = Instant::now();
        let mut silence = Silence::new(began);
        let at = |ms: u64| began + Duration::from_millis(ms);
        let look = |ask, ms| Some(Look { ask, again: at(ms) });
        assert_eq!(silence.look(at(0), KEEPALIVE), look(false, 1000));
        assert_eq!(silence.look(at(1000), KEEPALIVE), look(true, 2000));
        // What else is due makes no difference.
        assert_eq!(silence.look(at(1700), KEEPALIVE), look(false, 2000));
        assert_eq!(silence.look(at(2000), KEEPALIVE), look(true, 3000));
        assert_eq!(silence.look(at(2999), KEEPALIVE), look(false, 3000));
        assert_eq!(silence.look(at(3000), KEEPALIVE), None);
        silence.heard(at(2999));
        assert_eq!(silence.look(at(3000), KEEPALIVE), look(false, 3999));
    }

    #[test]
    fn who_looks_late_asks_before_he_gives_up() {
        let began = Instant::now();
        let mut silence = Silence::new(began);
        let at = |ms: u64| began + Duration::from_millis(ms);
        assert_eq!(silence.look(at(60_000), KEEPALIVE), Some(Look { ask: true, again: at(61_000) }));
        assert_eq!(silence.look(at(60_999), KEEPALIVE), Some(Look { ask: false, again: at(61_000) }));
        assert_eq!(silence.look(at(61_000), KEEPALIVE), None);
    }

    proptest! {
        #[test]
        fn a_peer_is_asked_once_a_third_and_given_up_only_in_vain(
            keepalive in 3_u64..100_000,
            // Looks besides those that were asked for, words of the peer, and how late all of it is, in milliseconds.
            events in prop::collection::vec((0_u64..50_000, any::<bool>()), 0..50),
            late in 0_u64..5_000,
        ) {
            let (keepalive, late) = (Duration::from_millis(keepalive), Duration::from_millis(late));
            let mut now = Instant::now();
            let mut silence = Silence::new(now);
            let (mut heard, mut asked) = (now, None);
            let mut events = events.into_iter();
            while let Some(look) = silence.look(now, keepalive) {
                prop_assert!(look.again > now);
                if look.ask {
                    let last: Instant = asked.replace(now).unwrap_or(heard).max(heard);
                    prop_assert!(now - last >= keepalive / 3);
                }
                let on_time = look.again + late;
                now = match events.next() {
                    Some((after, speaks)) if now + Duration::from_millis(after) < on_time => {
                        now += Duration::from_millis(after);
                        if speaks {
                            silence.heard(now);
                            heard = now;
                        }
                        now
                    }
                    _ => on_time,
                };
            }
            // The last question had its third, and no more than two looks were late.
            let asked = asked.unwrap();
            prop_assert!(asked > heard && now - asked >= keepalive / 3);
            prop_assert!(now - heard >= keepalive);
            prop_assert!(now - heard <= keepalive + (keepalive / 3 + Duration::from_nanos(1) + late) * 2);
        }
    }
}
