//! From a Service to one of its endpoints: as the cluster's own proxy would choose (kube-proxy's
//! `pkg/proxy/topology.go`), but of two the one with fewer connections.

use std::net::{IpAddr, SocketAddr};

use crate::reason::Reason;
use crate::snapshot::{Endpoint, Near, Service, ServicePort, Topology};

/// What counts of the client.
pub(super) struct Client<'a> {
    pub(super) node: &'a str,
    /// Its zone, for which most Services do not ask.
    pub(super) zone: &'a dyn Fn() -> Option<&'a str>,
    /// The endpoint that it has to stay with, if that is still usable.
    pub(super) before: Option<IpAddr>,
}

/// Chooses an endpoint for a connection to `asked`, one of the Service's addresses.
pub(super) fn choose<'c>(
    service: &Service,
    asked: SocketAddr,
    client: &'c Client<'c>,
    load: impl Fn(IpAddr) -> u32,
    dice: u64,
) -> Result<SocketAddr, Reason> {
    let port = service.ports.iter().find(|p| p.port == asked.port()).ok_or(Reason::NoSuchPort)?;
    let choice = Choice { service, port, v4: asked.is_ipv4(), client, local: is_local(service, asked.ip()) };
    let (first, second) = (dice & 0xffff_ffff, dice >> 32);
    let (first, second) = if choice.is_plain() {
        match draw(&choice, first) {
            Some(found) => (found, draw(&choice, second).unwrap_or(found)),
            None => choice.among(first, second)?,
        }
    } else {
        choice.among(first, second)?
    };
    let address = |e: &Endpoint| e.address.to_canonical();
    let taken = if load(address(second)) < load(address(first)) { second } else { first };
    // Only endpoints that serve the port were looked at.
    let own = taken.port(port).ok_or(Reason::NoReadyEndpoint)?;
    Ok(SocketAddr::new(address(taken), own))
}

fn is_local(service: &Service, asked: IpAddr) -> bool {
    service.traffic.local_at.iter().any(|a| a.to_canonical() == asked)
}

struct Choice<'a, 'c> {
    service: &'a Service,
    port: &'a ServicePort,
    v4: bool,
    client: &'c Client<'c>,
    /// Only endpoints of the client's node count.
    local: bool,
}

/// Tries before the ready ones are counted.
const DRAWS: u32 = 8;

fn pick(bits: u64, count: usize) -> Option<usize> {
    let count = u64::try_from(count).ok().filter(|c| *c > 0)?;
    usize::try_from(bits % count).ok()
}

/// A ready endpoint, each as likely as the others. Most are ready, so that drawing again after a bad draw
/// is cheaper than looking at all of them.
fn draw<'a>(choice: &Choice<'a, '_>, bits: u64) -> Option<&'a Endpoint> {
    let endpoints = &choice.service.endpoints;
    for turn in 0..DRAWS {
        let bits = match turn {
            0 => bits,
            // Bits of the same draw that have not been used yet.
            turn => bits.wrapping_add(u64::from(turn)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32,
        };
        let drawn = endpoints.get(pick(bits, endpoints.len())?);
        if let Some(endpoint) = drawn.filter(|e| e.ready && choice.fits(e)) {
            return Some(endpoint);
        }
    }
    None
}

impl<'a> Choice<'a, '_> {
    /// Whether every ready endpoint is as good as any other.
    fn is_plain(&self) -> bool {
        let hinted = |e: &Endpoint| {
            e.topology.as_ref().is_some_and(|t| !t.for_zones.is_empty() || !t.for_nodes.is_empty())
        };
        // Hints only count if every ready endpoint has them: one without is enough to know.
        let traffic = &self.service.traffic;
        let first = self.service.endpoints.iter().find(|e| e.ready && self.fits(e));
        !self.local && traffic.near == Near::Any && self.client.before.is_none() && !first.is_some_and(hinted)
    }

    /// Whether an endpoint could be taken, but for its state.
    fn fits(&self, endpoint: &Endpoint) -> bool {
        !endpoint.unknown && self.serves(endpoint)
    }

    fn serves(&self, endpoint: &Endpoint) -> bool {
        endpoint.address.to_canonical().is_ipv4() == self.v4 && endpoint.port(self.port).is_some()
    }

    fn is_on_node(&self, endpoint: &Endpoint) -> bool {
        endpoint.topology.as_ref().and_then(|t| t.node.as_deref()) == Some(self.client.node)
    }

    /// Two of those that are to be used, drawn with the bits; both the same if there is only one, or if
    /// the client has to stay with it.
    fn among(&self, first: u64, second: u64) -> Result<(&'a Endpoint, &'a Endpoint), Reason> {
        let here = |e: &&'a Endpoint| !self.local || self.is_on_node(e);
        let all = || self.service.endpoints.iter().filter(here);
        let ready: Vec<_> = all().filter(|e| e.ready && self.fits(e)).collect();
        let usable = if ready.is_empty() {
            all().filter(|e| e.draining && self.fits(e)).collect()
        } else if self.local {
            ready
        } else {
            self.near(ready)
        };
        if usable.is_empty() {
            let unknown = all().any(|e| e.unknown && e.ready && self.serves(e));
            return Err(if unknown { Reason::DestinationUnknown } else { Reason::NoReadyEndpoint });
        }
        let before = usable.iter().find(|e| Some(e.address.to_canonical()) == self.client.before);
        let draw = |bits| pick(bits, usable.len()).and_then(|i| usable.get(i)).copied();
        let first = before.copied().or_else(|| draw(first)).ok_or(Reason::NoReadyEndpoint)?;
        let second = if before.is_some() { first } else { draw(second).unwrap_or(first) };
        Ok((first, second))
    }

    /// Those that are meant for this client, if any are: by the hints, which only count if every ready
    /// endpoint has one; without hints by what the Service prefers.
    fn near(&self, ready: Vec<&'a Endpoint>) -> Vec<&'a Endpoint> {
        let Client { node, zone, .. } = self.client;
        let with = |of: fn(&Topology) -> bool| ready.iter().all(|e| e.topology.as_deref().is_some_and(of));
        let only = |is_meant: &dyn Fn(&Topology) -> bool| -> Option<Vec<&'a Endpoint>> {
            let meant = ready.iter().filter(|e| e.topology.as_deref().is_some_and(is_meant));
            Some(meant.copied().collect::<Vec<_>>()).filter(|meant| !meant.is_empty())
        };
        let has = |names: &[std::sync::Arc<str>], name: &str| names.iter().any(|n| &**n == name);
        let node_hints = with(|t| !t.for_nodes.is_empty());
        let zone_hints = with(|t| !t.for_zones.is_empty());
        if node_hints && let Some(meant) = only(&|t| has(&t.for_nodes, node)) {
            return meant;
        }
        if zone_hints {
            let meant = zone().and_then(|zone| only(&|t| has(&t.for_zones, zone)));
            return meant.unwrap_or(ready);
        }
        let prefers = self.service.traffic.near;
        if node_hints || prefers == Near::Any {
            return ready;
        }
        if prefers == Near::Node
            && let Some(meant) = only(&|t| t.node.as_deref() == Some(node))
        {
            return meant;
        }
        zone().and_then(|zone| only(&|t| t.zone.as_deref() == Some(zone))).unwrap_or(ready)
    }
}

#[cfg(test)]
mod tests;
