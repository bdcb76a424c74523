//! When a certificate is renewed, when to worry, and how long to wait after a failure. Time and
//! chance are arguments.

use std::time::{Duration, SystemTime};

use crate::constants::{RENEW_AT_PERCENT, RENEW_JITTER_PERCENT};

/// The moment of renewal: half of the life, give or take a tenth, by `chance` (0 to `u32::MAX`).
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
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn renewal_lies_between_two_and_three_fifths(life in 60_u64..10_000_000, chance: u32) {
            let begin = SystemTime::UNIX_EPOCH;
            let life = Duration::from_secs(life);
            let at = renew_at(begin, begin + life, chance).duration_since(begin).unwrap();
            prop_assert!(at >= life.mul_f64(0.3999) && at <= life.mul_f64(0.6001));
            prop_assert!(at < warn_at(begin, begin + life).duration_since(begin).unwrap());
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
