//! This process's CPU time.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// CPU time that this process has used so far, all threads together.
pub fn used() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    #[test]
    fn the_time_used_grows_with_work() {
        let before = super::used();
        while super::used() - before < Duration::from_millis(1) {
            std::hint::black_box(before);
        }
    }
}
