//! Clients of Services that keep each with its endpoint, shared by the workers: a pod's connections come to
//! all of them. Locked only for connections to such Services.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lark_core::route::affinity::Affinity;
use lark_core::snapshot::Service;

/// Which endpoint each had last.
#[derive(Debug)]
pub struct Clients {
    table: Mutex<Affinity>,
    begin: Instant,
}

impl Default for Clients {
    fn default() -> Self {
        Self { table: Mutex::default(), begin: Instant::now() }
    }
}

impl Clients {
    /// The endpoint that the workload of this uid has to stay with, if it was not away for too long.
    pub(super) fn before(&self, uid: &Arc<str>, service: &Service, away: Duration) -> Option<IpAddr> {
        self.locked().before(uid, service, away, self.begin.elapsed())
    }

    /// Notes what it was given.
    pub(super) fn note(&self, uid: &Arc<str>, service: &Service, endpoint: IpAddr) {
        self.locked().note(uid, service, endpoint, self.begin.elapsed());
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Affinity> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
