//! The `lark` binary in its roles.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::bed::{Node, Testbed};
use crate::mesh::Mesh;
use crate::place::{Running, eventually};

const READY: Duration = Duration::from_secs(30);

/// The binary: LARK_BIN, or the one beside this program's target directory.
///
/// # Errors
/// When there is none; with what to do.
pub fn lark_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("LARK_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    own.ancestors()
        .skip(1)
        .map(|directory| directory.join("lark"))
        .find(|path| path.is_file())
        .context("there is no lark binary; build it with `cargo build --package lark`, or set LARK_BIN")
}

/// A running controller, on the first node.
#[derive(Debug)]
pub struct Controller {
    /// The process.
    pub process: Running,
    url: String,
    root: PathBuf,
    home: PathBuf,
    lark: PathBuf,
}

impl Controller {
    /// Starts one on `node`, with a token for each of `nodes`.
    ///
    /// # Errors
    /// When it does not come up; with its log.
    pub fn start(bed: &Testbed, node: &Node, nodes: &[&Node], mesh: &Mesh) -> Result<Self> {
        Self::start_with(bed, node, nodes, mesh, &[])
    }

    /// As [`Self::start`], with flags of the caller's.
    ///
    /// # Errors
    /// When it does not come up; with its log.
    pub fn start_with(
        bed: &Testbed,
        node: &Node,
        nodes: &[&Node],
        mesh: &Mesh,
        flags: &[String],
    ) -> Result<Self> {
        let home = bed.directory().join("controller");
        std::fs::create_dir_all(&home)?;
        let mut tokens = String::new();
        for member in nodes {
            let token = home.join(format!("token-{}", member.name));
            if !token.exists() {
                let lark = bed.lark()?;
                let output = std::process::Command::new(lark)
                    .args(["token", "--node", &member.name, "--out"])
                    .arg(&token)
                    .output()?;
                tokens.push_str(&String::from_utf8(output.stdout)?);
            }
        }
        if !tokens.is_empty() {
            std::fs::write(home.join("tokens"), tokens)?;
        }
        let listen = format!("{}:15012", node.ip);
        let mut command = node.place.command(bed.lark()?);
        command
            .arg("controller")
            .arg(format!("--discovery={}", mesh.source()))
            .arg("--data-dir")
            .arg(&home)
            .args(["--listen", &listen, "--controller-socket"])
            .arg(home.join("controller.sock"))
            .args(flags);
        if !flags.iter().any(|flag| flag.starts_with("--agent-account")) {
            command.arg("--join-tokens").arg(home.join("tokens"));
        }
        let process = node.place.start(command, &home.join("log"))?;
        // Agents begin with the root of the first start, as it was brought to them.
        let (url, root) = (format!("https://{listen}"), bed.directory().join("root.pem"));
        let mut controller = Self { process, url, root, home, lark: bed.lark()? };
        eventually(READY, "the controller serves", || {
            if !controller.process.is_running() {
                bail!("the controller ended: {}", controller.process.log());
            }
            Ok(controller.process.log().contains("controller serves the CA API"))
        })?;
        // One that keeps its state in a cluster has no such file.
        let first = controller.home.join("root.pem");
        if !controller.root.exists() && first.exists() {
            std::fs::copy(first, &controller.root)?;
        }
        Ok(controller)
    }

    /// Its data directory.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// `lark ca` with these arguments, not yet started.
    pub fn ca(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(&self.lark);
        command.arg("ca").args(arguments).arg("--controller-socket").arg(self.home.join("controller.sock"));
        command
    }

    /// A query of all nodes, through this controller.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn lark(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = std::process::Command::new(&self.lark);
        command.args(arguments).arg("--cluster").arg("--controller-socket");
        Ok(command.arg(self.home.join("controller.sock")).output()?)
    }

    /// The value that `lark ca status` tells.
    ///
    /// # Errors
    /// When the controller does not answer.
    pub fn ca_status(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&self.ca(&["status", "-o", "json"]).output()?.stdout)?)
    }
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    /// The process.
    pub process: Running,
    /// The node it serves.
    pub node: Node,
    socket: PathBuf,
    lark: PathBuf,
    upgrades: u32,
}

impl Agent {
    /// The command that starts the agent of a node.
    ///
    /// # Errors
    /// When there is no binary.
    pub fn command(
        bed: &Testbed,
        node: &Node,
        controller: &Controller,
        mesh: &Mesh,
    ) -> Result<std::process::Command> {
        let mut command = node.place.command(bed.lark()?);
        command
            .args(["agent", "--node", &node.name])
            .arg(format!("--discovery={}", mesh.source()))
            .args(["--ca-url", &controller.url])
            .arg("--ca-root")
            .arg(&controller.root)
            .arg("--token-file")
            .arg(controller.home.join(format!("token-{}", node.name)))
            .arg("--state-dir")
            .arg(bed.directory().join(format!("agent-{}", node.name)).join("state"))
            .arg("--admin-socket")
            .arg(Self::socket_of(bed, node))
            .arg("--pin-root")
            .arg(bed.pins(node))
            .args(["--destinations-max", "4096", "--log", "info,lark_tunnel=debug"]);
        Ok(command)
    }

    fn socket_of(bed: &Testbed, node: &Node) -> PathBuf {
        bed.directory().join(format!("agent-{}", node.name)).join("admin.sock")
    }

