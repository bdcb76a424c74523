//! Tunnels from end to end on loopback: bytes, ends, resets, refusals, limits.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is not as it should be"
)]

mod aging;
mod attacks;
mod bytes;
mod certificates;
mod dialogues;
mod ends;
mod foreign;
mod givenup;
mod handover;
mod joined;
mod kernel;
mod lifetimes;
mod limits;
mod recorded;
mod refusals;
mod requests;
mod resets;
mod storm;
