//! Queries that can be asked of this node's agent or of all nodes.

use std::path::PathBuf;

use clap::Args;
use hyper::Method;
use lark_core::constants::CONTROLLER_SOCKET;
use lark_core::view::NodeAnswer;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Query, client, output};

/// A query of this node's agent, or of the agents of all nodes.
#[derive(Debug, Clone, Args)]
pub struct ClusterQuery {
    /// Where this node's agent is asked.
    #[command(flatten)]
    pub query: Query,
    /// Ask the agents of all nodes, through the controller.
    ///
    /// Default: off, and this node's agent is asked. To be run where the controller is, in a cluster by `kubectl exec` in its
    /// pod. Nodes that give no answer are named with the reason; -o json has `node` and `answer` or `missing`.
    #[arg(long)]
    pub cluster: bool,
    /// Unix socket of the controller's admin API, for --cluster.
    ///
    /// Default /run/lark-controller/controller.sock. Only root or the controller's own user may open it.
    #[arg(long, env = "LARK_CONTROLLER_SOCKET", value_name = "PATH", default_value = CONTROLLER_SOCKET)]
    pub controller_socket: PathBuf,
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
    if args.cluster {
        let at = format!("/v1/cluster/{path}");
        let answer = client::controller(&args.controller_socket, Method::GET, &at).await?;
        return Ok(Told::Everywhere(answer.json()?));
    }
    Ok(Told::Here(client::get(&args.query.admin_socket, &format!("/v1/{path}")).await?))
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
    let mut text = table.render();
    for node in all {
        if let Some(why) = &node.missing {
            text.push_str(&format!("✗ {}: {}\n", node.node, output::plain(why)));
        }
    }
    text
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
