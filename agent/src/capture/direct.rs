//! Verdicts of `sameNode: direct` in the kernel. What changes is taken back before anything new is said: when
//! policies or pods are different all verdicts at once, by their generation; when a pod is gone those about it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lark_abi::direct::acceptor_of;
use lark_abi::{Address, DirectKey, DirectValue};
use lark_bpf::{Kernel, MapError};
use lark_core::direct::{Subject, Verdict, verdicts};
use lark_core::snapshot::{SameNode, Snapshot};

use super::pod::Pod;
use super::reconcile::locked;

/// For how long verdicts are made at a time, before changes are heard of again.
const BUDGET: Duration = Duration::from_millis(100);

/// Namespaces that were to accept a direct connection and did not say so: they are reached through the agent
/// until their pods are captured anew.
#[derive(Debug, Clone, Default)]
pub struct Doubted(Arc<Mutex<BTreeSet<u32>>>);

impl Doubted {
    /// This one did not.
    pub fn add(&self, acceptor: u32) {
        locked(&self.0).insert(acceptor);
    }

    fn has(&self, acceptor: u32) -> bool {
        locked(&self.0).contains(&acceptor)
    }

    fn keep(&self, wanted: impl Fn(u32) -> bool) {
        locked(&self.0).retain(|acceptor| wanted(*acceptor));
    }
}

/// A captured pod as verdicts name it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    id: u32,
    /// 0 if nothing is to be left to it.
    acceptor: u32,
    addresses: Vec<[u32; 4]>,
}

/// What the verdicts in the kernel were made from.
struct Made {
    snapshot: Arc<Snapshot>,
    generation: u32,
    /// All of these have verdicts about each other.
    pods: BTreeMap<Arc<str>, Named>,
}

pub(super) struct Direct {
    kernel: Arc<Mutex<Kernel>>,
    /// Nothing while no verdict counts.
    made: Option<Made>,
    /// Whether what an agent before this one wrote is gone.
    is_clean: bool,
    doubted: Doubted,
}

impl Direct {
    pub(super) fn new(kernel: Arc<Mutex<Kernel>>) -> Self {
        Self { kernel, made: None, is_clean: false, doubted: Doubted::default() }
    }

    pub(super) fn doubted(&self) -> Doubted {
        self.doubted.clone()
    }

    /// Another agent has written its own.
    pub(super) fn retake(&mut self) {
        self.made = None;
        self.is_clean = false;
    }

