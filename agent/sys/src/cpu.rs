//! This process's CPU time, and how soon a thread has its turn.

use std::io;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// CPU time that this process has used so far, all threads together.
pub fn used() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

/// The first version of `struct sched_attr` (include/uapi/linux/sched/types.h, SCHED_ATTR_SIZE_VER0).
#[repr(C)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Asks for short turns of the calling thread, from 0.1 to 100 ms: it then waits less for its turn beside others
/// that want the CPU too, and has no more of it altogether. Since Linux 6.12 (`__setparam_fair`,
/// kernel/sched/syscalls.c); before that the kernel takes the value and does nothing.
///
/// # Errors
/// What the system says; the thread goes on as before.
pub fn short_turns(turn: Duration) -> io::Result<()> {
    // SAFETY: the thread's own nice value; no memory is involved.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    let attributes = Attributes {
        size: u32::try_from(size_of::<Attributes>()).unwrap_or(0),
        policy: 0,
        flags: 0,
        nice,
        priority: 0,
        runtime: u64::try_from(turn.as_nanos()).unwrap_or(u64::MAX),
        deadline: 0,
        period: 0,
    };
    // SAFETY: sched_setattr(2) reads as many bytes as `size` says from a value that lives until it returns; 0 is
    // the calling thread.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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

    // `/proc/thread-self/sched` names the slice; kernels before 6.12 leave it as it was.
    #[test]
    fn turns_can_be_asked_for() -> std::io::Result<()> {
        super::short_turns(Duration::from_micros(300))?;
        let told = std::fs::read_to_string("/proc/thread-self/sched").unwrap_or_default();
        let slice = told.lines().find(|line| line.starts_with("se.slice"));
        assert!(slice.is_none_or(|line| line.ends_with(" 300000")), "{slice:?}");
        Ok(())
    }
}
