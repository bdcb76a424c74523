//! Mesh destinations as the kernel's map wants them.

use lark_abi::{Address, DestinationKey, DestinationValue};
use lark_bpf::{Kernel, MapError, Synced};
use lark_core::route::{self, Action, MeshDestination, changed_destinations, mesh_destinations};
use lark_core::snapshot::Snapshot;

/// Brings the kernel's map from one snapshot to another; from nothing known, by comparing all of it.
///
/// # Errors
/// When the map cannot be written; a full one is no error but said in the result.
pub(super) fn sync(
    kernel: &mut Kernel,
    before: Option<&Snapshot>,
    now: &Snapshot,
) -> Result<Synced, MapError> {
    let Some(before) = before else { return all(kernel, now) };
    let changes = changed_destinations(before, now);
    let written = changes.written.iter().map(entry);
    let changed = kernel.change_destinations(written, changes.removed.into_iter().map(key))?;
    // Which ones have a place is not for chance to say.
    if changed.left_out > 0 { all(kernel, now) } else { Ok(changed) }
}

fn all(kernel: &mut Kernel, now: &Snapshot) -> Result<Synced, MapError> {
    kernel.sync_destinations(mesh_destinations(now).iter().map(entry))
}

fn entry(destination: &MeshDestination) -> (DestinationKey, DestinationValue) {
    let action = match destination.action {
        Action::Redirect => DestinationValue::REDIRECT,
        Action::RefuseNoEndpoint => DestinationValue::REFUSE_NO_ENDPOINT,
    };
    (key((destination.address, destination.port)), DestinationValue { action })
}

fn key((address, port): route::DestinationKey) -> DestinationKey {
    DestinationKey { address_be: Address::from(address).words_be, port: port.unwrap_or(0), padding: 0 }
}
