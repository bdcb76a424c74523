//! Workloads as views show them.

use std::net::SocketAddr;

use lark_core::snapshot::Workload;
use lark_core::view::Party;

pub(super) fn of(workload: &Workload) -> Party {
    Party {
        namespace: workload.namespace.to_string(),
        name: workload.name.to_string(),
        owner: workload
            .owner
            .as_ref()
            .map_or_else(|| workload.name.to_string(), |o| format!("{}/{}", o.kind, o.name)),
        identity: workload.identity.to_string(),
    }
}

/// Somebody outside the mesh. All of them are one in edges and metrics, or addresses would be labels.
pub(super) fn outside(address: SocketAddr) -> Party {
    Party { name: address.ip().to_string(), owner: "outside".to_owned(), ..Party::default() }
}
