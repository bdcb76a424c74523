//! Whether a workload takes plaintext, and why.

use super::{Set, Side, set as make};
use crate::mode::ModeBy;

pub(super) fn set() -> Set {
    make(
        "mtls",
        "What made a workload strict or permissive: beside MTLS in `lark workloads -o json`, and in `lark check`.",
        ModeBy::ALL,
        ModeBy::label,
        |by| (by.why(), Side::Own, advice(by)),
    )
}

const fn advice(by: ModeBy) -> &'static str {
    match by {
        ModeBy::Workload | ModeBy::Namespace | ModeBy::Mesh => "Nothing.",
        ModeBy::Unclear => "Correct the label or the annotation; until then the workload is strict.",
    }
}
