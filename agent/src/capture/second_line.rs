//! The second line of strict pods: a program on the host's end of each one's interface drops what left the pod
//! past its hooks. Which interfaces those are is asked of the kernel now and then; whether the program is
//! still on them, at each pass.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lark_bpf::Kernel;
use lark_sys::links;
use lark_sys::netns::NetNs;

use super::reconcile::locked;
use super::strict::Here;

/// How often a pod's interfaces are looked at again: one may be added to a running pod.
const EVERY: Duration = Duration::from_secs(10);
/// The same, of a pod where something is missing.
const AGAIN: Duration = Duration::from_secs(2);

/// One pod's.
struct Line {
    looked: Instant,
    ends: Vec<u32>,
    missing: Option<String>,
}

/// The pods that have one, and the interfaces that it is on.
pub(super) struct SecondLine {
    kernel: Arc<Mutex<Kernel>>,
    lines: BTreeMap<Arc<str>, Line>,
    /// Whose wire an interface of the host is, for whoever is told of what was dropped there.
    pub(super) wires: Wires,
}

/// Uids by index of the host's interface.
pub type Wires = Arc<Mutex<BTreeMap<u32, Arc<str>>>>;

impl SecondLine {
    pub(super) fn new(kernel: Arc<Mutex<Kernel>>) -> Self {
        Self { kernel, lines: BTreeMap::new(), wires: Wires::default() }
    }

    /// Another agent has had its programs in place of ours.
    pub(super) fn retake(&mut self) {
        self.lines.clear();
    }

    /// Makes sure of one pod's; says what is missing of it.
    pub(super) fn hold(&mut self, uid: &Arc<str>, netns: &NetNs, here: &mut Here) -> Option<String> {
        let now = Instant::now();
        if let Some(line) = self.lines.get(uid) {
            let every = if line.missing.is_some() { AGAIN } else { EVERY };
            if now.saturating_duration_since(line.looked) < every
                && locked(&self.kernel).has_second_line(uid, &line.ends)
            {
                return line.missing.clone();
            }
        }
        let found = self.look(uid, netns, here);
        let (ends, missing) = found.unwrap_or_else(|why| (Vec::new(), Some(why)));
        let before = self.lines.get(uid);
        if let Some(missing) = &missing
            && before.is_none_or(|line| line.missing.as_ref() != Some(missing))
        {
            tracing::warn!(uid = &**uid, missing, "what leaves a strict pod past its hooks is not kept in");
        }
        self.lines.insert(uid.clone(), Line { looked: now, ends, missing: missing.clone() });
        missing
    }

    /// Finds the host's ends and puts the program on them.
    fn look(
        &self,
        uid: &Arc<str>,
        netns: &NetNs,
        here: &mut Here,
    ) -> Result<(Vec<u32>, Option<String>), String> {
        let here = here.get_or_insert_with(|| links::interfaces().map_err(|e| e.to_string()));
        let here = here.as_ref().map_err(Clone::clone)?;
        let there = netns.within(links::interfaces).map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        let number = links::netns_number(netns.as_fd()).map_err(|e| e.to_string())?;
        let found = links::ends(here, &there, number);
        {
            let mut wires = locked(&self.wires);
            wires.retain(|_, of| of != uid);
            wires.extend(found.here.iter().map(|end| (*end, uid.clone())));
        }
        locked(&self.kernel).second_line(uid, &found.here).map_err(|e| e.to_string())?;
        let missing = match (found.here.as_slice(), found.elsewhere.as_slice()) {
            ([], []) => Some("no interface of its own leads to this host".to_owned()),
            (_, []) => None,
            (_, elsewhere) => Some(format!("{} has no end on this host", elsewhere.join(", "))),
        };
        Ok((found.here, missing))
    }

    /// Takes a pod's away, perhaps that of an agent before this one.
    pub(super) fn release(&mut self, uid: &Arc<str>) {
        self.lines.remove(uid);
        locked(&self.wires).retain(|_, of| of != uid);
        if let Err(error) = locked(&self.kernel).drop_second_line(uid) {
            tracing::error!(uid = &**uid, %error, "the second line of a pod that is not strict stays");
        }
    }
}
