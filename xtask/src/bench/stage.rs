use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lark_testbed::{Agent, Controller, Mesh, Node, Place, Pod, Running, Testbed, eventually};
use serde_json::{Value, json};

use super::pair::{Pair, Reached};
use super::peer::{Environment, Peer, environment};

/// Port of the echo server; sink and source are on the next two.
pub(crate) const PORT: u16 = 9000;

/// User of the load client, by which a peer may redirect.
pub(crate) const CLIENT_UID: u32 = 4242;

/// From where to where the load goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// To the pod on the other node.
    Across,
    /// To a pod of the same node.
    Same,
    /// To the pod on the other node, both not captured while a third pod is.
    Beside,
    /// To a pod on the other node that is not in the mesh.
    Outside,
}

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contestant {
    Plain,
    Relay,
    Reference,
    Lark,
    /// By its place among the peers.
    Peer(usize),
}

/// How the load client meets a contestant, and whose CPU and memory count.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    /// Of the echo server or what stands for it.
    pub(crate) to: SocketAddr,
    /// Of both agents.
    pub(crate) cgroups: Vec<PathBuf>,
    /// Of both agents.
    pub(crate) processes: Vec<u32>,
}

/// What the nodes have of Lark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    /// No agent.
    Absent,
    /// Agents that have captured nothing.
    Idle,
    /// All pods of the mesh are captured.
    Captured,
    /// Only a pod that has no part in the load is captured.
    Beside,
}

/// The programs that are run.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) lark: PathBuf,
    pub(crate) load: PathBuf,
    pub(crate) relay: PathBuf,
    pub(crate) reference: PathBuf,
    pub(crate) scale: PathBuf,
}

/// Two nodes and four pods with everything on them. Fields end in this order.
#[derive(Debug)]
pub(crate) struct Stage {
    peers: Vec<Peer>,
    relay: Pair,
    relay_inside: Pair,
    reference: Pair,
    _servers: Vec<Running>,
    agents: Option<(Agent, Agent)>,
    presence: Presence,
    /// What the agents are told beside the run's own flags.
    job_flags: Vec<String>,
    controller: Controller,
    mesh: Mesh,
    pub(crate) client: Pod,
    neighbour: Pod,
    server: Pod,
    outside: Pod,
    nodes: (Node, Node),
    agent_flags: Vec<String>,
    pub(crate) bed: Testbed,
}

impl Stage {
    /// Everything but agents and peers runs.
    pub(crate) fn set_up(
        programs: &Programs,
        congestion: &str,
        agent_flags: &[String],
        peers: Vec<Peer>,
    ) -> Result<Self> {
        let mut bed = Testbed::with_lark(&programs.lark)?;
        let (one, two) = (bed.node("one")?, bed.node("two")?);
        let (client, neighbour) = (bed.pod(&one, "client")?, bed.pod(&one, "neighbour")?);
        let (server, outside) = (bed.pod(&two, "server")?, bed.pod(&two, "outside")?);
        for place in [&one.place, &two.place, &client.place, &neighbour.place, &server.place, &outside.place]
        {
            pin(place, congestion)?;
        }
        let mesh = Mesh::new(&bed, &[&one, &two], &[&client, &neighbour, &server])?;
        // Its CPU is not the agent's.
        let mut apart = one.clone();
        apart.place = bed.host_pod(&one, "controller")?.place;
        let controller = Controller::start(&bed, &apart, &[&one, &two], &mesh)?;
        let load = bed.directory().join("lark-load");
        // The client's user may not be let into the directory of the build.
        fs::copy(&programs.load, &load).context("copy lark-load")?;
        let servers = [&neighbour, &server, &outside]
            .map(|pod| serve(&bed, pod, &load, congestion))
            .into_iter()
            .collect::<Result<_>>()?;
        Ok(Self {
            relay: Pair::relay(&mut bed, &programs.relay, (&one, &client), (&two, &server))?,
            relay_inside: Pair::relay_inside(&mut bed, &programs.relay, (&one, &client), &neighbour)?,
            reference: Pair::reference(&mut bed, &programs.reference, (&one, &client), (&two, &server))?,
            peers,
            _servers: servers,
            agents: None,
            presence: Presence::Absent,
            job_flags: Vec::new(),
            controller,
            mesh,
            client,
            neighbour,
            server,
            outside,
            nodes: (one, two),
            agent_flags: agent_flags.to_vec(),
            bed,
        })
    }

