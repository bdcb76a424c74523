//! `lark tap`: connections and requests of this node as they happen.

use std::process::ExitCode;

use clap::Args;
use lark_core::view::{TapConnection, TapView};

use super::{Format, Query, client, output};

/// Which connections and requests.
#[derive(Debug, Clone, Args)]
pub struct TapArgs {
    /// Only what has a workload of this namespace at either end.
    ///
    /// Default: all.
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Only what has this workload at either end: NAME, KIND/NAME or NAMESPACE/NAME.
    ///
    /// Default: all.
    #[arg(short, long, value_name = "NAME")]
    pub workload: Option<String>,
    /// Only this direction: outbound, inbound or local.
    ///
    /// Default: all.
    #[arg(short, long, value_name = "DIRECTION")]
    pub direction: Option<String>,
    /// Only what is secured so: mtls, same_node, direct, plaintext or denied.
    ///
    /// Default: all.
    #[arg(long, value_name = "VERDICT")]
    pub verdict: Option<String>,
    /// Only requests that ended so: a class (5xx), a number (503), a status of gRPC, success, failure or
    /// abandoned.
    ///
    /// Default: all requests, and connections that open and end.
    #[arg(short, long, value_name = "STATUS")]
    pub status: Option<String>,
    /// How many lines before it ends.
    ///
    /// Default 0: until it is interrupted. The agent tells at most 1000 a second and says how many it left out.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub lines: u64,
    /// Where to ask, and how to print.
    #[command(flatten)]
    pub query: Query,
}

pub(super) async fn run(args: &TapArgs) -> anyhow::Result<ExitCode> {
    let words = [
        ("namespace", &args.namespace),
        ("workload", &args.workload),
        ("direction", &args.direction),
        ("verdict", &args.verdict),
        ("status", &args.status),
    ];
    let given: Vec<String> =
        words.iter().filter_map(|(name, word)| Some(format!("{name}={}", word.as_ref()?))).collect();
    let mut tap = client::stream(&args.query.admin_socket, &format!("/v1/tap?{}", given.join("&"))).await?;
    let mut lines = 0;
    while let Some(line) = tap.next().await? {
        let told: TapView = serde_json::from_slice(&line)?;
        let text = match args.query.output {
            Format::Table => format!("{}\n", sentence(&told)),
            Format::Json => format!("{}\n", serde_json::to_string(&told)?),
            Format::Yaml => format!("---\n{}", serde_saphyr::to_string(&told)?),
        };
        if !output::write_more(text.as_bytes())? {
            break;
        }
        lines += 1;
        if lines == args.lines {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn sentence(told: &TapView) -> String {
    match told {
        TapView::Opened { connection } => format!("{} opened", start(connection)),
        TapView::Request { connection, request } => {
            let code = request.code.map(|code| format!(" {code}")).unwrap_or_default();
            let status = if request.protocol == "grpc" || request.code.is_none() {
                format!(" {}", request.status)
            } else {
                String::new()
            };
            format!(
                "{} {} {}{code}{status} {}",
                start(connection),
                request.protocol,
                request.method,
                super::stat::latency(request.duration_seconds)
            )
        }
        TapView::Ended { connection, ending } => {
            let reason = if ending.reason.is_empty() { String::new() } else { format!(" {}", ending.reason) };
            format!(
                "{} ended {}{reason} {} sent {} received",
                start(connection),
                ending.how,
                output::bytes(ending.sent_bytes),
                output::bytes(ending.received_bytes)
            )
        }
        TapView::LeftOut { events } => format!("… {events} left out, more than a tap is told a second"),
    }
}

fn start(connection: &TapConnection) -> String {
    let secured = connection.secured.map_or("… opening", |secured| secured.sign());
    format!(
        "{} {} {secured} {} {} → {} {}",
        output::clock(connection.at_ms),
        connection.direction,
        connection.source.full_name(),
        connection.source_address,
        connection.destination.full_name(),
        connection.destination_address,
    )
}
