//! How often somebody may do something: so many at once, and so many more a second.

use std::time::Duration;

/// What is left of somebody's allowance. Time is an argument.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Allowance {
    left: f64,
    at: Duration,
}

impl Allowance {
    /// A full one.
    pub fn full(burst: u32, now: Duration) -> Self {
        Self { left: f64::from(burst), at: now }
    }

    /// Takes one; false if there is none.
    pub fn take(&mut self, burst: u32, per_second: u32, now: Duration) -> bool {
        let earned = now.saturating_sub(self.at).as_secs_f64() * f64::from(per_second);
        self.left = (self.left + earned).min(f64::from(burst));
        self.at = self.at.max(now);
        if self.left < 1.0 {
            return false;
        }
        self.left -= 1.0;
        true
    }
}

/// Lines of a log that strangers cause, so few that a flood of theirs fills no disk. Time is an argument.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lines {
    allowance: Allowance,
    left_out: u64,
}

impl Lines {
    /// Lines at once ...
    pub const BURST: u32 = 100;
    /// ... and for how many more a second.
    pub const PER_SECOND: u32 = 5;

    /// With none written yet.
    pub fn new(now: Duration) -> Self {
        Self { allowance: Allowance::full(Self::BURST, now), left_out: 0 }
    }

    /// Whether one more may be written, and if so how many were left out since the last one: the line says it.
    pub fn one_more(&mut self, now: Duration) -> Option<u64> {
        if self.allowance.take(Self::BURST, Self::PER_SECOND, now) {
            Some(std::mem::take(&mut self.left_out))
        } else {
            self.left_out += 1;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nobody_gets_more_than_the_burst_and_what_time_earned(
            steps in prop::collection::vec(0_u64..2000, 1..400), burst in 1_u32..50, per_second in 0_u32..20
        ) {
            let mut allowance = Allowance::full(burst, Duration::ZERO);
            let (mut now, mut taken) = (Duration::ZERO, 0_u32);
            for step in steps {
                now += Duration::from_millis(step);
                taken += u32::from(allowance.take(burst, per_second, now));
                let most = f64::from(burst) + now.as_secs_f64() * f64::from(per_second) + 1e-6;
                prop_assert!(f64::from(taken) <= most);
            }
        }
    }

    #[test]
    fn a_pause_earns_it_back_and_a_clock_that_goes_back_earns_nothing() {
        let at = Duration::from_secs;
        let mut allowance = Allowance::full(2, at(10));
        assert_eq!([10, 10, 10].map(|s| allowance.take(2, 1, at(s))), [true, true, false]);
        assert!(!allowance.take(2, 1, at(5)));
        assert_eq!([100, 100, 100].map(|s| allowance.take(2, 1, at(s))), [true, true, false]);
    }

    #[test]
    fn a_flood_of_lines_is_cut_and_what_was_left_out_is_said() {
        let at = Duration::from_secs;
        let mut lines = Lines::new(at(0));
        let written = (0..1_000).filter(|_| lines.one_more(at(0)).is_some()).count();
        assert_eq!(written, 100);
        assert_eq!(lines.one_more(at(1)), Some(900));
        assert_eq!(lines.one_more(at(1)), Some(0));
    }
}
