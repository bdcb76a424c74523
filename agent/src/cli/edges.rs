//! `lark edges`: the table of who talks to whom, and what secures it.

use std::process::ExitCode;

use lark_core::view::{EdgeView, Party};

use super::{Query, client, output};

pub(super) async fn run(query: &Query) -> anyhow::Result<ExitCode> {
    let edges: Vec<EdgeView> = client::get(&query.admin_socket, "/v1/edges").await?;
    output::print(&edges, query.output, |all| {
        let mut table = output::Table::new(&[
            "SRC",
            "DST",
            "SRC_NS",
            "DST_NS",
            "CLIENT_ID",
            "SERVER_ID",
            "SECURED",
            "DIRECTION",
            "CONNS",
            "OPEN",
            "SENT",
            "RECEIVED",
            "REASON",
        ]);
        for e in all {
            table.row(vec![
                output::or_dash(&e.source.owner),
                output::or_dash(if e.destination.owner == "outside" {
                    &e.destination.name
                } else {
                    &e.destination.owner
                }),
                output::or_dash(&e.source.namespace),
                output::or_dash(&e.destination.namespace),
                id(&e.source),
                id(&e.destination),
                e.secured.sign().to_owned(),
                e.direction.clone(),
                e.connections.to_string(),
                e.open.to_string(),
                output::bytes(e.sent_bytes),
                output::bytes(e.received_bytes),
                e.reason.clone().unwrap_or_default(),
            ]);
        }
        table.render()
    })?;
    Ok(ExitCode::SUCCESS)
}

/// `account.namespace`, as users of other meshes know it; the whole ID is in `-o json`.
fn id(party: &Party) -> String {
    match party.identity.parse::<lark_core::identity::SpiffeId>() {
        Ok(id) => format!("{}.{}", id.account(), id.namespace()),
        Err(_) => "-".to_owned(),
    }
}
