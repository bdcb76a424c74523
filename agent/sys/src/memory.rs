//! This process's memory: what others can get of it, since keys are in it, and what is let go of.

use std::ffi::c_void;
use std::io;
use std::os::unix::ffi::OsStrExt;

use rustix::mm::{Advice, madvise};
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

/// Unmaps the pages of the program's own code and constants; what is still used comes back from the page
/// cache, page by page, when it is next touched. Starting up runs through most of the program once (arguments,
/// files, loading eBPF), and the kernel maps sixteen pages for each that is touched (`do_fault_around`,
/// mm/memory.c): without this all of it would stay in the resident set for good. Returns how many bytes are
/// mapped from the program, used or not. A breakpoint that somebody has set in it (a debugger's, a uprobe) goes too.
/// Libraries are left alone: they may be unmapped, and something else mapped in their place.
///
/// # Errors
/// When `/proc/self` cannot be read or the kernel refuses; nothing is lost then.
pub fn let_go_of_code() -> io::Result<usize> {
    let program = std::fs::read_link("/proc/self/exe")?;
    let maps = std::fs::read("/proc/self/maps")?;
    let mut bytes = 0;
    for (start, length) in code_of(&maps, program.as_os_str().as_bytes()) {
        // SAFETY: a private mapping of the program's own file, which is never unmapped and which nothing of ours has written to: the executable
        // one, and constants that lie before it in the file, which need no relocation. The kernel drops the
        // pages from the page tables only, and reads the same bytes again when they are touched.
        unsafe { madvise(start as *mut c_void, length, Advice::LinuxDontNeed) }?;
        bytes += length;
    }
    Ok(bytes)
}

/// Gives the system back what the allocator holds and nobody uses: it keeps pages between allocations that live, and
/// starting up and bursts leave many (malloc_trim(3)).
pub fn let_go_of_free_memory() {
    // SAFETY: glibc's own bookkeeping under its own locks; what is allocated stays where it is.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Where, by `/proc/self/maps` (proc_pid_maps(5)), a program's code lies and the constants before it: start
/// and length. What comes after the code has been relocated or is written to.
fn code_of(maps: &[u8], program: &[u8]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for line in maps.split(|byte| *byte == b'\n').filter(|line| line.ends_with(program)) {
        let mut fields = line.split(|byte| *byte == b' ');
        let (range, mode) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let address = |text: &[u8]| usize::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok();
        let mut ends = range.split(|byte| *byte == b'-').map(address);
        let (Some(Some(start)), Some(Some(end))) = (ends.next(), ends.next()) else { return Vec::new() };
        match mode {
            b"r--p" => found.push((start, end.saturating_sub(start))),
            b"r-xp" => {
                found.push((start, end.saturating_sub(start)));
                return found;
            }
            _ => break,
        }
    }
    // Laid out otherwise than expected: nothing is touched.
    Vec::new()
}

#[cfg(test)]
mod tests {
    #[test]
    fn code_and_the_constants_before_it_are_let_go_of_and_nothing_after() {
        let maps = b"10000-20000 r--p 00000000 fe:00 7 /bin/lark\n\
            20000-30000 r-xp 0000f000 fe:00 7 /bin/lark\n\
            30000-40000 r--p 0001f000 fe:00 7 /bin/lark\n\
            40000-50000 rw-p 0002f000 fe:00 7 /bin/lark\n\
            60000-70000 r-xp 00000000 fe:00 8 /lib/libc.so\n";
        assert_eq!(super::code_of(maps, b"/bin/lark"), [(0x10000, 0x10000), (0x20000, 0x10000)]);
    }

    #[test]
    fn an_unknown_layout_is_left_alone() {
        let written = b"10000-20000 rw-p 00000000 fe:00 7 /bin/lark\n20000-30000 r-xp 0 fe:00 7 /bin/lark\n";
        assert_eq!(super::code_of(written, b"/bin/lark"), []);
        assert_eq!(super::code_of(b"10000-20000 r--p 00000000 fe:00 7 /bin/lark\n", b"/bin/lark"), []);
        assert_eq!(super::code_of(b"nothing of the kind /bin/lark\n", b"/bin/lark"), []);
    }

    #[test]
    fn the_program_goes_on_after_letting_go() -> std::io::Result<()> {
        let resident = || -> std::io::Result<u64> {
            let status = std::fs::read_to_string("/proc/self/status")?;
            let line = status.lines().find_map(|line| line.strip_prefix("RssFile:"));
            Ok(line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0))
        };
        let before = resident()?;
        assert!(super::let_go_of_code()? > 0);
        assert!(resident()? < before);
        Ok(())
    }

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
