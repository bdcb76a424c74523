//! Requests: what they add up to by edge, and each as a tap tells it.

use serde::{Deserialize, Serialize};

use super::Party;
use crate::observe::{Distribution, Secured, Totals};
use crate::recognise::Judgement;

/// Requests of a workload or of an edge over the last seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestsView {
    /// `outbound`, `inbound` or `local`.
    pub direction: String,
    /// Namespace of who asks; empty if all are taken together.
    pub source_namespace: String,
    /// Who asks, `Kind/name`; empty if all are taken together.
    pub source: String,
    /// Namespace of who is asked.
    pub destination_namespace: String,
    /// Who is asked, `Kind/name`.
    pub destination: String,
    /// Seconds that were looked at.
    pub seconds: f64,
    /// Requests that ended in them.
    pub requests: u64,
    /// The same a second.
    pub per_second: f64,
    /// Of those that can be judged, the part that went well, 0 to 1; nothing if there are none.
    pub success: Option<f64>,
    /// Requests by how they ended.
    pub outcomes: Vec<OutcomeView>,
    /// Seconds to the first byte of the response.
    pub first_byte: QuantilesView,
    /// Seconds to the last byte of the response.
    pub last_byte: QuantilesView,
}

/// How often requests ended in one way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeView {
    /// `http1`, `http2` or `grpc`.
    pub protocol: String,
    /// Class of the response, status of the call, or what cut it off.
    pub status: String,
    /// `success`, `failure` or `abandoned`.
    pub result: String,
    /// How often.
    pub count: u64,
}

/// Seconds that a part of requests did not exceed, guessed within buckets; nothing if none was timed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct QuantilesView {
    /// Half of them.
    pub p50: Option<f64>,
    /// 95 of 100.
    pub p95: Option<f64>,
    /// 99 of 100.
    pub p99: Option<f64>,
}

impl From<&Distribution> for QuantilesView {
    fn from(distribution: &Distribution) -> Self {
        let at = |q| distribution.quantile(q).map(|duration| duration.as_secs_f64());
        Self { p50: at(0.5), p95: at(0.95), p99: at(0.99) }
    }
}

impl RequestsView {
    /// Of one row; who asks whom is left for the caller to say.
    pub fn of(totals: &Totals, seconds: f64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a rate needs no more")]
        let per_second = if seconds > 0.0 { totals.count() as f64 / seconds } else { 0.0 };
        let outcome = |(outcome, count): (crate::recognise::Outcome, u64)| OutcomeView {
            protocol: outcome.protocol().label().to_owned(),
            status: outcome.status().to_owned(),
            result: outcome.judgement().label().to_owned(),
            count,
        };
        Self {
            direction: String::new(),
            source_namespace: String::new(),
            source: String::new(),
            destination_namespace: String::new(),
            destination: String::new(),
            seconds,
            requests: totals.count(),
            per_second,
            success: totals.success_rate(),
            outcomes: totals.outcomes().map(outcome).collect(),
            first_byte: (&totals.first_byte).into(),
            last_byte: (&totals.last_byte).into(),
        }
    }

    /// Requests of one judgement.
    pub fn judged(&self, judgement: Judgement) -> u64 {
        self.outcomes.iter().filter(|o| o.result == judgement.label()).map(|o| o.count).sum()
    }
}

/// What a tap tells, one after the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum TapView {
    /// A connection is open, and it is known what secures it.
    Opened {
        /// Which.
        #[serde(flatten)]
        connection: TapConnection,
    },
    /// A request on it has ended.
    Request {
        /// Which.
        #[serde(flatten)]
        connection: TapConnection,
        /// How.
        #[serde(flatten)]
        request: TapRequest,
    },
    /// A connection has ended, or was refused.
    Ended {
        /// Which.
        #[serde(flatten)]
        connection: TapConnection,
        /// How.
        #[serde(flatten)]
        ending: TapEnding,
    },
    /// So much that was wanted was left out, because it came faster than a tap may tell it.
    LeftOut {
        /// How many.
        events: u64,
    },
}

/// A connection, as a tap tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapConnection {
    /// Milliseconds since the epoch.
    pub at_ms: u64,
    /// `outbound`, `inbound` or `local`.
    pub direction: String,
    /// Who dialled.
    pub source: Party,
    /// Who was dialled.
    pub destination: Party,
    /// Address and port of the source.
    pub source_address: String,
    /// Address and port that were dialled.
    pub destination_address: String,
    /// What secures it.
    pub secured: Option<Secured>,
}

/// A request, as a tap tells it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TapRequest {
    /// `http1`, `http2` or `grpc`.
    pub protocol: String,
    /// Its method.
    pub method: String,
    /// Status of the response, if there was one.
    pub code: Option<u16>,
    /// Class of the response, status of the call, or what cut it off.
    pub status: String,
    /// `success`, `failure` or `abandoned`.
    pub result: String,
    /// Seconds to the first byte of the response, if it was timed.
    pub first_byte_seconds: Option<f64>,
    /// Seconds to its last byte.
    pub duration_seconds: Option<f64>,
}

/// An end, as a tap tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapEnding {
    /// How, as in the access log.
    pub how: String,
    /// Why it was refused, if it was.
    pub reason: String,
    /// Bytes from source to destination.
    pub sent_bytes: u64,
    /// Bytes from destination to source.
    pub received_bytes: u64,
}
