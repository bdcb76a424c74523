//! What others can get of this process's memory, in which keys are.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Keeps this process's memory to itself: it leaves no core file, no crash handler is given one, and a
/// process without CAP_SYS_PTRACE can neither trace it nor read its memory, of the same user as it may be
/// (PR_SET_DUMPABLE in prctl(2), core(5)). A limit of zero alone would not do: it does not hold for a
/// `core_pattern` that is a pipe.
///
/// # Errors
/// What the system says; then nothing is promised.
pub fn keep_private() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, dumpable_behavior, getrlimit};

    // Of the whole process: cargo-nextest gives each test one of its own.
    #[test]
    fn no_core_is_left_and_nobody_looks_in() -> std::io::Result<()> {
        super::keep_private()?;
        assert_eq!(getrlimit(Resource::Core), Rlimit { current: Some(0), maximum: Some(0) });
        assert_eq!(dumpable_behavior()?, DumpableBehavior::NotDumpable);
        // The own /proc stays open to the process itself, which enters namespaces by it.
        std::fs::File::open("/proc/self/ns/net")?;
        std::fs::read_to_string("/proc/self/mounts")?;
        Ok(())
    }
}
