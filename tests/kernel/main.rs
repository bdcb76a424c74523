//! The programs on the real kernel, one behaviour a test, without an agent: the test process stands
//! for both ends by moving between cgroups (a socket belongs to the cgroup it was made in).
//!
//! Needs root, cgroup v2 and BPF; fails with a sentence where it cannot run. Each test needs a
//! process of its own, which is how cargo-nextest runs them.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "what fails to be set up fails the test")]

mod direct;
mod full;
mod hooks;
mod leave;
mod passes;
mod pins;
mod plain;
mod reuse;
mod room;
mod strict;
