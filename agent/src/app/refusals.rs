//! What is refused of strict pods in the kernel, on its way to the observer.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use lark_abi::Counter;
use lark_bpf::Refusals;
use lark_bpf::socket_maps::socket_address;
use lark_core::rate::Allowance;
use lark_core::snapshot::Snapshot;
use lark_core::strict::past_hook;
use tokio::sync::watch;

use crate::capture::Wires;
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
    wires: Wires,
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
        let source = socket_address(refused.source, refused.source_port);
        let destination = socket_address(refused.destination, refused.destination_port);
        let counter = Counter::ALL.iter().copied().find(|counter| counter.index() == refused.counter);
        if let Some((reason, detail)) = counter.and_then(past_hook) {
            let uid = wires.lock().unwrap_or_else(PoisonError::into_inner).get(&refused.interface).cloned();
            observer.past_hook(&snapshot, uid.as_deref(), source, destination, (reason, detail));
            continue;
        }
        let to_listener = counter == Some(Counter::ListenerRefused);
        // Asked each time, which is seldom: the host's addresses are not discovery's to know.
        let hosts = lark_sys::links::addresses().unwrap_or_default();
        observer.refused_by_strict(&snapshot, &node, &hosts, source, destination, to_listener);
    }
}
