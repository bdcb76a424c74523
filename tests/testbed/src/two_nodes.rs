//! What most stories begin with: two nodes on a wire, a controller, and an agent on each.

use anyhow::Result;

use crate::agents::{Agent, Controller};
use crate::bed::{Node, Pod, Testbed};
use crate::mesh::Mesh;

/// Two nodes with their agents; nothing is captured yet. Fields end in this order: agents before the bed.
#[derive(Debug)]
pub struct TwoNodes {
    /// The first node's agent.
    pub one: Agent,
    /// The second node's agent.
    pub two: Agent,
    /// The controller, on the first node.
    pub controller: Controller,
    /// Discovery, of these nodes and the pods that were given.
    pub mesh: Mesh,
    /// The nodes.
    pub nodes: (Node, Node),
    /// What they are made in.
    pub bed: Testbed,
}

impl TwoNodes {
    /// Starts everything for nodes and pods of that bed, the agents with flags of the caller's.
    ///
    /// # Errors
    /// When something does not come up; with its log.
    pub fn start(bed: Testbed, nodes: (Node, Node), pods: &[&Pod], flags: &[String]) -> Result<Self> {
        let both = [&nodes.0, &nodes.1];
        let mesh = Mesh::new(&bed, &both, pods)?;
        let controller = Controller::start(&bed, &nodes.0, &both, &mesh)?;
        let one = Agent::start_with(&bed, &nodes.0, &controller, &mesh, flags)?;
        let two = Agent::start_with(&bed, &nodes.1, &controller, &mesh, flags)?;
        Ok(Self { one, two, controller, mesh, nodes, bed })
    }
}
