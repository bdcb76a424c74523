//! Counters that move while a connection lives, and the edges they add up to.

mod history;
mod requests;
mod stages;

pub use history::{History, Reading, SAMPLES, SERIES_MAX, STEP, Sample};
pub use requests::{BOUNDS, Distribution, Requests, Totals};
pub use stages::{Stage, Stages};

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Bytes of one connection as its own agent sees them. The data path adds, readers only read, so
/// relaxed order is enough.
#[derive(Debug, Default)]
pub struct ByteCounters {
    sent: AtomicU64,
    received: AtomicU64,
    /// Of what the kernel measures and not the agent; no round-trip time is 0.
    rtt_us: AtomicU32,
    retransmits: AtomicU32,
}

impl ByteCounters {
    /// Counts payload bytes that the source has sent towards the destination.
    pub fn add_sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }
    /// Counts payload bytes that the destination has sent towards the source.
    pub fn add_received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }
    /// Counts up to what somebody else has counted so far.
    pub fn reach(&self, sent: u64, received: u64) {
        self.sent.fetch_max(sent, Ordering::Relaxed);
        self.received.fetch_max(received, Ordering::Relaxed);
    }
    /// Notes what the kernel measures of a connection that no agent carries: its smoothed round-trip time, in
    /// microseconds and 0 if there is none yet, and the segments that were sent again.
    pub fn measure(&self, rtt_us: u32, retransmits: u32) {
        if rtt_us != 0 {
            self.rtt_us.store(rtt_us, Ordering::Relaxed);
        }
        self.retransmits.fetch_max(retransmits, Ordering::Relaxed);
    }
    /// The smoothed round-trip time, and the segments that were sent again, where the kernel has measured them.
    pub fn measured(&self) -> Option<(Duration, u32)> {
        match self.rtt_us.load(Ordering::Relaxed) {
            0 => None,
            micros => {
                let again = self.retransmits.load(Ordering::Relaxed);
                Some((Duration::from_micros(micros.into()), again))
            }
        }
    }
    /// Bytes from source to destination so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
    /// Bytes from destination to source so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// What secures an edge. The signs are part of the output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Secured {
    /// `√ mTLS`: a handshake proved both ends.
    Mtls,
    /// `= same node`: both ends known by cgroup, bytes never on a shared interface.
    SameNode,
    /// `~ direct`: same node, plaintext between the pods by choice.
    Direct,
    /// `✗ plaintext`.
    Plaintext,
    /// `⊘ denied`.
    Denied,
}

impl Secured {
    /// The word in filters, JSON and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Mtls => "mtls",
            Self::SameNode => "same_node",
            Self::Direct => "direct",
            Self::Plaintext => "plaintext",
            Self::Denied => "denied",
        }
    }

    /// The sign and word shown in tables.
    pub const fn sign(self) -> &'static str {
        match self {
            Self::Mtls => "√ mTLS",
            Self::SameNode => "= same node",
            Self::Direct => "~ direct",
            Self::Plaintext => "✗ plaintext",
            Self::Denied => "⊘ denied",
        }
    }
}
