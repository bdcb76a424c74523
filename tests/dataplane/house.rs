//! Two nodes with agents, a pod on each, and a second one on the first.

use lark_testbed::{Agent, Controller, Mesh, Node, Pod, Testbed};

/// Fields are dropped in this order: agents before the bed.
pub(crate) struct House {
    pub(crate) one: Agent,
    pub(crate) two: Agent,
    pub(crate) controller: Controller,
    pub(crate) mesh: Mesh,
    pub(crate) client: Pod,
    pub(crate) neighbour: Pod,
    pub(crate) server: Pod,
    pub(crate) nodes: (Node, Node),
    pub(crate) bed: Testbed,
}

impl House {
    /// Everything runs, nothing is captured.
    pub(crate) fn new() -> Self {
        let mut bed = Testbed::new().unwrap();
        let (one, two) = (bed.node("one").unwrap(), bed.node("two").unwrap());
        let client = bed.pod(&one, "client").unwrap();
        let neighbour = bed.pod(&one, "neighbour").unwrap();
        let server = bed.pod(&two, "server").unwrap();
        let nodes = [&one, &two];
        let mesh = Mesh::new(&bed, &nodes, &[&client, &neighbour, &server]).unwrap();
        let controller = Controller::start(&bed, &one, &nodes, &mesh).unwrap();
        Self {
            one: Agent::start(&bed, &one, &controller, &mesh).unwrap(),
            two: Agent::start(&bed, &two, &controller, &mesh).unwrap(),
            controller,
            mesh,
            client,
            neighbour,
            server,
            nodes: (one, two),
            bed,
        }
    }

    /// Everything runs, every pod is captured.
    pub(crate) fn captured() -> Self {
        let mut house = Self::new();
        house.capture();
        house
    }

    pub(crate) fn capture(&mut self) {
        self.mesh.capture(true).unwrap();
        self.one.wait_captured(2).unwrap();
        self.two.wait_captured(1).unwrap();
    }

    /// Both agents' logs, for a failed assertion.
    pub(crate) fn logs(&self) -> String {
        format!("one:\n{}\ntwo:\n{}", self.one.process.log(), self.two.process.log())
    }

    pub(crate) fn curl(&self, url: &str) -> String {
        self.client
            .place
            .run("curl", &["-sS", "--max-time", "20", url])
            .unwrap_or_else(|e| panic!("{e:#}\n{}", self.logs()))
    }
}
