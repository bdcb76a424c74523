//! Two nodes with agents, a pod on each, and a second one on the first.

use std::net::IpAddr;

use lark_testbed::{Agent, Checked, Controller, Echo, Load, Mesh, Node, Place, Pod, Testbed, TwoNodes};

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
        Self::with(&[])
    }

    /// The same, with flags for both agents.
    pub(crate) fn with(flags: &[&str]) -> Self {
        Self::on(Testbed::new().unwrap(), flags)
    }

    /// The same, on an empty bed.
    pub(crate) fn on(mut bed: Testbed, flags: &[&str]) -> Self {
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let (one, two) = (bed.node("one").unwrap(), bed.node("two").unwrap());
        let client = bed.pod(&one, "client").unwrap();
        let neighbour = bed.pod(&one, "neighbour").unwrap();
        let server = bed.pod(&two, "server").unwrap();
        let pods = [&client, &neighbour, &server];
        let TwoNodes { one, two, controller, mesh, nodes, bed } =
            TwoNodes::start(bed, (one, two), &pods, &flags).unwrap();
        Self { one, two, controller, mesh, client, neighbour, server, nodes, bed }
    }

    /// Everything runs, every pod is captured.
    pub(crate) fn captured() -> Self {
        Self::captured_with(&[])
    }

    /// The same, with flags for both agents.
    pub(crate) fn captured_with(flags: &[&str]) -> Self {
        let mut house = Self::with(flags);
        house.capture();
        house
    }

    pub(crate) fn capture(&mut self) {
        self.mesh.capture(true).unwrap();
        self.one.wait_captured(2).unwrap();
        self.two.wait_captured(1).unwrap();
    }

    /// An echo server in pod server.
    pub(crate) fn echo(&self) -> Echo {
        Echo::start(&self.bed, &self.server).unwrap()
    }

    /// Traffic from pod client to it, whose every byte is compared; it flows already.
    pub(crate) fn traffic(&self, load: Load) -> Checked {
        let traffic = Checked::start(&self.bed, &self.client, self.server.ip, load).unwrap();
        traffic.flows(10).unwrap_or_else(|e| panic!("{e:#}\n{}", self.logs()));
        traffic
    }

    /// Whether `lark check` finds nothing wrong with an agent; what it says otherwise.
    pub(crate) fn checks(agent: &Agent) -> Result<(), String> {
        let check = agent.lark(&["check"]).unwrap();
        let said = String::from_utf8_lossy(&check.stdout).into_owned();
        if check.status.success() { Ok(()) } else { Err(said) }
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

/// A metric of the second node's agent.
pub(crate) fn metric(house: &House, series: &str) -> u64 {
    let url = format!("http://{}:15020/metrics", house.nodes.1.ip);
    let text = house.nodes.1.place.run("curl", &["-sS", "--max-time", "10", &url]).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no series {series}")).parse().unwrap()
}

/// Connects, waits for a byte or the end, and says what came.
const FATE: &str = r"
import socket, sys
host, port, device = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET)
if device: s.setsockopt(socket.SOL_SOCKET, 25, device[0].encode())  # SO_BINDTODEVICE
s.settimeout(30)
try:
    s.connect((host, port))
    print('bytes' if s.recv(1) else 'end')
except ConnectionRefusedError: print('refused')
except ConnectionResetError: print('reset')
";

/// What becomes of a connect from there: `refused`, `reset`, `end` or `bytes`. By default of no device.
pub(crate) fn fate(from: &Place, to: IpAddr, port: u16, device: Option<&str>) -> String {
    let (to, port) = (to.to_string(), port.to_string());
    let mut arguments = vec!["-c", FATE, &to, &port];
    arguments.extend(device);
    from.run("python3", &arguments).unwrap().trim().to_owned()
}
