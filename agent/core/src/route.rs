//! From a captured connection to the way it takes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::explain::Passthrough;
use crate::reason::Reason;
use crate::snapshot::{Service, Snapshot, Workload};

/// The way of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// To the agent of the destination's node, under both identities.
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
/// `load` tells the open connections to an endpoint; `dice` are random bits. Of two ready endpoints
/// drawn at random, the one with the lower load is taken.
pub fn decide(
    snapshot: &Snapshot,
    node: &str,
    destination: SocketAddr,
    load: impl Fn(IpAddr) -> u32,
    dice: u64,
) -> Decision {
    let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
    if let Some(service) = snapshot.service_by_address(destination.ip()) {
        let service = service.clone();
        let chosen = endpoint(&service, destination, load, dice);
        return match chosen {
            Ok(address) => Decision {
                route: toward(snapshot, node, address, true),
                service: Some(service),
                endpoint: Some(address),
            },
            Err(reason) => Decision { route: Route::Deny { reason }, service: Some(service), endpoint: None },
        };
    }
    Decision { route: toward(snapshot, node, destination, false), service: None, endpoint: Some(destination) }
}

fn endpoint(
    service: &Service,
    asked: SocketAddr,
    load: impl Fn(IpAddr) -> u32,
    dice: u64,
) -> Result<SocketAddr, Reason> {
    let port = service.ports.iter().find(|p| p.port == asked.port()).ok_or(Reason::NoSuchPort)?;
    let ready: Vec<IpAddr> = service
        .endpoints
        .iter()
        .filter(|e| e.ready)
        .map(|e| e.address.to_canonical())
        .filter(|a| a.is_ipv4() == asked.is_ipv4())
        .collect();
    let draw = |bits: u64| {
        let count = u64::try_from(ready.len()).ok().filter(|c| *c > 0)?;
        usize::try_from(bits % count).ok().and_then(|i| ready.get(i).copied())
    };
    let first = draw(dice & 0xffff_ffff).ok_or(Reason::NoReadyEndpoint)?;
    let second = draw(dice >> 32).unwrap_or(first);
    let address = if load(second) < load(first) { second } else { first };
    Ok(SocketAddr::new(address, port.target_port))
}

fn toward(snapshot: &Snapshot, node: &str, address: SocketAddr, by_service: bool) -> Route {
    let Some(workload) = snapshot.workload_by_address(address.ip()) else {
        // A host-network endpoint or one outside of the mesh; or, asked by its own address, one that
        // was a mesh destination a moment ago and must not be dialled in plaintext for that.
        return if by_service {
            Route::Passthrough { address, reason: Passthrough::OutsideMesh }
        } else {
            Route::Deny { reason: Reason::DestinationUnknown }
        };
    };
    if !workload.capture.is_wanted() {
        return Route::Passthrough { address, reason: Passthrough::NotCaptured };
    }
    let destination = workload.clone();
    if &*workload.node == node {
        return Route::Local { destination, address };
    }
    match snapshot.node(&workload.node).and_then(|n| n.tunnel_address()) {
        Some(node) => Route::Tunnel { destination, address, node },
        None => Route::Deny { reason: Reason::NodeUnknown },
    }
}

impl Decision {
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

/// What the kernel does with connects to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Takes them to the agent.
    Redirect,
    /// Refuses them: the Service has no ready endpoint.
    RefuseNoEndpoint,
}

/// One entry of the kernel's map of mesh destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeshDestination {
    /// The address.
    pub address: IpAddr,
    /// The port; `None` for any.
    pub port: Option<u16>,
    /// What to do.
    pub action: Action,
}

/// All mesh destinations: addresses of captured pods, and of Services with a captured endpoint.
/// Never the address of a host-network pod, which is its node's.
pub fn mesh_destinations(snapshot: &Snapshot) -> Vec<MeshDestination> {
    let pods = snapshot.workloads().filter(|w| w.capture.is_wanted() && !w.host_network).flat_map(|w| {
        w.addresses.iter().map(|a| MeshDestination {
            address: a.to_canonical(),
            port: None,
            action: Action::Redirect,
        })
    });
    let services = snapshot.services().iter().filter(|s| has_captured_endpoint(snapshot, s)).flat_map(|s| {
        s.addresses.iter().flat_map(move |a| {
            let address = a.to_canonical();
            let ready = s
                .endpoints
                .iter()
                .any(|e| e.ready && e.address.to_canonical().is_ipv4() == address.is_ipv4());
            let action = if ready { Action::Redirect } else { Action::RefuseNoEndpoint };
            s.ports.iter().map(move |p| MeshDestination { address, port: Some(p.port), action })
        })
    });
    pods.chain(services).collect()
}

fn has_captured_endpoint(snapshot: &Snapshot, service: &Service) -> bool {
    service
        .endpoints
        .iter()
        .any(|e| snapshot.workload_by_address(e.address).is_some_and(|w| w.capture.is_wanted()))
}

#[cfg(test)]
mod tests;
