//! `lark edges`: the table of who talks to whom, and what secures it.

use std::process::ExitCode;

use lark_core::view::{EdgeView, Party};

use super::cluster::{ClusterQuery, Told, ask};
use super::output;

pub(super) async fn run(args: &ClusterQuery) -> anyhow::Result<ExitCode> {
    let edges: Told<Vec<EdgeView>> = ask(args, "edges").await?;
    let head = [
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
    ];
    edges.print_list(args, &head, |e| {
        let outside = &*e.destination.owner == "outside";
        vec![
            output::or_dash(&e.source.owner),
            output::or_dash(if outside { &e.destination.name } else { &e.destination.owner }),
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
        ]
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
