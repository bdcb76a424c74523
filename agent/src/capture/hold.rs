//! Workloads that have hooks and are not captured, not yet or not any more: what strict ones dial in the mesh is
//! refused meanwhile, what others do that an agent before captured as without an agent.

use std::collections::{BTreeMap, BTreeSet};
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
    /// Who has the hooks of an agent before, strict or not.
    adopted: BTreeSet<Arc<str>>,
}

impl Holds {
    pub(super) fn new(kernel: Arc<Mutex<Kernel>>) -> Self {
        Self { kernel, all: BTreeMap::new(), adopted: BTreeSet::new() }
    }

    /// Refuses what a strict workload dials in the mesh for as long as it is not captured, and lets one that
    /// is strict no more go.
    pub(super) fn hold(&mut self, workload: &Workload, cgroup: &Cgroup) -> Result<(), String> {
        if !workload.mode.is_strict() {
            if !self.adopted.contains(&workload.uid) {
                self.let_go(&workload.uid);
            } else if self.all.contains_key(&workload.uid) {
                // Without hooks it would be left alone, whatever agentDown says.
                let own = listeners::own_addresses(&workload.addresses);
                let entry = PodEntry { flags: PodEntry::ORPHANED, ..own };
                locked(&self.kernel).update(cgroup.id(), entry).map_err(|error| error.to_string())?;
                self.all.remove(&workload.uid);
            }
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

    /// It has the hooks of an agent before.
    pub(super) fn adopt(&mut self, uid: &Arc<str>) {
        self.adopted.insert(uid.clone());
    }

    /// The hooks of one that is captured no more stay; what they are told is what it is held by next.
    pub(super) fn keep(&mut self, uid: &Arc<str>) {
        self.all.insert(uid.clone(), None);
    }

    /// It is captured.
    pub(super) fn captured(&mut self, uid: &Arc<str>) {
        self.all.remove(uid);
        self.adopted.remove(uid);
    }

    /// Another agent may have told the kernel something else of all of them.
    pub(super) fn retake(&mut self) {
        self.all.values_mut().for_each(|told| *told = None);
    }

    /// Releases the hooks of whoever is not wanted any more.
    pub(super) fn let_go_of(&mut self, is_unwanted: impl Fn(&Arc<str>) -> bool) {
        let held = self.all.keys().chain(&self.adopted);
        let unwanted: BTreeSet<Arc<str>> = held.filter(|uid| is_unwanted(uid)).cloned().collect();
        unwanted.iter().for_each(|uid| self.let_go(uid));
    }

    fn let_go(&mut self, uid: &Arc<str>) {
        if !self.all.contains_key(uid) && !self.adopted.contains(uid) {
            return;
        }
        let released = locked(&self.kernel).release(uid);
        match released {
            Ok(()) => self.captured(uid),
            Err(error) => {
                // Some of its hooks may be gone.
                self.all.insert(uid.clone(), None);
                tracing::error!(uid = &**uid, %error, "pins cannot be removed");
            }
        }
    }
}
