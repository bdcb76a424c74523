//! Tunnels from end to end on loopback: bytes, ends, resets, refusals, limits.

mod bytes;
mod certificates;
mod ends;
mod foreign;
mod joined;
mod lifetimes;
mod limits;
mod refusals;
mod resets;
