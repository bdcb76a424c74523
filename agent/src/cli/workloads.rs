//! `lark workloads`.

use std::process::ExitCode;

use lark_core::view::WorkloadView;

use super::{Query, client, output};

pub(super) async fn run(query: &Query) -> anyhow::Result<ExitCode> {
    let workloads: Vec<WorkloadView> = client::get(&query.admin_socket, "/v1/workloads").await?;
    output::print(&workloads, query.output, |all| {
        let mut table = output::Table::new(&[
            "NAMESPACE",
            "NAME",
            "NODE",
            "ADDRESSES",
            "STATE",
            "MTLS",
            "IDENTITY",
            "WHY",
        ]);
        for w in all {
            let why = if w.why.is_empty() { &w.wanted } else { &w.why };
            table.row(vec![
                w.namespace.clone(),
                w.name.clone(),
                w.node.clone(),
                output::or_dash(&w.addresses.join(",")),
                w.state.clone(),
                w.mtls.clone(),
                w.identity.clone(),
                why.clone(),
            ]);
        }
        table.render()
    })?;
    Ok(ExitCode::SUCCESS)
}
