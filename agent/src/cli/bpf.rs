//! `lark bpf`: what the kernel has, not what should be there.

use std::process::ExitCode;

use lark_core::view::{BpfView, LinkView};

use super::{Query, client, output};

pub(super) async fn run(query: &Query) -> anyhow::Result<ExitCode> {
    let bpf: BpfView = client::get(&query.admin_socket, "/v1/bpf").await?;
    output::print(&bpf, query.output, |b| {
        let mut programs = output::Table::new(&["PROGRAM", "ID"]);
        for p in &b.programs {
            programs.row(vec![p.name.clone(), p.id.to_string()]);
        }
        let mut links = output::Table::new(&["POD", "HOOK", "LINK", "PROGRAM", "ATTACHED TO"]);
        for l in &b.links {
            links.row(vec![
                l.pod.clone(),
                l.hook.clone(),
                l.link_id.to_string(),
                l.program_id.to_string(),
                attached_to(l),
            ]);
        }
        let mut maps = output::Table::new(&["MAP", "ENTRIES", "MAX"]);
        for m in &b.maps {
            maps.row(vec![m.name.clone(), m.entries.to_string(), m.max.to_string()]);
        }
        let mut counters = output::Table::new(&["EVENT", "COUNT", "MEANING"]);
        for c in &b.counters {
            counters.row(vec![c.event.clone(), c.count.to_string(), c.meaning.clone()]);
        }
        [programs, links, maps, counters].map(|t| t.render()).join("\n")
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A cgroup's id, a namespace as `ls -l /proc/PID/ns/net` has it, or an interface as `ip link` has it joined.
fn attached_to(link: &LinkView) -> String {
    match (link.cgroup_id, link.netns, link.interface) {
        (Some(id), _, _) => id.to_string(),
        (_, Some(inode), _) => format!("net:[{inode}]"),
        (_, _, Some(index)) => format!("if{index}"),
        _ => "severed".to_owned(),
    }
}
