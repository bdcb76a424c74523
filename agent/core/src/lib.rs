//! Pure decisions of Lark, in data-path order. Nothing here reads a clock, a file, an environment
//! variable or a socket: time and facts are arguments, decisions are return values that carry
//! their reason.

#![forbid(unsafe_code)]

/// Addresses as text, for what is written of each connection.
pub mod address;
/// Fields of a log line.
pub mod field;
/// Which workloads of this node are to be captured, and why the others are not.
pub mod capture;
/// What is wanted against what the kernel has, pod by pod.
pub mod check;
/// Names, ports and limits that every part agrees on.
pub mod constants;
/// The checks before a stream is delivered to its pod.
pub mod deliver;
/// Which connections two pods of one node make without the agent.
pub mod direct;
/// Who may connect to whom: AuthorizationPolicy and NetworkPolicy, compiled and judged.
pub mod policy;
/// Every word that is printed as a cause: what it means, who saw it, what to do.
pub mod explain;
/// HTTP/2 CONNECT as the tunnels speak it: a state machine over bytes.
pub mod framing;
/// SPIFFE identities and the schedule of their certificates.
pub mod identity;
/// Which failures of pods become Events of the cluster, and how often.
pub mod notices;
/// Counters that move while a connection lives, and the edges they add up to.
pub mod observe;
/// Where a pod is on its node: cgroup and network namespace.
pub mod place;
/// Which tunnel a stream takes, and when tunnels are opened and given up.
pub mod pool;
/// Whether a workload takes plaintext: permissive or strict, and its ports that are something else.
pub mod mode;
/// What the admin API is asked.
pub mod question;
/// How much of what a worker has each peer may take.
pub mod quota;
/// Protocols seen in passing: requests, their answers and how long they took.
pub mod recognise;
/// How often somebody may do something.
pub mod rate;
/// Text that is to be sent on, without what could be a secret.
pub mod redact;
/// Every reason for which a connection is refused or left alone.
pub mod reason;
/// Several controllers of one mesh: who leads, and what each does with what it finds of the CA.
pub mod replica;
/// Room for connections, so many from one address.
pub mod room;
/// From a captured connection to the way it takes.
pub mod route;
/// Replacing the root of the mesh while it carries traffic.
pub mod rotation;
/// What discovery knows: workloads, Services, nodes, mesh settings.
pub mod snapshot;
/// What of the mesh a tenant is shown, who may get pods in some namespaces.
pub mod sight;
/// Whether a worker that has nothing left to do looks again before it sleeps.
pub mod spin;
/// Which worker carries an accepted tunnel.
pub mod spread;
/// Who is refused by strict pods, and what is older than strict.
pub mod strict;
/// What a tap wants to be told.
pub mod tap;
/// What would happen to a connect, step by step.
pub mod trace;
/// Types of the admin API, of `-o json` and of the page.
pub mod view;
