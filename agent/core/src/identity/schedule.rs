//! When a certificate is renewed, when to worry, and how long to wait after a failure. Time and
//! chance are arguments.

use std::time::{Duration, SystemTime};

use crate::constants::{RENEW_AT_PERCENT, RENEW_JITTER_PERCENT};

/// The moment of renewal: [`RENEW_AT_PERCENT`] of the life, give or take [`RENEW_JITTER_PERCENT`], by
/// `chance` (0 to `u32::MAX`).
pub fn renew_at(not_before: SystemTime, not_after: SystemTime, chance: u32) -> SystemTime {
    let life = not_after.duration_since(not_before).unwrap_or_default();
    let from = f64::from(RENEW_AT_PERCENT - RENEW_JITTER_PERCENT);
    let percent = from + f64::from(2 * RENEW_JITTER_PERCENT) * f64::from(chance) / f64::from(u32::MAX);
    not_before + life.mul_f64(percent / 100.0)
}

/// How long to leave the CA alone after it gave a certificate. Where this node's clock is so far ahead
/// of the CA's that a new certificate is past its moment of renewal already, it is a quarter of what is
/// left: the CA is asked a few times a day more, not in a loop.
pub fn rest(renew_at: SystemTime, not_after: SystemTime, now: SystemTime) -> Duration {
    if now < renew_at { Duration::ZERO } else { not_after.duration_since(now).unwrap_or_default() / 4 }
}

/// From here on a certificate that was not renewed is worth a warning: two thirds of its life.
pub fn warn_at(not_before: SystemTime, not_after: SystemTime) -> SystemTime {
    let life = not_after.duration_since(not_before).unwrap_or_default();
    not_before + life * 2 / 3
}

/// From here on it is worth an error: a tenth of its life is left.
pub fn alarm_at(not_before: SystemTime, not_after: SystemTime) -> SystemTime {
    let life = not_after.duration_since(not_before).unwrap_or_default();
    not_before + life * 9 / 10
}

/// How loud a renewal that failed is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// There is plenty of time.
    Calm,
    /// Two thirds of the life are over, or there is no certificate yet.
    Late,
    /// Nine tenths are over, or all of it.
    Alarm,
}

/// How urgent the renewal of a certificate is; `life` is from when until when it is valid, if there is one.
pub fn urgency(life: Option<(SystemTime, SystemTime)>, now: SystemTime) -> Urgency {
    match life {
        None => Urgency::Late,
        Some((not_before, not_after)) if now >= alarm_at(not_before, not_after) => Urgency::Alarm,
        Some((not_before, not_after)) if now >= warn_at(not_before, not_after) => Urgency::Late,
        Some(_) => Urgency::Calm,
    }
}

/// The wait after that many failures in a row: doubling from a quarter of a second to five minutes,
/// of which `chance` takes away up to a half.
pub fn backoff(failures: u32, chance: u32) -> Duration {
    let full = Duration::from_millis(250).saturating_mul(1 << failures.saturating_sub(1).min(11));
    let full = full.min(Duration::from_secs(300));
    full.mul_f64(1.0 - 0.5 * f64::from(chance) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constants::SVID_LIFE;
    use proptest::prelude::*;

    #[test]
    fn what_is_not_renewed_grows_louder() {
        let begin = SystemTime::UNIX_EPOCH;
        let at = |hours: u64| {
            let life = Some((begin, begin + SVID_LIFE));
            urgency(life, begin + Duration::from_secs(3600 * hours))
        };
        assert_eq!([0, 12, 15].map(at), [Urgency::Calm; 3]);
        assert_eq!([16, 21].map(at), [Urgency::Late; 2]);
        assert_eq!([22, 24, 30].map(at), [Urgency::Alarm; 3]);
        assert_eq!(urgency(None, begin), Urgency::Late);
    }

    proptest! {
        #[test]
        fn renewal_comes_before_half_of_the_life(life in 60_u64..10_000_000, chance: u32) {
            let begin = SystemTime::UNIX_EPOCH;
            let life = Duration::from_secs(life);
            let at = renew_at(begin, begin + life, chance).duration_since(begin).unwrap();
            prop_assert!(at >= life.mul_f64(0.3999) && at <= life.mul_f64(0.4801));
            prop_assert!(at < warn_at(begin, begin + life).duration_since(begin).unwrap());
        }

        #[test]
        fn a_ca_that_is_away_for_twelve_hours_is_back_in_time(gone in 0_u64..86_400, chance: u32, later: u32) {
            let begin = SystemTime::UNIX_EPOCH;
            let end = begin + SVID_LIFE;
            let (gone, back) = (Duration::from_secs(gone), Duration::from_secs(gone + 12 * 3600));
            let due = renew_at(begin, end, chance);
            // Asked in vain for as long as the CA is away, from the moment of renewal on.
            let (mut at, mut failures) = (due, 0);
            while at >= begin + gone && at < begin + back {
                failures += 1;
                at += backoff(failures, later);
            }
            prop_assert!(at < end, "renewed at {at:?}");
            prop_assert!(urgency(Some((begin, end)), due) == Urgency::Calm);
        }

        #[test]
        fn a_clock_that_is_ahead_makes_no_loop_and_misses_no_expiry(
            life in 60_u64..10_000_000, ahead in 0.0..1.0_f64, chance: u32
        ) {
            let begin = SystemTime::UNIX_EPOCH;
            let life = Duration::from_secs(life);
            let now = begin + life.mul_f64(ahead);
            let at = renew_at(begin, begin + life, chance);
            let left = (begin + life).duration_since(now).unwrap();
            let pause = rest(at, begin + life, now);
            prop_assert_eq!(pause, if now < at { Duration::ZERO } else { left / 4 });
        }

        #[test]
        fn backoff_grows_and_is_bounded(failures in 1_u32..1000, chance: u32) {
            let wait = backoff(failures, chance);
            prop_assert!(wait >= Duration::from_millis(125) && wait <= Duration::from_secs(300));
            prop_assert!(backoff(failures + 1, chance) >= wait);
        }
    }
}
