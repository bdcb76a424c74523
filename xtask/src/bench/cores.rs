use std::fs;

use anyhow::{Context, Result};

/// Ticks of a second in /proc/stat (USER_HZ, include/asm-generic/param.h).
const TICKS: f64 = 100.0;

/// Where those of idle and iowait stand among a core's ticks (proc_stat(5)).
const IDLE: [usize; 2] = [3, 4];
/// How many kinds there are: guest and `guest_nice`, which follow, are in user and nice already.
const KINDS: usize = 8;

/// What all cores of the machine did with their seconds, whoever it was for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cores {
    /// What the host took counts too: nobody here can use it.
    pub(crate) busy: f64,
    pub(crate) idle: f64,
}

impl Cores {
    /// Since the machine began.
    pub(crate) fn so_far() -> Result<Self> {
        total(&stat()?).context("no line of all cores in /proc/stat")
    }

    /// From then until now.
    pub(crate) fn since(before: Self) -> Result<Self> {
        let now = Self::so_far()?;
        Ok(Self { busy: now.busy - before.busy, idle: now.idle - before.idle })
    }
}

/// Numbers of the cores that are online.
pub(crate) fn online() -> Result<Vec<u32>> {
    Ok(numbers(&stat()?))
}

fn stat() -> Result<String> {
    fs::read_to_string("/proc/stat").context("read /proc/stat")
}

fn total(stat: &str) -> Option<Cores> {
    let mut cores = Cores { busy: 0.0, idle: 0.0 };
    let ticks = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().take(KINDS);
    for (kind, ticks) in ticks.enumerate() {
        let seconds = ticks.parse::<f64>().ok()? / TICKS;
        *if IDLE.contains(&kind) { &mut cores.idle } else { &mut cores.busy } += seconds;
    }
    Some(cores)
}

fn numbers(stat: &str) -> Vec<u32> {
    let number = |line: &str| line.strip_prefix("cpu")?.split(' ').next()?.parse().ok();
    stat.lines().filter_map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  100 20 300 4000 500 6 70 800 90 1\ncpu0 50 10 1 2 3 4 5 6 7 0\n\
                        cpu3 50 10 1 2 3 4 5 6 7 0\nintr 5 1 2\nctxt 9\n";

    #[test]
    fn whatever_is_not_idle_is_busy_and_guests_count_once() {
        assert_eq!(total(STAT), Some(Cores { busy: 12.96, idle: 45.0 }));
        assert_eq!(total("cpu  100 much"), None);
        assert_eq!(total("intr 5"), None);
    }

    #[test]
    fn cores_are_known_by_number_and_some_may_be_off() {
        assert_eq!(numbers(STAT), [0, 3]);
    }
}
