//! Connections of captured pods that Lark does not carry and whose beginning no hook has told: from before the
//! capture, most of all. Read from the kernel in the pods' namespaces, so nothing is believed.

use std::collections::HashSet;
use std::net::SocketAddr;

use lark_core::observe::Secured;
use lark_core::snapshot::{Snapshot, Workload};
use lark_core::view::{ConnectionView, Party};
use lark_sys::connections::{Established, established};

use super::pod::{Pod, Pods};
use super::strict::older;

/// Established connections listed of one pod.
const CONNECTIONS_A_POD: usize = 10_000;

/// All of them on this node but those that are `told` elsewhere, by their two ends.
pub fn connections(
    pods: &Pods,
    snapshot: &Snapshot,
    told: &HashSet<(SocketAddr, SocketAddr)>,
) -> Vec<ConnectionView> {
    pods.all()
        .iter()
        .filter_map(|pod| Some((pod, snapshot.workload(&pod.uid)?)))
        .flat_map(|(pod, workload)| {
            let me = Party::of(workload).unproved();
            let (mut found, older) = of_pod(pod, workload, snapshot);
            found.retain(|c| !told.contains(&(c.local, c.remote)) && !told.contains(&(c.remote, c.local)));
            found.into_iter().map(move |found| view(me.clone(), &found, older.contains(&found), snapshot))
        })
        .collect()
}

/// Those of one pod, and which are older than strict; none if it has just ended.
fn of_pod(pod: &Pod, workload: &Workload, snapshot: &Snapshot) -> (Vec<Established>, Vec<Established>) {
    let is_guarded = snapshot.policies().plaintext(workload).is_guarded() && !workload.host_network;
    let below = pod.cgroup.ids_below();
    let Ok((Ok(found), older)) = pod.netns.within(|| {
        let older =
            || older(snapshot, workload, CONNECTIONS_A_POD, |_| false).unwrap_or_default().connections;
        let outside = established(CONNECTIONS_A_POD, |c| {
            // Redirected and delivered ones have a loopback end.
            let loopback = c.local.ip().is_loopback() || c.remote.ip().is_loopback();
            !loopback && c.local.ip() != c.remote.ip() && c.cgroup.is_some_and(|id| below.contains(&id))
        });
        (outside.map(|found| found.connections), if is_guarded { older() } else { Vec::new() })
    }) else {
        return Default::default();
    };
    (found, older)
}

fn view(me: Party, found: &Established, is_older: bool, snapshot: &Snapshot) -> ConnectionView {
    let peer = Party::at(found.remote.ip(), snapshot);
    ConnectionView {
        direction: "outbound".to_owned(),
        source: me,
        destination: peer,
        source_address: found.local.to_string(),
        destination_address: found.remote.to_string(),
        service: None,
        secured: Some(Secured::Plaintext),
        sent_bytes: 0,
        received_bytes: 0,
        age_seconds: None,
        note: if is_older {
            "older than strict or the policy that closed its port, which ends it; see `lark check` if it stays".to_owned()
        } else {
            "older than the capture or than this agent, and not carried by it; either end may have dialled"
                .to_owned()
        },
        protocol: String::new(),
        requests: 0,
        round_trip_seconds: None,
        retransmits: None,
    }
}
