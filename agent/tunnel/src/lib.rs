//! Workload mTLS between two agents: TLS, verifiers, frame I/O, pool
