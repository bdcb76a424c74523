//! `lark connections`.

use std::process::ExitCode;

use lark_core::view::ConnectionView;

use super::cluster::{ClusterQuery, Told, ask};
use super::{output, stat};

pub(super) async fn run(args: &ClusterQuery) -> anyhow::Result<ExitCode> {
    let connections: Told<Vec<ConnectionView>> = ask(args, "connections").await?;
    let head = [
        "DIRECTION",
        "SRC",
        "SRC ADDRESS",
        "DST",
        "DST ADDRESS",
        "SERVICE",
        "SECURED",
        "PROTOCOL",
        "REQUESTS",
        "SENT",
        "RECEIVED",
        "RTT",
        "RETRANS",
        "AGE",
        "NOTE",
    ];
    connections.print_list(args, &head, |c| {
        vec![
            c.direction.clone(),
            c.source.full_name(),
            c.source_address.clone(),
            c.destination.full_name(),
            c.destination_address.clone(),
            c.service.clone().unwrap_or_else(|| "-".to_owned()),
            c.secured.map_or("… opening", |s| s.sign()).to_owned(),
            output::or_dash(&c.protocol),
            c.requests.to_string(),
            output::bytes(c.sent_bytes),
            output::bytes(c.received_bytes),
            stat::latency(c.round_trip_seconds),
            c.retransmits.map_or_else(|| "-".to_owned(), |count| count.to_string()),
            c.age_seconds.map_or_else(|| "-".to_owned(), output::age),
            output::or_dash(&c.note),
        ]
    })?;
    Ok(ExitCode::SUCCESS)
}
