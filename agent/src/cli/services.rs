//! `lark services`.

use std::process::ExitCode;

use lark_core::view::ServiceView;

use super::{Query, client, output};

pub(super) async fn run(query: &Query) -> anyhow::Result<ExitCode> {
    let services: Vec<ServiceView> = client::get(&query.admin_socket, "/v1/services").await?;
    output::print(&services, query.output, |all| {
        let mut table = output::Table::new(&["NAMESPACE", "NAME", "ADDRESSES", "PORTS", "READY", "IN MESH"]);
        for s in all {
            table.row(vec![
                s.namespace.clone(),
                s.name.clone(),
                output::or_dash(&s.addresses.join(",")),
                output::or_dash(&s.ports.join(",")),
                format!("{}/{}", s.ready, s.endpoints),
                if s.in_mesh { "yes" } else { "no" }.to_owned(),
            ]);
        }
        table.render()
    })?;
    Ok(ExitCode::SUCCESS)
}