    /// Gets everything ready for a contestant's turn and everybody else out of its way.
    pub(crate) fn enter(&mut self, contestant: Contestant, way: Way) -> Result<Route> {
        let ip = match way {
            Way::Across | Way::Beside => self.server.ip,
            Way::Same => self.neighbour.ip,
            Way::Outside => self.outside.ip,
        };
        let direct = Route { to: (ip, PORT).into(), cgroups: Vec::new(), processes: Vec::new() };
        match contestant {
            Contestant::Lark => {
                self.settle(if way == Way::Beside { Presence::Beside } else { Presence::Captured })?;
                let (one, two) = self.agents.as_ref().context("no agents")?;
                return Ok(Route {
                    cgroups: vec![one.node.place.cgroup.clone(), two.node.place.cgroup.clone()],
                    processes: vec![one.process.pid(), two.process.pid()],
                    ..direct
                });
            }
            // A peer may want Lark's ports; and plain is what a node without Lark does.
            Contestant::Peer(_) => self.settle(Presence::Absent)?,
            Contestant::Plain if way == Way::Beside => self.settle(Presence::Absent)?,
            _ => self.settle(if self.agents.is_some() { Presence::Idle } else { Presence::Absent })?,
        }
        let through = |reached: Reached| Route {
            to: (IpAddr::V4(Ipv4Addr::LOCALHOST), reached.port).into(),
            cgroups: reached.cgroups,
            processes: reached.processes,
        };
        match contestant {
            Contestant::Plain | Contestant::Lark => Ok(direct),
            Contestant::Relay if way == Way::Same => Ok(through(self.relay_inside.reach()?)),
            Contestant::Relay => Ok(through(self.relay.reach()?)),
            Contestant::Reference => Ok(through(self.reference.reach()?)),
            Contestant::Peer(number) => {
                let (place, environment) = self.place_of_peers()?;
                let cgroups = vec![place.cgroup.clone()];
                let peer = self.peers.get_mut(number).context("no such peer")?;
                Ok(Route { processes: peer.up(place, environment)?, cgroups, ..direct })
            }
        }
    }

    /// A cgroup for whatever a peer runs, and what its script is told. Scripts find their way into
    /// namespaces by themselves.
    fn place_of_peers(&mut self) -> Result<(Place, Environment)> {
        let mut place = self.bed.host_pod(&self.nodes.0, "peers")?.place;
        place.netns = "/proc/self/ns/net".into();
        let pods = [&self.client, &self.server].map(|pod| (&pod.place, pod.ip));
        Ok((place, environment(pods, [&self.nodes.0.place, &self.nodes.1.place])))
    }

    /// Ends a turn: a peer has everything to itself only in its own.
    pub(crate) fn leave(&mut self, contestant: Contestant) -> Result<()> {
        match contestant {
            Contestant::Peer(number) => self.peers.get_mut(number).context("no such peer")?.down(),
            _ => Ok(()),
        }
    }

    /// The contestant's processes are new ones at its next turn: for memory.
    pub(crate) fn renew(&mut self, contestant: Contestant) -> Result<()> {
        match contestant {
            Contestant::Plain | Contestant::Peer(_) => Ok(()),
            Contestant::Relay => self.relay.end(),
            Contestant::Reference => self.reference.end(),
            Contestant::Lark => self.settle(Presence::Absent),
        }
    }

    /// The relay between the nodes has these flags from now on.
    pub(crate) fn relay_with(&mut self, flags: &[&str]) -> Result<()> {
        self.relay.flags(flags)
    }

    /// Agents have these flags from now on, beside the run's own.
    pub(crate) fn agents_with(&mut self, flags: &[&str]) -> Result<()> {
        if self.job_flags != flags {
            self.settle(Presence::Absent)?;
            self.job_flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        }
        Ok(())
    }

    /// A tap that is told everything of node one, until it is dropped.
    pub(crate) fn tap(&self) -> Result<Running> {
        let (one, _) = self.agents.as_ref().context("no agents")?;
        // Its own CPU is not the agent's.
        let place = &self.outside.place;
        let mut command = place.command(&self.bed.lark()?);
        command.args(["tap", "-o", "json", "--admin-socket"]).arg(one.socket());
        place.start(command, Path::new("/dev/null"))
    }