    /// Takes back what must not count any more, before anything else is done with a snapshot; `captured` tells
    /// the captured pods that are there.
    pub(super) fn take_back<'a>(
        &mut self,
        snapshot: &Arc<Snapshot>,
        captured: impl Iterator<Item = &'a Arc<Pod>>,
    ) {
        if let Err(error) = self.try_take_back(snapshot, captured) {
            // What cannot be taken back singly goes as a whole; should that fail too, it is tried at each pass.
            tracing::error!(%error, "verdicts about direct connections cannot be changed");
            self.retake();
        }
    }

    fn try_take_back<'a>(
        &mut self,
        snapshot: &Arc<Snapshot>,
        captured: impl Iterator<Item = &'a Arc<Pod>>,
    ) -> Result<(), MapError> {
        let is_wanted = snapshot.mesh.same_node == SameNode::Direct;
        if !self.is_clean || !is_wanted && self.made.is_some() {
            locked(&self.kernel).directs().clear()?;
            self.made = None;
            self.is_clean = true;
        }
        if !is_wanted {
            return Ok(());
        }
        let named = self.named(captured);
        self.doubted.keep(|acceptor| named.values().any(|pod| acceptor == pod.1));
        let Some(made) = &mut self.made else {
            let generation = locked(&self.kernel).directs().raise()?;
            self.made = Some(Made { snapshot: snapshot.clone(), generation, pods: BTreeMap::new() });
            return Ok(());
        };
        let gone: Vec<Arc<str>> = made
            .pods
            .iter()
            .filter(|(uid, pod)| named.get(*uid).is_none_or(|(now, _)| now != *pod))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in gone {
            let Some(pod) = made.pods.remove(&uid) else { continue };
            locked(&self.kernel).directs().remove(|key, value| {
                key.pod == pod.id
                    || pod.acceptor != 0 && value.acceptor == pod.acceptor
                    || pod.addresses.contains(&key.address_be)
            })?;
        }
        let before = &made.snapshot;
        let is_same = snapshot.policies().has_policies_of(before.policies())
            && made.pods.keys().all(|uid| snapshot.workload(uid) == before.workload(uid));
        if !is_same {
            made.generation = locked(&self.kernel).directs().raise()?;
            made.pods.clear();
        }
        made.snapshot = snapshot.clone();
        Ok(())
    }

    /// Each pod as it is to be named, and its namespace's number even if nothing is left to it.
    fn named<'a>(&self, captured: impl Iterator<Item = &'a Arc<Pod>>) -> BTreeMap<Arc<str>, (Named, u32)> {
        captured
            .filter_map(|pod| {
                let number = pod.acceptor()?;
                let acceptor = if self.doubted.has(number) { 0 } else { number };
                let addresses = pod.addresses.iter().map(|a| Address::from(a.to_canonical()).words_be);
                let named = Named { id: pod.id, acceptor, addresses: addresses.collect() };
                Some((pod.uid.clone(), (named, number)))
            })
            .collect()
    }

    /// Writes what is missing about the pods that are captured, one pod after the other, for as long as
    /// [`BUDGET`] at a time: meanwhile nobody hears of a change. Returns whether that was all.
    pub(super) fn write<'a>(
        &mut self,
        snapshot: &Snapshot,
        captured: impl Iterator<Item = &'a Arc<Pod>>,
    ) -> bool {
        if self.made.is_none() {
            return true;
        }
        let named = self.named(captured);
        let Some(made) = &mut self.made else { return true };
        let (mut told, mut untold): (Vec<_>, Vec<_>) = named
            .into_iter()
            .map(|(uid, (pod, _))| {
                let subject = snapshot.workload(&uid).map(|workload| Subject::of(snapshot, workload));
                (uid, pod, subject)
            })
            .partition(|(uid, ..)| made.pods.contains_key(uid));
        if untold.is_empty() {
            return true;
        }
        let (began, mut written) = (Instant::now(), Vec::new());
        while let Some((uid, pod, subject)) = untold.pop() {
            if let Some(subject) = &subject {
                for (_, other, of_other) in &told {
                    let Some(of_other) = of_other else { continue };
                    for (from, to, ends) in
                        [(&pod, other, (subject, of_other)), (other, &pod, (of_other, subject))]
                    {
                        let found = (to.acceptor != 0).then(|| verdicts(snapshot, ends.0, ends.1));
                        let found = found.iter().flatten();
                        written.extend(found.map(|v| entry(v, from.id, to.acceptor, made.generation)));
                    }
                }
            }
            made.pods.insert(uid.clone(), pod.clone());
            told.push((uid, pod, subject));
            if began.elapsed() >= BUDGET {
                break;
            }
        }
        let is_whole = untold.is_empty();
        let result = {
            let mut kernel = locked(&self.kernel);
            let directs = kernel.directs();
            let generation = made.generation;
            let written = directs.write_all(&written);
            written.and_then(|synced| {
                if is_whole {
                    directs.remove(|_, value| value.generation != generation)?;
                }
                Ok(synced)
            })
        };
        match result {
            Ok(synced) if synced.left_out > 0 => tracing::error!(
                left_out = synced.left_out,
                "the kernel's map of direct connections is full: the rest goes through the agent"
            ),
            Ok(synced) => tracing::debug!(written = synced.written, "verdicts about direct connections"),
            Err(error) => tracing::error!(%error, "verdicts about direct connections cannot be written"),
        }
        is_whole
    }
}

fn entry(verdict: &Verdict, pod: u32, acceptor: u32, generation: u32) -> (DirectKey, DirectValue) {
    let key = DirectKey {
        address_be: Address::from(verdict.address).words_be,
        pod,
        port: verdict.port.unwrap_or(0),
        padding: 0,
    };
    (key, DirectValue { generation, acceptor: if verdict.is_direct { acceptor } else { 0 } })
}

/// How verdicts name a namespace, by its cookie.
pub(super) fn number(cookie: u64) -> Option<u32> {
    Some(acceptor_of(cookie)).filter(|number| *number != 0)
}
