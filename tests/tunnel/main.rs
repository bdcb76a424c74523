//! Tunnels from end to end on loopback: bytes, ends, resets, refusals, limits.

mod bytes;
mod ends;
mod foreign;
mod refusals;