    /// Connections so far that node one's agent secured.
    pub(crate) fn secured(&self) -> Result<u64> {
        let (one, _) = self.agents.as_ref().context("no agents")?;
        let edges = one.json("edges")?;
        let secured = |edge: &&Value| edge["secured"] == "mtls" || edge["secured"] == "same_node";
        let edges = edges.as_array().context("no edges")?;
        Ok(edges.iter().filter(secured).filter_map(|edge| edge["connections"].as_u64()).sum())
    }

    /// The agents' last words, for an error.
    pub(crate) fn last_words(&self) -> String {
        let Some((one, two)) = &self.agents else { return String::new() };
        let tail = |agent: &Agent| {
            let log = agent.process.log();
            let lines: Vec<&str> = log.lines().filter(|line| !line.contains(" access")).collect();
            lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().join("\n")
        };
        format!("agent one:\n{}\nagent two:\n{}", tail(one), tail(two))
    }

    fn settle(&mut self, presence: Presence) -> Result<()> {
        if self.presence == presence {
            return Ok(());
        }
        if presence == Presence::Absent && self.agents.is_some() {
            self.label(false, false)?;
            self.wait_captured(0, 0)?;
            if let Some((mut one, mut two)) = self.agents.take() {
                one.process.stop()?;
                two.process.stop()?;
            }
        } else if self.agents.is_none() {
            let flags: Vec<String> = self.agent_flags.iter().chain(&self.job_flags).cloned().collect();
            let start =
                |node: &Node| Agent::start_with(&self.bed, node, &self.controller, &self.mesh, &flags);
            self.agents = Some((start(&self.nodes.0)?, start(&self.nodes.1)?));
        }
        match presence {
            Presence::Absent => {}
            Presence::Idle => {
                self.label(false, false)?;
                self.wait_captured(0, 0)?;
            }
            Presence::Captured => {
                self.label(true, false)?;
                self.wait_captured(2, 1)?;
            }
            Presence::Beside => {
                self.label(false, true)?;
                self.wait_captured(1, 0)?;
            }
        }
        self.presence = presence;
        Ok(())
    }

    fn label(&mut self, all: bool, neighbour: bool) -> Result<()> {
        let labels = |on: bool| match on {
            true => json!({ lark_testbed::LABEL_CAPTURE: "enabled" }),
            false => json!({}),
        };
        self.mesh.change(|document| {
            document["namespaces"][0]["labels"] = labels(all);
            for workload in document["workloads"].as_array_mut().into_iter().flatten() {
                workload["labels"] = labels(neighbour && workload["name"] == "neighbour");
            }
        })
    }

    fn wait_captured(&self, one: u64, two: u64) -> Result<()> {
        let agents = self.agents.as_ref().context("no agents")?;
        agents.0.wait_captured(one)?;
        agents.1.wait_captured(two)
    }
}

/// Congestion control for every socket of a namespace, and ports enough for many short connections.
fn pin(place: &Place, congestion: &str) -> Result<()> {
    let settings = [
        format!("net.ipv4.tcp_congestion_control={congestion}"),
        "net.ipv4.ip_local_port_range=30000 65535".to_owned(),
        "net.ipv4.tcp_tw_reuse=1".to_owned(),
    ];
    let mut arguments = vec!["-qw"];
    arguments.extend(settings.iter().map(String::as_str));
    place.run("sysctl", &arguments).map(|_| ())
}

fn serve(bed: &Testbed, pod: &Pod, load: &Path, congestion: &str) -> Result<Running> {
    let mut command = pod.place.command(load);
    command.args(["--congestion", congestion, "serve", "--port", &PORT.to_string()]);
    let mut server = pod.place.start(command, &bed.directory().join(format!("serve-{}.log", pod.name)))?;
    let probe = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)).to_string();
    eventually(Duration::from_secs(10), "the load server answers", || {
        if !server.is_running() {
            bail!("the load server ended: {}", server.log());
        }
        let arguments = ["--congestion", congestion, "connect", &probe, "--seconds", "0.001"];
        Ok(pod.place.output(&load.to_string_lossy(), &arguments)?.status.success())
    })?;
    Ok(server)
}
