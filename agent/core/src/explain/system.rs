//! Errors of the operating system, in the words of an operator. Numbers are those of Linux on x86-64,
//! arm64 and RISC-V (include/uapi/asm-generic/errno-base.h and errno.h).

use super::{Set, set as make};

closed_set! {
    /// An error of the operating system that a line of Lark's may end with.
    System;
    /// The process may not do that.
    Eperm = "EPERM", Printer,
        "Run as root or with the capabilities of deploy/capabilities.md; a container's seccomp profile can forbid it too.";
    /// There is no such file or directory.
    Enoent = "ENOENT", Printer, "Correct the path, or make the file; for a workload's cgroup or namespace: does it still run?";
    /// The file may not be opened by this user.
    Eacces = "EACCES", Printer, "Look at owner and mode of the file and of the directories above it.";
    /// The kernel had no memory for it.
    Enomem = "ENOMEM", Printer, "The machine, or the cgroup of the process, is out of memory.";
    /// The file is there already.
    Eexist = "EEXIST", Printer, "Remove it or give another path.";
    /// It is a file where a directory is needed.
    Enotdir = "ENOTDIR", Printer, "Correct the path.";
    /// It is a directory where a file is needed.
    Eisdir = "EISDIR", Printer, "Correct the path.";
    /// The kernel does not take such a request.
    Einval = "EINVAL", Printer, "The kernel may be older than Linux 5.18, or lack the feature.";
    /// The system has as many open files as it takes.
    Enfile = "ENFILE", Printer, "Raise fs.file-max.";
    /// The process has as many open files as it may.
    Emfile = "EMFILE", Printer, "Raise the limit of open files: LimitNOFILE in the unit, or `ulimit -n`.";
    /// The file system is full.
    Enospc = "ENOSPC", Printer, "Make room; for inotify, raise fs.inotify.max_user_watches.";
    /// The file system is mounted read-only.
    Erofs = "EROFS", Printer, "Give a path that may be written; in a unit, ReadWritePaths.";
    /// The other end closed while it was written to.
    Epipe = "EPIPE", Printer, "The other end's log says why it went.";
    /// The kernel has no such system call.
    Enosys = "ENOSYS", Printer, "The kernel is too old or was built without it; a seccomp profile can hide it too.";
    /// Another socket has that address and port.
    Eaddrinuse = "EADDRINUSE", Printer, "`ss -ltnp` says who listens there; stop it or give another port.";
    /// No interface of this machine has that address.
    Eaddrnotavail = "EADDRNOTAVAIL", Printer, "Give an address of this machine (`ip address`), or set it up first.";
    /// The network is down.
    Enetdown = "ENETDOWN", Printer, "The interface is down: `ip link`.";
    /// There is no route to that network.
    Enetunreach = "ENETUNREACH", Printer, "`ip route get ADDRESS` shows what is missing; for IPv6 an address of that family.";
    /// The connection was given up by this machine.
    Econnaborted = "ECONNABORTED", Printer, "It was killed, by `ss -K` or by the system; try again.";
    /// The other end reset the connection.
    Econnreset = "ECONNRESET", Printer, "The other end's log says why; a firewall or a proxy can do it too.";
    /// The other end did not answer in time.
    Etimedout = "ETIMEDOUT", Printer, "The machine is down, or a firewall drops the packets.";
    /// Nothing listens there.
    Econnrefused = "ECONNREFUSED", Printer, "Start what should listen there, or correct address and port.";
    /// There is no way to that machine.
    Ehostunreach = "EHOSTUNREACH", Printer, "The machine is down or not on that network, or a firewall refuses: `ip route get ADDRESS`.";
}

const NUMBERS: [(i32, System); 23] = [
    (1, System::Eperm),
    (2, System::Enoent),
    (12, System::Enomem),
    (13, System::Eacces),
    (17, System::Eexist),
    (20, System::Enotdir),
    (21, System::Eisdir),
    (22, System::Einval),
    (23, System::Enfile),
    (24, System::Emfile),
    (28, System::Enospc),
    (30, System::Erofs),
    (32, System::Epipe),
    (38, System::Enosys),
    (98, System::Eaddrinuse),
    (99, System::Eaddrnotavail),
    (100, System::Enetdown),
    (101, System::Enetunreach),
    (103, System::Econnaborted),
    (104, System::Econnreset),
    (110, System::Etimedout),
    (111, System::Econnrefused),
    (113, System::Ehostunreach),
];

impl System {
    /// The error of that number, if it is one that an operator meets.
    pub fn of(number: i32) -> Option<Self> {
        NUMBERS.iter().find(|(n, _)| *n == number).map(|(_, error)| *error)
    }

    /// What to do about it, in a sentence.
    pub const fn advice(self) -> &'static str {
        self.text().2
    }
}

/// An error of the system with what to do about it, so that it is never the last word. `number` is the
/// one that the error carries, if it carries one.
pub fn told(error: &impl std::fmt::Display, number: Option<i32>) -> String {
    let advice = number
        .and_then(System::of)
        .map_or("look at the log and at the kernel's (`dmesg`) at that time", System::advice);
    format!("{error}; {advice}").trim_end_matches('.').to_owned()
}

pub(super) fn set() -> Set {
    make(
        "system",
        "Errors of the operating system that a line may end with; the line before says what was being done.",
        System::ALL,
        System::label,
        System::text,
    )
}
