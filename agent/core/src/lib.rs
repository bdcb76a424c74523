//! Pure decisions of Lark, in data-path order. Nothing here reads a clock, a file, an environment
//! variable or a socket: time and facts are arguments, decisions are return values that carry
//! their reason.

#![forbid(unsafe_code)]

/// Names, ports and limits that every part agrees on.
pub mod constants;
/// What discovery knows: workloads, Services, nodes, mesh settings.
pub mod snapshot;
/// Which workloads of this node are to be captured, and why the others are not.
pub mod capture;
/// SPIFFE identities and the schedule of their certificates.
pub mod identity;
/// From a captured connection to the way it takes.
pub mod route;
/// HTTP/2 CONNECT as the tunnels speak it: a state machine over bytes.
pub mod framing;
/// Which tunnel a stream takes, and when tunnels are opened and given up.
pub mod pool;
/// The checks before a stream is delivered to its pod.
pub mod deliver;
/// Counters that move while a connection lives, and the edges they add up to.
pub mod observe;
/// Every reason for which a connection is refused or left alone.
pub mod reason;
/// Types of the admin API, of `-o json` and of the page.
pub mod view;
