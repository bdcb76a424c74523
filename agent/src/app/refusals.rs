//! What look-up hooks refuse, on its way to the observer.

use std::sync::Arc;
use std::time::Instant;

use lark_abi::Counter;
use lark_bpf::Refusals;
use lark_bpf::socket_maps::socket_address;
use lark_core::rate::Allowance;
use lark_core::snapshot::Snapshot;
use tokio::sync::watch;

use crate::observe::Observer;

/// Refusals that are named at once ...
const BURST: u32 = 200;
/// ... and a second. The kernel counts all of them.
const PER_SECOND: u32 = 20;

pub(super) async fn run(
    mut refusals: Refusals,
    node: Arc<str>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    observer: Observer,
) {
    let started = Instant::now();
    let mut allowance = Allowance::full(BURST, started.elapsed());
    let mut unnamed = 0_u64;
    loop {
        let refused = match refusals.next().await {
            Ok(refused) => refused,
            Err(error) => {
                tracing::error!(%error, "refusals of strict pods cannot be read any more; they are still counted");
                return;
            }
        };
        if !allowance.take(BURST, PER_SECOND, started.elapsed()) {
            unnamed += 1;
            continue;
        }
        if unnamed > 0 {
            tracing::warn!(unnamed, "strict pods refused more than is named one by one");
            unnamed = 0;
        }
        let snapshot = snapshot.borrow().clone();
        observer.refused_by_strict(
            &snapshot,
            &node,
            socket_address(refused.source, refused.source_port),
            socket_address(refused.destination, refused.destination_port),
            refused.counter == Counter::ListenerRefused.index(),
        );
    }
}
