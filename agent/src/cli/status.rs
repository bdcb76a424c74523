//! `lark status`.

use std::process::ExitCode;

use lark_core::view::Status;

use super::{Query, client, output};

pub(super) async fn run(query: &Query) -> anyhow::Result<ExitCode> {
    let status: Status = client::get(&query.admin_socket, "/v1/status").await?;
    output::print(&status, query.output, |s| {
        let mut table = output::Table::default();
        let pods: Vec<String> = s.pods.iter().map(|p| format!("{} {}", p.count, p.state)).collect();
        let discovery = match &s.discovery_error {
            None => format!("generation {}, current", s.discovery_generation),
            Some(error) => format!("generation {}, NOT CURRENT: {error}", s.discovery_generation),
        };
        for (name, value) in [
            ("node", s.node.clone()),
            ("version", s.version.clone()),
            ("ready", if s.ready { "yes" } else { "no" }.to_owned()),
            ("up", output::age(s.uptime_seconds)),
            ("trust domain", s.trust_domain.clone()),
            ("discovery", discovery),
            ("pods", output::or_dash(&pods.join(", "))),
            ("connections", s.connections_open.to_string()),
            ("workers", s.workers.to_string()),
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
    })?;
    Ok(ExitCode::SUCCESS)
}
