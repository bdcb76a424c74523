//! Why a connection of a captured pod is in plaintext.

use super::{Set, set as make};

closed_set! {
    /// Why a connection of a captured pod is in plaintext: its agent dialled for it as it would have done itself, or
    /// the kernel left it alone.
    Passthrough;
    /// The peer is a workload that discovery knows and that is not to be captured.
    NotCaptured = "not_captured", Own,
        "Label the peer's namespace or workload with lark.mesh/capture: enabled if it is to be in the mesh.";
    /// The peer is no workload that discovery knows: outside the mesh, or on its node's own network.
    OutsideMesh = "outside_mesh", Own,
        "Nothing if it is meant to be outside; otherwise list it as a workload with an address of its own.";
    /// Both ends are to be captured, and it was opened while one of them was not: before its capture, or while its
    /// agent was dead and `agentDown` is untouched.
    NotTaken = "not_taken", Own,
        "`lark check` on both nodes says whether they are captured now; what is open goes on in plaintext until it ends.";
}

pub(super) fn set() -> Set {
    make(
        "passthrough",
        "Why a connection of a captured pod is in plaintext: `lark trace`, the note in `lark connections`, and `reason` in the access log. What the hooks count is in the set `kernel`.",
        Passthrough::ALL,
        Passthrough::label,
        Passthrough::text,
    )
}
