//! Why a connection that was taken is left as plaintext.

use super::{Set, set as make};

closed_set! {
    /// Why an agent dials a destination in plaintext, as the pod would have done it.
    Passthrough;
    /// The endpoint is a workload that discovery knows and that is not to be captured.
    NotCaptured = "not_captured", Source,
        "Label the destination's namespace or workload with lark.mesh/capture: enabled if it is to be in the mesh.";
    /// The Service's endpoint is no workload that discovery knows: outside the mesh, or on its node's own network.
    OutsideMesh = "outside_mesh", Source,
        "Nothing if it is meant to be outside; otherwise list it as a workload with an address of its own.";
}

pub(super) fn set() -> Set {
    make(
        "passthrough",
        "Why an agent dialled a destination in plaintext: `lark trace`, and the note in `lark connections`. What the kernel leaves alone is in the set `kernel`.",
        Passthrough::ALL,
        Passthrough::label,
        Passthrough::text,
    )
}
