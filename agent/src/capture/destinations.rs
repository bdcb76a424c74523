//! Mesh destinations as the kernel's map wants them.

use lark_abi::{Address, DestinationKey, DestinationValue};
use lark_core::route::{Action, mesh_destinations};
use lark_core::snapshot::Snapshot;

/// The entries for a snapshot.
pub(super) fn entries(snapshot: &Snapshot) -> Vec<(DestinationKey, DestinationValue)> {
    mesh_destinations(snapshot)
        .into_iter()
        .map(|destination| {
            let key = DestinationKey {
                address_be: Address::from(destination.address).words_be,
                port: destination.port.unwrap_or(0),
                padding: 0,
            };
            let action = match destination.action {
                Action::Redirect => DestinationValue::REDIRECT,
                Action::RefuseNoEndpoint => DestinationValue::REFUSE_NO_ENDPOINT,
            };
            (key, DestinationValue { action })
        })
        .collect()
}
