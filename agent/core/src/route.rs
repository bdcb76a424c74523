//! From a captured connection to the way it takes.

/// Which endpoint a client of a Service had last.
pub mod affinity;
/// What the kernel takes to the agent.
mod destinations;
/// From a Service to one of its endpoints.
mod endpoint;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::explain::Passthrough;
use crate::reason::Reason;
use crate::snapshot::{Node, SameNode, Service, Snapshot, Workload};

pub use destinations::{
    Action, DestinationChanges, DestinationKey, MeshDestination, changed_destinations, is_in_mesh,
    is_mesh_destination, mesh_destinations,
};

use endpoint::Client;

/// The way of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// To the agent of the destination's node, under both identities. With `sameNode: mtls` that may be this
    /// agent itself.
    Tunnel {
        /// The destination.
        destination: Arc<Workload>,
        /// Its address and port.
        address: SocketAddr,
        /// Where its agent accepts tunnels.
        node: SocketAddr,
    },
    /// To a captured pod of this node.
    Local {
        /// The destination.
        destination: Arc<Workload>,
        /// Its address and port.
        address: SocketAddr,
    },
    /// As the pod would have done it, in plaintext, from its own namespace.
    Passthrough {
        /// Where to.
        address: SocketAddr,
        /// Why it is left as plaintext.
        reason: Passthrough,
    },
    /// Nowhere.
    Deny {
        /// Why.
        reason: Reason,
    },
}

/// One step of a decision, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What was looked at: `destination`, `endpoint`, `way`.
    pub stage: String,
    /// What was found.
    pub found: String,
}

/// A route with everything that led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The way.
    pub route: Route,
    /// The Service that was addressed, if one was.
    pub service: Option<Arc<Service>>,
    /// The address that was chosen, if it came so far.
    pub endpoint: Option<SocketAddr>,
}

/// Decides the way of a connection of `source`, which runs on `node`.
///
/// `before` tells the endpoint that the client had last of a Service that keeps its clients; `load` the
/// open connections to an endpoint; `dice` are random bits. Of two usable endpoints drawn at random, the
/// one with the lower load is taken.
pub fn decide(
    snapshot: &Snapshot,
    node: &str,
    destination: SocketAddr,
    before: impl FnOnce(&Service, Duration) -> Option<IpAddr>,
    load: impl Fn(IpAddr) -> u32,
    dice: u64,
) -> Decision {
    let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
    if let Some(service) = snapshot.service_by_address(destination.ip()) {
        let before = service.traffic.affinity.and_then(|away| before(service, away));
        let zone = || snapshot.node(node).and_then(|n| n.zone.as_deref());
        let client = Client { node, zone: &zone, before };
        let (route, endpoint) = match endpoint::choose(service, destination, &client, load, dice) {
            Ok(address) => (toward(snapshot, node, address, true), Some(address)),
            Err(reason) => (Route::Deny { reason }, None),
        };
        // Counted last: until then nothing is written, so that the processor fetches ahead what is looked at next.
        return Decision { route, service: Some(service.clone()), endpoint };
    }
    Decision { route: toward(snapshot, node, destination, false), service: None, endpoint: Some(destination) }
}

fn toward(snapshot: &Snapshot, node: &str, address: SocketAddr, by_service: bool) -> Route {
    if snapshot.is_contested(address.ip()) {
        // Also if a node has it: it may be that the node, or who claims to be there, lies.
        return Route::Deny { reason: Reason::DestinationUnknown };
    }
    let Some((workload, runs_on)) = snapshot.located(address.ip()) else {
        // A host-network endpoint or one outside of the mesh; or, asked by its own address, one that
        // was a mesh destination a moment ago and must not be dialled in plaintext for that. A node itself
        // never was one: a strict pod comes here with it.
        return if by_service || !snapshot.nodes_by_address(address.ip()).is_empty() {
            Route::Passthrough { address, reason: Passthrough::OutsideMesh }
        } else {
            Route::Deny { reason: Reason::DestinationUnknown }
        };
    };
    if !workload.capture.is_wanted() {
        return Route::Passthrough { address, reason: Passthrough::NotCaptured };
    }
    if &*workload.node == node && snapshot.mesh.same_node != SameNode::Mtls {
        return Route::Local { destination: workload.clone(), address };
    }
    match runs_on.and_then(Node::tunnel_address) {
        Some(node) => Route::Tunnel { destination: workload.clone(), address, node },
        None => Route::Deny { reason: Reason::NodeUnknown },
    }
}

impl Decision {
    /// The same for whom `source` is: what discovery does not know within the cluster's ranges is no way for a strict
    /// one, though a Service names it. It may be a captured pod that was not told of yet. Not so the cluster's API, whose
    /// endpoints API servers write themselves (`default/kubernetes`, pkg/controlplane/reconcilers).
    #[must_use]
    pub fn kept_by(mut self, snapshot: &Snapshot, source: &Workload) -> Self {
        if let Route::Passthrough { address, reason: Passthrough::OutsideMesh } = &self.route
            && source.mode.is_strict()
            && !self.service.as_ref().is_some_and(|s| &*s.namespace == "default" && &*s.name == "kubernetes")
            && snapshot.nodes_by_address(address.ip()).is_empty()
            && snapshot.mesh.cluster_ranges.iter().any(|range| range.contains(address.ip()))
        {
            self.route = Route::Deny { reason: Reason::DestinationUnknown };
        }
        self
    }

    /// The decision told step by step, as `lark trace` prints it.
    pub fn steps(&self, asked: SocketAddr) -> Vec<Step> {
        let step = |stage: &str, found: String| Step { stage: stage.to_owned(), found };
        let mut steps = vec![match &self.service {
            Some(service) => step("destination", format!("{asked} is Service {}", service.full_name())),
            None => step("destination", format!("{asked} is no Service's address")),
        }];
        if let (Some(endpoint), Some(service)) = (self.endpoint, &self.service) {
            let ready = service.endpoints.iter().filter(|e| e.ready).count();
            steps.push(step("endpoint", format!("{endpoint}, least loaded of two out of {ready} ready")));
        }
        steps.push(match &self.route {
            Route::Tunnel { destination, node, .. } => step(
                "way",
                format!(
                    "{} runs captured on node {}: tunnel to its agent at {node}, which must prove {}",
                    destination.full_name(),
                    destination.node,
                    destination.identity
                ),
            ),
            Route::Local { destination, .. } => step(
                "way",
                format!("{} runs captured on this node: joined inside the agent", destination.full_name()),
            ),
            Route::Passthrough { address, reason } => step(
                "way",
                format!(
                    "{address} is not captured ({reason}): dialled in plaintext from the source's own namespace"
                ),
            ),
            Route::Deny { reason } => {
                step("way", format!("refused, {reason}: {} {}", reason.meaning().trim(), reason.advice()))
            }
        });
        steps
    }

    /// The word for the way.
    pub const fn way(&self) -> &'static str {
        match self.route {
            Route::Tunnel { .. } => "tunnel",
            Route::Local { .. } => "local",
            Route::Passthrough { .. } => "passthrough",
            Route::Deny { .. } => "deny",
        }
    }
}

#[cfg(test)]
mod tests;
