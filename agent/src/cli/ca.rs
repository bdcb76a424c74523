//! `lark ca`: the roots of the mesh, asked of the controller on its machine.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use hyper::Method;
use lark_core::constants::CONTROLLER_SOCKET;
use lark_core::view::CaView;

use super::client::controller;
use super::{Format, output};
use crate::controller::InitArgs;

/// How often a rotation is looked at while it is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Flags of `lark ca`.
#[derive(Debug, Clone, Args)]
pub struct CaArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: CaVerb,
}

/// The verbs of `lark ca`.
#[derive(Debug, Clone, Subcommand)]
pub enum CaVerb {
    /// Make a CA before the controller first runs.
    Init(InitArgs),
    /// Show the roots, how far their rotation is, and which node holds what.
    Status(StatusArgs),
    /// Replace the root: no restart, no connection lost.
    Rotate(RotateArgs),
    /// Print the roots that are trusted now, as PEM.
    Export(ExportArgs),
}

/// Where the controller is asked.
#[derive(Debug, Clone, Args)]
pub struct Socket {
    /// Unix socket of the controller's admin API.
    ///
    /// Default /run/lark-controller/controller.sock. Only root of its machine may open it.
    #[arg(long, env = "LARK_CONTROLLER_SOCKET", value_name = "PATH", default_value = CONTROLLER_SOCKET)]
    pub controller_socket: PathBuf,
}

/// Flags of `lark ca status`.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// Where the controller is asked.
    #[command(flatten)]
    pub socket: Socket,
    /// How to print: table, json or yaml.
    ///
    /// Default table. The fields of json and yaml are stable; tables are for people.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// Flags of `lark ca rotate`.
#[derive(Debug, Clone, Args)]
pub struct RotateArgs {
    /// Where the controller is asked.
    #[command(flatten)]
    pub socket: Socket,
    /// Take the rotation under way back.
    ///
    /// Default: off, and a rotation begins. Possible until the old root is withdrawn. A CA that is yours (--ca-cert,
    /// --ca-secret) and stays where it is begins no other rotation by itself then: `lark ca rotate` does, or another CA
    /// in its place.
    #[arg(long, conflicts_with = "without")]
    pub abort: bool,
    /// Go on without this node, as long as it says nothing; may be repeated.
    ///
    /// Default: none, and a silent node is waited for until its certificates have expired. If it comes back
    /// after the old root is withdrawn, it may need the new root.pem.
    #[arg(long, value_name = "NODE")]
    pub without: Vec<String>,
    /// Do not wait for the end.
    ///
    /// Default: off, and phases are printed until the rotation has ended. It goes on in the controller in
    /// any case, also if this command is interrupted.
    #[arg(long)]
    pub no_wait: bool,
}

/// Flags of `lark ca export`.
#[derive(Debug, Clone, Args)]
pub struct ExportArgs {
    /// Where the controller is asked.
    #[command(flatten)]
    pub socket: Socket,
}

pub(super) async fn run(args: &CaArgs) -> anyhow::Result<ExitCode> {
    match &args.verb {
        CaVerb::Init(_) => anyhow::bail!("not a query"),
        CaVerb::Status(args) => {
            let view = controller(&args.socket.controller_socket, Method::GET, "/v1/ca").await?.json()?;
            output::print(&view, args.output, table)?;
        }
        CaVerb::Rotate(args) => rotate(args).await?,
        CaVerb::Export(args) => {
            let roots = controller(&args.socket.controller_socket, Method::GET, "/v1/ca/roots").await?;
            output::write(&roots.body)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn rotate(args: &RotateArgs) -> anyhow::Result<()> {
    let socket = &args.socket.controller_socket;
    let mut view: CaView = if args.abort {
        controller(socket, Method::POST, "/v1/ca/abort").await?.json()?
    } else if args.without.is_empty() {
        controller(socket, Method::POST, "/v1/ca/rotate").await?.json()?
    } else {
        let mut last = None;
        for node in &args.without {
            let path = format!("/v1/ca/without?node={node}");
            last = Some(controller(socket, Method::POST, &path).await?.json()?);
        }
        match last {
            Some(view) => view,
            None => return Ok(()),
        }
    };
    let mut told = Vec::new();
    loop {
        let news = progress(&view);
        if news != told {
            output::write(format!("{}\n", news.join("\n")).as_bytes())?;
            told = news;
        }
        if args.no_wait || view.phase == "steady" {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
        view = controller(socket, Method::GET, "/v1/ca").await?.json()?;
    }
}

/// The phase, and the nodes that it waits for; not the seconds, which change all the time.
fn progress(view: &CaView) -> Vec<String> {
    let mut lines = vec![format!("{}: {}", view.phase, view.meaning)];
    for node in view.nodes.iter().filter(|node| node.waits_for.is_some()) {
        let silent = node.heard.is_none_or(|seconds| seconds >= 30);
        let why = if silent { "it says nothing; see `lark ca status`" } else { "it has not followed yet" };
        lines.push(format!("  waits for {}: {why}", node.name));
    }
    lines
}

fn short(id: &str) -> String {
    id.chars().take(16).collect()
}

fn table(view: &CaView) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let mut head = output::Table::default();
    for (name, value) in [
        ("trust domain", view.trust_domain.clone()),
        ("phase", format!("{}: {}", view.phase, view.meaning)),
        ("since", format!("{} (change {})", output::age(now.saturating_sub(view.since)), view.epoch)),
    ] {
        head.row(vec![name.to_owned(), value]);
    }
    for waits in &view.waits_for {
        head.row(vec!["waits for".to_owned(), waits.clone()]);
    }
    let mut roots = output::Table::new(&["ROOT", "DOES", "EXPIRES IN", "KEY"]);
    for root in &view.roots {
        let left = root.expires_at.map(|at| output::age(at.saturating_sub(now)));
        roots.row(vec![
            short(&root.id),
            output::or_dash(&root.roles.join(", ")),
            output::or_dash(&left.unwrap_or_default()),
            if root.key { "here" } else { "-" }.to_owned(),
        ]);
    }
    let list =
        |ids: &[String]| output::or_dash(&ids.iter().map(|id| short(id)).collect::<Vec<_>>().join(" "));
    let mut nodes =
        output::Table::new(&["NODE", "HEARD", "VERSION", "TRUSTS", "CERTIFICATES OF", "WAITED FOR"]);
    for node in &view.nodes {
        nodes.row(vec![
            node.name.clone(),
            node.heard.map_or_else(|| "never".to_owned(), |seconds| format!("{} ago", output::age(seconds))),
            output::or_dash(node.version.as_deref().unwrap_or_default()),
            list(&node.roots),
            list(&node.svids),
            output::or_dash(node.waits_for.as_deref().unwrap_or_default()),
        ]);
    }
    format!("{}\n{}\n{}", head.render(), roots.render(), nodes.render())
}