    /// Starts the agent of a node and waits until it is ready.
    ///
    /// # Errors
    /// When it does not get ready; with its log.
    pub fn start(bed: &Testbed, node: &Node, controller: &Controller, mesh: &Mesh) -> Result<Self> {
        Self::start_with(bed, node, controller, mesh, &[])
    }

    /// As [`Self::start`], with flags of the caller's; of a flag given twice the last counts.
    ///
    /// # Errors
    /// When it does not get ready; with its log.
    pub fn start_with(
        bed: &Testbed,
        node: &Node,
        controller: &Controller,
        mesh: &Mesh,
        flags: &[String],
    ) -> Result<Self> {
        Self::start_until(bed, node, controller, mesh, flags, |status| status["ready"] == true)
    }

    /// As [`Self::start`], but waits only until it answers: what it is to capture may be pending.
    ///
    /// # Errors
    /// When it does not answer; with its log.
    pub fn start_pending(bed: &Testbed, node: &Node, controller: &Controller, mesh: &Mesh) -> Result<Self> {
        Self::start_until(bed, node, controller, mesh, &[], |_status| true)
    }

    fn start_until(
        bed: &Testbed,
        node: &Node,
        controller: &Controller,
        mesh: &Mesh,
        flags: &[String],
        is_enough: impl Fn(&Value) -> bool,
    ) -> Result<Self> {
        let log = bed.directory().join(format!("agent-{}.log", node.name));
        let mut command = Self::command(bed, node, controller, mesh)?;
        command.args(flags);
        let process = node.place.start(command, &log)?;
        let (socket, lark) = (Self::socket_of(bed, node), bed.lark()?);
        let mut agent = Self { process, node: node.clone(), socket, lark, upgrades: 0 };
        eventually(READY, "the agent is ready", || {
            if !agent.process.is_running() {
                bail!("the agent of {} ended: {}", agent.node.name, agent.process.log());
            }
            Ok(agent.json("status").is_ok_and(|status| is_enough(&status)))
        })
        .with_context(|| format!("log of the agent: {}", agent.process.log()))?;
        Ok(agent)
    }

    /// Starts another agent that takes over from this one, and waits until this one has ended in order.
    ///
    /// # Errors
    /// When either does not do so; with both logs.
    pub fn upgrade(&mut self, bed: &Testbed, controller: &Controller, mesh: &Mesh) -> Result<()> {
        let mut old = self.succeed(bed, controller, mesh, &[])?;
        eventually(READY, "the old agent has ended", || Ok(!old.is_running()))
            .with_context(|| format!("old:\n{}\nnew:\n{}", old.log(), self.process.log()))
    }

    /// Starts another agent, with flags of the caller's, that takes over from this one; returns the old
    /// process, which may still drain.
    ///
    /// # Errors
    /// When the new one does not take over; with both logs.
    pub fn succeed(
        &mut self,
        bed: &Testbed,
        controller: &Controller,
        mesh: &Mesh,
        flags: &[String],
    ) -> Result<Running> {
        self.upgrades += 1;
        let log = bed.directory().join(format!("agent-{}-{}.log", self.node.name, self.upgrades));
        let mut command = Self::command(bed, &self.node, controller, mesh)?;
        command.arg("--take-over").args(flags);
        let mut new = self.node.place.start(command, &log)?;
        eventually(READY, "the new agent has taken over", || {
            if !new.is_running() {
                bail!("the new agent ended");
            }
            Ok(new.log().contains("agent runs"))
        })
        .with_context(|| format!("old:\n{}\nnew:\n{}", self.process.log(), new.log()))?;
        Ok(std::mem::replace(&mut self.process, new))
    }

    /// Its admin socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Runs a query verb against this agent.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn lark(&self, arguments: &[&str]) -> Result<Output> {
        Ok(std::process::Command::new(&self.lark)
            .args(arguments)
            .arg("--admin-socket")
            .arg(&self.socket)
            .output()?)
    }

    /// A query's table.
    ///
    /// # Errors
    /// When it fails.
    pub fn table(&self, arguments: &[&str]) -> Result<String> {
        let output = self.lark(arguments)?;
        if !output.status.success() {
            bail!("lark {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A query's value.
    ///
    /// # Errors
    /// When it fails.
    pub fn json(&self, verb: &str) -> Result<Value> {
        Ok(serde_json::from_slice(&self.lark(&[verb, "-o", "json"])?.stdout)?)
    }

    /// Waits until that many pods of the node are captured.
    ///
    /// # Errors
    /// When they are not; with what the agent says of them.
    pub fn wait_captured(&self, count: u64) -> Result<()> {
        let captured = |status: &Value| {
            status["pods"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|p| p["state"] == "captured")
                .map_or(0, |p| p["count"].as_u64().unwrap_or(0))
        };
        eventually(READY, "pods are captured", || Ok(captured(&self.json("status")?) == count)).with_context(
            || format!("{}\n{}", self.table(&["workloads"]).unwrap_or_default(), self.process.log()),
        )
    }

    /// A counter of the kernel's hooks.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn kernel_counter(&self, event: &str) -> Result<u64> {
        let bpf = self.json("bpf")?;
        let counters = bpf["counters"].as_array().context("no counters")?;
        counters
            .iter()
            .find(|c| c["event"] == event)
            .and_then(|c| c["count"].as_u64())
            .context("no such counter")
    }
}
