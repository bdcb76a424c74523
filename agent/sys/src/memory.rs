//! This process's memory: what others can get of it, since keys are in it, and what is let go of.

use std::ffi::c_void;
use std::io;

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

/// Unmaps the pages of the program's and its libraries' code and constants; what is still used comes back from the
/// page cache when it is next touched. Starting up runs through most of the program once (arguments, files, loading
/// eBPF), and the kernel maps sixteen pages for each that is touched (`do_fault_around`, mm/memory.c): without this
/// all of it would stay in the resident set for good. Returns how many bytes are mapped, used or not.
///
/// # Errors
/// When `/proc/self/maps` cannot be read or the kernel refuses; nothing is lost then.
pub fn let_go_of_code() -> io::Result<usize> {
    let maps = std::fs::read("/proc/self/maps")?;
    let mut bytes = 0;
    for (start, length) in code_of(&maps) {
        // SAFETY: a private mapping of a file which nothing has written to: an executable one, and constants that
        // lie before it in the file, which need no relocation. The kernel drops the pages from the page tables
        // only, and reads the same bytes again when they are touched.
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

/// Where, by `/proc/self/maps` (proc_pid_maps(5)), the code of files lies and the constants before it: start and
/// length. What comes after a file's code has been relocated or is written to.
fn code_of(maps: &[u8]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    // What was found of a file whose code has not come yet, and the file.
    let (mut constants, mut of) = (Vec::new(), None);
    for line in maps.split(|byte| *byte == b'\n') {
        let Some(Mapping { range, mode, file }) = Mapping::parse(line) else { continue };
        if of != Some(file) {
            (constants, of) = (Vec::new(), Some(file));
        }
        match mode {
            b"r--p" => constants.push(range),
            b"r-xp" => {
                found.append(&mut constants);
                found.push(range);
            }
            // Laid out otherwise than expected: nothing but code is touched.
            _ => constants.clear(),
        }
    }
    found
}

/// A mapping of a file: start and length, mode, and the file's name.
struct Mapping<'a> {
    range: (usize, usize),
    mode: &'a [u8],
    file: &'a [u8],
}

impl<'a> Mapping<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let file = line.get(line.iter().position(|byte| *byte == b'/')?..)?;
        let mut fields = line.split(|byte| *byte == b' ');
        let mut ends = fields.next()?.split(|byte| *byte == b'-');
        let address = |text: &[u8]| usize::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok();
        let (start, end) = (address(ends.next()?)?, address(ends.next()?)?);
        Some(Self { range: (start, end.checked_sub(start)?), mode: fields.next()?, file })
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn code_and_the_constants_before_it_are_let_go_of_and_nothing_after() {
        let maps = b"10000-20000 r--p 00000000 fe:00 7 /bin/lark\n\
            20000-30000 r-xp 0000f000 fe:00 7 /bin/lark\n\
            30000-40000 r--p 0001f000 fe:00 7 /bin/lark\n\
            40000-50000 rw-p 0002f000 fe:00 7 /bin/lark\n\
            50000-58000 rw-p 00000000 00:00 0 [heap]\n\
            60000-70000 r-xp 00000000 fe:00 8 /lib/libc.so\n\
            70000-80000 r--p 00010000 fe:00 8 /lib/libc.so\n\
            90000-a0000 r-xp 00000000 00:00 0 [vdso]\n";
        assert_eq!(super::code_of(maps), [(0x10000, 0x10000), (0x20000, 0x10000), (0x60000, 0x10000)]);
    }

    #[test]
    fn what_may_have_been_written_to_is_left_alone() {
        let written = b"10000-20000 r--p 00000000 fe:00 7 /bin/lark\n\
            20000-30000 rw-p 00000000 fe:00 7 /bin/lark\n\
            30000-40000 r-xp 0 fe:00 7 /bin/lark\n";
        assert_eq!(super::code_of(written), [(0x30000, 0x10000)]);
        assert_eq!(super::code_of(b"10000-20000 r--p 00000000 fe:00 7 /bin/lark\n"), []);
        assert_eq!(super::code_of(b"10000-20000 r-xs 00000000 fe:00 7 /bin/lark\n"), []);
        assert_eq!(super::code_of(b"nothing of the kind /bin/lark\n"), []);
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
