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
    /// When to look again, always later than now.
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

    /// Looks how long the silence lasts: nothing if as long as `keepalive`, which is the end. The peer is asked after a
    /// third of that and once for each third, however often this is called: it takes too many questions for an attack.
    pub(super) fn look(&mut self, now: Instant, keepalive: Duration) -> Option<Look> {
        let (third, end) = (keepalive / 3, self.heard + keepalive);
        if now >= end {
            return None;
        }
        let due = self.heard + third;
        let due = self.asked.map_or(due, |asked| due.max(asked + third));
        let ask = due <= now;
        if ask {
            self.asked = Some(now);
        }
        Some(Look { ask, again: if ask { now + third } else { due }.min(end) })
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
        assert_eq!(silence.look(at(2100), KEEPALIVE), look(true, 3000));
        assert_eq!(silence.look(at(2999), KEEPALIVE), look(false, 3000));
        assert_eq!(silence.look(at(3000), KEEPALIVE), None);
        silence.heard(at(2999));
        assert_eq!(silence.look(at(3000), KEEPALIVE), look(false, 3999));
    }

    proptest! {
        #[test]
        fn a_silent_peer_is_asked_twice_however_often_anybody_looks(
            mut other in prop::collection::vec(0_u64..3000, 0..50),
        ) {
            other.sort_unstable();
            let began = Instant::now();
            let mut silence = Silence::new(began);
            let mut asked = Vec::new();
            let mut other = other.into_iter().map(|ms| began + Duration::from_millis(ms)).peekable();
            let mut now = began;
            while let Some(look) = silence.look(now, KEEPALIVE) {
                prop_assert!(look.again > now);
                if look.ask {
                    asked.push((now - began).as_millis());
                }
                now = other.next_if(|at| *at < look.again).unwrap_or(look.again).max(now);
            }
            prop_assert_eq!(now, began + KEEPALIVE);
            prop_assert_eq!(asked, vec![1000, 2000]);
        }
    }
}
