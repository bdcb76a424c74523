//! Queries that can be asked of this node's agent or of all nodes.

use std::path::PathBuf;

use clap::Args;
use hyper::Method;
use lark_core::constants::{CONTROLLER_SOCKET, SYSTEM_NAMESPACE};
use lark_core::view::NodeAnswer;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::client::Answer;
use super::{Query, client, output};
use crate::reach;

/// A query of this node's agent, or of the agents of all nodes.
#[derive(Debug, Clone, Args)]
pub struct ClusterQuery {
    /// Where this node's agent is asked.
    #[command(flatten)]
    pub query: Query,
    /// Ask the agents of all nodes, through the controller.
    ///
    /// Default: off, and this node's agent is asked. From a laptop, or anywhere: the cluster of the kubeconfig is asked, by
    /// port-forward to the controller; who may not do that is told what concerns the namespaces in which he may get pods.
    /// In the controller's pod and on plain hosts its socket is asked. Nodes that give no answer are named with the reason;
    /// -o json has `node` and `answer` or `missing`.
    #[arg(long)]
    pub cluster: bool,
    /// Kubeconfig that leads to the cluster, for --cluster.
    ///
    /// Default: the files of KUBECONFIG, ~/.kube/config, or the account of the pod that this runs in.
    #[arg(long, value_name = "FILE", requires = "cluster")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig, for --cluster.
    ///
    /// Default: its current one.
    #[arg(long, value_name = "NAME", requires = "cluster")]
    pub context: Option<String>,
    /// Namespace that Lark is installed in, for --cluster.
    ///
    /// Default lark-system.
    #[arg(long, env = "LARK_NAMESPACE", value_name = "NAME", default_value = SYSTEM_NAMESPACE)]
    pub lark_namespace: String,
    /// Unix socket of the controller's admin API, for --cluster.
    ///
    /// Default /run/lark-controller/controller.sock if it is there and neither --kubeconfig nor --context is given; else the
    /// kubeconfig's cluster is asked. Only root or the controller's own user may open it.
    #[arg(long, env = "LARK_CONTROLLER_SOCKET", value_name = "PATH")]
    pub controller_socket: Option<PathBuf>,
}

/// The way to the controller.
pub(crate) enum Controller {
    /// On this machine.
    Socket(PathBuf),
    /// In a cluster.
    Cluster(Box<reach::Controller>),
}

impl Controller {
    /// As the flags say.
    ///
    /// # Errors
    /// When there is no kubeconfig, or it cannot be used.
    pub(crate) async fn open(args: &ClusterQuery) -> anyhow::Result<Self> {
        let here = PathBuf::from(CONTROLLER_SOCKET);
        let is_named = args.kubeconfig.is_some() || args.context.is_some();
        let socket = args.controller_socket.clone().or_else(|| here.exists().then_some(here));
        if let Some(socket) = socket.filter(|_| !is_named) {
            return Ok(Self::Socket(socket));
        }
        let at = reach::Where {
            kubeconfig: args.kubeconfig.clone(),
            context: args.context.clone(),
            namespace: args.lark_namespace.clone(),
        };
        Ok(Self::Cluster(Box::new(reach::Controller::new(at, client::ANSWER_MAX).await?)))
    }

    /// What all nodes answer to `path`, a verb of the agents' admin API.
    ///
    /// # Errors
    /// When the controller does not answer, or refuses.
    pub(crate) async fn ask(&self, path: &str) -> anyhow::Result<Answer> {
        let at = format!("/v1/cluster/{path}");
        match self {
            Self::Socket(socket) => client::controller(socket, Method::GET, &at).await,
            Self::Cluster(controller) => {
                let (status, body) = controller.get(&at).await?;
                client::told(&at, status, body)
            }
        }
    }
}

/// What was answered.
pub(super) enum Told<T> {
    /// By this node's agent.
    Here(T),
    /// By each node.
    Everywhere(Vec<NodeAnswer<T>>),
}

/// Asks as the flags say for `path`, a verb of the agents' admin API.
pub(super) async fn ask<T: DeserializeOwned>(args: &ClusterQuery, path: &str) -> anyhow::Result<Told<T>> {
    Asked::open(args).await?.ask(path).await
}

/// Whoever is asked, once or again and again.
pub(super) enum Asked {
    /// This node's agent.
    Here(PathBuf),
    /// All agents.
    Everywhere(Controller),
}

impl Asked {
    /// As the flags say.
    pub(super) async fn open(args: &ClusterQuery) -> anyhow::Result<Self> {
        Ok(match args.cluster {
            true => Self::Everywhere(Controller::open(args).await?),
            false => Self::Here(args.query.admin_socket.clone()),
        })
    }

