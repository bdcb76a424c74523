//! Strict workloads that are not captured, not yet or not any more: what they dial in the mesh is refused meanwhile.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use lark_abi::PodEntry;
use lark_bpf::Kernel;
use lark_core::snapshot::Workload;
use lark_sys::cgroup::Cgroup;

use super::listeners;
use super::reconcile::locked;

/// What the kernel was told of a workload that is held.
#[derive(PartialEq, Eq)]
struct Told {
    cgroup: u64,
    addresses: Vec<IpAddr>,
}

/// Who is held. A workload is here for as long as it has hooks and is not captured, so that they are released
/// when nobody wants it any more.
pub(super) struct Holds {
    kernel: Arc<Mutex<Kernel>>,
    /// Nothing is told of whom the kernel is to be told anew.
    all: BTreeMap<Arc<str>, Option<Told>>,
}

impl Holds {
    pub(super) fn new(kernel: Arc<Mutex<Kernel>>) -> Self {
        Self { kernel, all: BTreeMap::new() }
    }

    /// Refuses what a strict workload dials in the mesh for as long as it is not captured, and lets one that
    /// is strict no more go.
    pub(super) fn hold(&mut self, workload: &Workload, cgroup: &Cgroup) -> Result<(), String> {
        if !workload.mode.is_strict() {
            self.let_go(&workload.uid);
            return Ok(());
        }
        let told = Some(Told { cgroup: cgroup.id(), addresses: workload.addresses.to_vec() });
        if self.all.get(&workload.uid) == Some(&told) {
            return Ok(());
        }
        // From the first hook on there is something to release.
        self.all.insert(workload.uid.clone(), None);
        let mut kernel = locked(&self.kernel);
        let entry = match kernel.entry(cgroup.id()) {
            // Another agent's, which may still run: it carries the pod until this one captures it.
            Ok(entry) if entry.flags & PodEntry::ACTIVE != 0 => entry,
            _ => listeners::own_addresses(&workload.addresses),
        };
        let entry = PodEntry { flags: entry.flags | PodEntry::STRICT, ..entry };
        kernel
            .capture(&workload.uid, cgroup.as_fd(), cgroup.id(), entry)
            .map_err(|error| error.to_string())?;
        self.all.insert(workload.uid.clone(), told);
        Ok(())
    }

    /// The hooks of one that is captured no more stay; what they are told is what it is held by next.
    pub(super) fn keep(&mut self, uid: &Arc<str>) {
        self.all.insert(uid.clone(), None);
    }

    /// It is captured.
    pub(super) fn captured(&mut self, uid: &Arc<str>) {
        self.all.remove(uid);
    }

    /// Another agent may have told the kernel something else of all of them.
    pub(super) fn retake(&mut self) {
        self.all.values_mut().for_each(|told| *told = None);
    }

    /// Releases the hooks of whoever is not wanted any more.
    pub(super) fn let_go_of(&mut self, is_unwanted: impl Fn(&Arc<str>) -> bool) {
        let unwanted: Vec<Arc<str>> = self.all.keys().filter(|uid| is_unwanted(uid)).cloned().collect();
        unwanted.iter().for_each(|uid| self.let_go(uid));
    }

    fn let_go(&mut self, uid: &Arc<str>) {
        let Some(told) = self.all.get_mut(uid) else { return };
        match locked(&self.kernel).release(uid) {
            Ok(()) => drop(self.all.remove(uid)),
            Err(error) => {
                // Some of its hooks may be gone.
                *told = None;
                tracing::error!(uid = &**uid, %error, "pins cannot be removed");
            }
        }
    }
}
