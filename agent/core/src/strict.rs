//! Strict pods: who is refused, which of their open connections are older than strict, and what the kernel is
//! told of them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use lark_abi::Counter;

use crate::mode::{Mode, Mtls};
use crate::reason::Reason;
use crate::snapshot::{PolicyChange, Snapshot, Workload};

/// One refusal of the look-up hook, explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The pod that was dialled; none if it has just gone.
    pub destination: Option<Arc<Workload>>,
    /// Why, which says who dialled.
    pub reason: Reason,
    /// Who dialled, in words.
    pub detail: String,
}

/// Who dialled in plaintext a pod that takes none, as far as addresses tell. `hosts`: the addresses of this node's host,
/// those that discovery does not list among them. `to_listener`: it dialled a listener of the agent's own there.
pub fn refusal(
    snapshot: &Snapshot,
    node: &str,
    hosts: &[IpAddr],
    source: IpAddr,
    destination: IpAddr,
    to_listener: bool,
) -> Refusal {
    let source = source.to_canonical();
    let (reason, who) = if let Some(workload) = snapshot.workload_by_address(source) {
        let name = workload.full_name();
        if workload.capture.is_wanted() {
            (
                Reason::PlaintextPastHooks,
                format!("{name} is to be captured, but this socket was none of its cgroup's, or older"),
            )
        } else {
            (Reason::PlaintextUncaptured, format!("{name} is not captured: {}", workload.why_capture()))
        }
    } else if let Some(found) = snapshot.nodes_by_address(source).first() {
        let whose = if *found.name == *node { "this node's" } else { "another node's" };
        (
            Reason::PlaintextHost,
            format!(
                "{source} is {whose} own address ({}): its host, or somebody masqueraded to it",
                found.name
            ),
        )
    } else if hosts.contains(&source) {
        (
            Reason::PlaintextHost,
            format!("{source} is an address of this node's host: the host, or somebody masqueraded to it"),
        )
    } else {
        (Reason::PlaintextOutside, format!("{source} is nobody whom discovery knows"))
    };
    let reason = if to_listener { Reason::ListenerFromOutside } else { reason };
    Refusal { destination: snapshot.workload_by_address(destination).cloned(), reason, detail: who }
}

/// Why the second line dropped something, and what that was; nothing if it was another hook.
pub const fn past_hook(counter: Counter) -> Option<(Reason, &'static str)> {
    Some(match counter {
        Counter::PastHookSocket => {
            (Reason::PastHookSocket, "dropped as it left the pod: a socket that was made outside its cgroup")
        }
        Counter::PastHookDevice => (
            Reason::PastHookDevice,
            "dropped as it left the pod: a socket bound to a device that was made outside its cgroup",
        ),
        Counter::PastHookRaw => (Reason::PastHookRaw, "dropped as it left the pod: TCP by a raw socket"),
        Counter::PastHookPacket => (Reason::PastHookPacket, "dropped as it left the pod: a packet socket"),
        Counter::PastHookForwarded => {
            (Reason::PastHookForwarded, "dropped as it left the pod: TCP of no socket of its namespace")
        }
        _ => return None,
    })
}

/// Whether an open connection of a guarded pod is one that would not be let in now, and so older than what closed
/// the port. `taken`: how the pod takes plaintext, its mode and policies together. `accepted`: the pod listens on
/// its own end's port. What policy has closed stays where the mesh says so (`policyChange`). What the pod has dialled outside the cluster may stay; in
/// it, an agent dials for it by now, whose own connections are not asked about.
pub fn is_older(
    snapshot: &Snapshot,
    pod: &Workload,
    taken: &Mode,
    own: SocketAddr,
    peer: SocketAddr,
    accepted: bool,
) -> bool {
    let (ip, peer) = (own.ip().to_canonical(), peer.ip().to_canonical());
    if ip.is_loopback() || peer.is_loopback() || pod.addresses.iter().any(|a| a.to_canonical() == peer) {
        return false;
    }
    if accepted {
        let by_policy = snapshot.mesh.policy_change == PolicyChange::End;
        let mode = if by_policy { taken } else { &pod.mode };
        return mode.on(own.port()) == Mtls::Strict;
    }
    let captured = snapshot.workload_by_address(peer).is_some_and(|w| w.capture.is_wanted());
    pod.mode.is_strict()
        && (captured || snapshot.mesh.cluster_ranges.iter().any(|range| range.contains(peer)))
}

/// Why probes cannot be told from others by this cgroup, if so: sockets of the pods' own must not be among
/// its own.
pub fn probes_of(
    cgroup: &std::path::Path,
    mount: &std::path::Path,
    mut pods: impl Iterator<Item = (String, std::path::PathBuf)>,
) -> Result<(), String> {
    if cgroup == mount {
        return Err(
            "the kubelet's cgroup is the root of all cgroups, so everybody would pass for it".to_owned()
        );
    }
    match pods.find(|(_, path)| path.starts_with(cgroup)) {
        Some((pod, _)) => Err(format!(
            "pod {pod} runs below the kubelet's cgroup {}, so it would pass for it",
            cgroup.display()
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