    /// What it answers to `path`, a verb of the agents' admin API.
    pub(super) async fn ask<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<Told<T>> {
        Ok(match self {
            Self::Here(socket) => Told::Here(client::get(socket, &format!("/v1/{path}")).await?),
            Self::Everywhere(controller) => Told::Everywhere(controller.ask(path).await?.json()?),
        })
    }
}

impl<T> Told<T> {
    /// Without nodes that gave no answer if there is one: of a question to one node that is asked of all.
    pub(super) fn of_those_concerned(self) -> Self {
        match self {
            Self::Everywhere(mut all) if all.iter().any(|node| node.answer.is_some()) => {
                all.retain(|node| node.answer.is_some());
                Self::Everywhere(all)
            }
            other => other,
        }
    }

    /// Whether every node answered.
    pub(super) fn is_whole(&self) -> bool {
        match self {
            Self::Here(_) => true,
            Self::Everywhere(all) => all.iter().all(|node| node.answer.is_some()),
        }
    }

    /// All answers.
    pub(super) fn answers(&self) -> impl Iterator<Item = &T> {
        let (here, everywhere) = match self {
            Self::Here(answer) => (Some(answer), [].as_slice()),
            Self::Everywhere(all) => (None, all.as_slice()),
        };
        here.into_iter().chain(everywhere.iter().filter_map(|node| node.answer.as_ref()))
    }
}

impl<T: Serialize> Told<T> {
    /// Prints it: `here` makes the table of one answer, `rows` the rows of one among many below `head`. What is
    /// missing is said below the table, and on standard error for programs.
    pub(super) fn print(
        &self,
        args: &ClusterQuery,
        here: impl FnOnce(&T) -> String,
        head: &[&str],
        rows: impl Fn(&T) -> Vec<Vec<String>>,
    ) -> anyhow::Result<()> {
        match self {
            Self::Here(answer) => output::print(answer, args.query.output, here),
            Self::Everywhere(all) => {
                output::print(all, args.query.output, |all| table(all, head, rows))?;
                let missing: Vec<&str> =
                    all.iter().filter(|n| n.answer.is_none()).map(|n| n.node.as_str()).collect();
                if !missing.is_empty() {
                    let (count, of) = (missing.len(), all.len());
                    output::aside(&format!("{count} of {of} nodes gave no answer: {}", missing.join(", ")));
                }
                Ok(())
            }
        }
    }
}

impl<T: Serialize> Told<Vec<T>> {
    /// Keeps the items of which this holds.
    pub(super) fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        match self {
            Self::Here(all) => all.retain(keep),
            Self::Everywhere(nodes) => {
                nodes.iter_mut().filter_map(|node| node.answer.as_mut()).for_each(|all| all.retain(&keep));
            }
        }
    }

    /// Prints lists: `row` makes a row of each item below `head`.
    pub(super) fn print_list(
        &self,
        args: &ClusterQuery,
        head: &[&str],
        row: impl Fn(&T) -> Vec<String>,
    ) -> anyhow::Result<()> {
        let here = |all: &Vec<T>| {
            let mut table = output::Table::new(head);
            all.iter().for_each(|item| table.row(row(item)));
            table.render()
        };
        self.print(args, here, head, |all| all.iter().map(&row).collect())
    }
}

fn table<T>(all: &[NodeAnswer<T>], head: &[&str], rows: impl Fn(&T) -> Vec<Vec<String>>) -> String {
    let mut table = output::Table::new(&[&["NODE"], head].concat());
    for node in all {
        for mut row in node.answer.as_ref().map(&rows).unwrap_or_default() {
            row.insert(0, node.node.clone());
            table.row(row);
        }
    }
    table.render() + &missing(all)
}

/// A line for each node that said nothing.
pub(super) fn missing<T>(all: &[NodeAnswer<T>]) -> String {
    let of = |node: &NodeAnswer<T>| {
        let why = node.missing.as_ref()?;
        Some(format!("✗ {}: {}\n", node.node, output::plain(why)))
    };
    all.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_stands_below_what_was_said() {
        let all = [
            NodeAnswer::new("one", Ok(vec!["a", "b\x07"])),
            NodeAnswer::new("two", Err("it \x1b[2Jsleeps".to_owned())),
        ];
        let rows = |answer: &Vec<&str>| answer.iter().map(|&a| vec![a.to_owned()]).collect();
        assert_eq!(
            table(&all, &["WHAT"], rows),
            "NODE   WHAT\none    a\none    b\u{fffd}\n✗ two: it \u{fffd}[2Jsleeps\n"
        );
        let told = Told::Everywhere(all.to_vec());
        assert!(!told.is_whole() && told.answers().count() == 1);
    }
}
