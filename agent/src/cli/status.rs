//! `lark status`.

use std::process::ExitCode;

use lark_core::view::Status;

use super::cluster::{ClusterQuery, Told, ask};
use super::output;

pub(super) async fn run(args: &ClusterQuery) -> anyhow::Result<ExitCode> {
    let status: Told<Status> = ask(args, "status").await?;
    status.print(args, table, &["VERSION", "READY", "UP", "PODS", "CONNECTIONS", "DISCOVERY"], |s| {
        vec![vec![
            s.version.clone(),
            ready(s),
            output::age(s.uptime_seconds),
            pods(s),
            connections(s),
            discovery(s),
        ]]
    })?;
    Ok(ExitCode::SUCCESS)
}

fn ready(s: &Status) -> String {
    if s.ready { "yes" } else { "no" }.to_owned()
}

fn pods(s: &Status) -> String {
    let pods: Vec<String> = s.pods.iter().map(|p| format!("{} {}", p.count, p.state)).collect();
    output::or_dash(&pods.join(", "))
}

/// What counts those of all namespaces is not told to everybody.
fn connections(s: &Status) -> String {
    if s.withheld { "-".to_owned() } else { s.connections_open.to_string() }
}

fn discovery(s: &Status) -> String {
    match &s.discovery_error {
        None => format!("generation {}, current", s.discovery_generation),
        Some(error) => format!("generation {}, NOT CURRENT: {error}", s.discovery_generation),
    }
}

fn table(s: &Status) -> String {
    let mut table = output::Table::default();
    for (name, value) in [
        ("node", s.node.clone()),
        ("version", s.version.clone()),
        ("ready", ready(s)),
        ("up", output::age(s.uptime_seconds)),
        ("trust domain", s.trust_domain.clone()),
        ("discovery", discovery(s)),
        ("pods", pods(s)),
        ("connections", connections(s)),
        ("workers", s.workers.to_string()),
        ("TLS records", output::or_dash(&s.records)),
        ("CA", s.ca_url.clone()),
    ] {
        table.row(vec![name.to_owned(), value]);
    }
    for agent in &s.draining {
        let whose = format!("process {}, version {}", agent.process, agent.version);
        let held = format!(
            "{whose}: {} connections may finish within {}",
            agent.connections_open,
            output::age(agent.ends_in_seconds)
        );
        table.row(vec!["draining".to_owned(), held]);
    }
    table.render()
}
