//! Why a workload is captured or not, and how far it is.

use super::{Set, Side, set as make};
use crate::capture::Wanted;

pub(super) fn wanted() -> Set {
    make(
        "wanted",
        "Whether labels ask for the capture of a workload, and which: WHY in `lark workloads`.",
        Wanted::ALL,
        Wanted::label,
        |wanted| (wanted.why(), Side::Own, advice(wanted)),
    )
}

const fn advice(wanted: Wanted) -> &'static str {
    match wanted {
        Wanted::ByWorkload | Wanted::ByNamespace => "Nothing.",
        Wanted::OptedOut => "Take the workload's label away if it is to be captured.",
        Wanted::Excluded => "Label the workload itself if it really is to be captured.",
        Wanted::NotAsked => "Label the namespace with lark.mesh/capture: enabled.",
        Wanted::ForeignPolicy => {
            "Replace the policy by NetworkPolicy or AuthorizationPolicy, or annotate the workload with lark.mesh/foreign-policies: accepted if it may be without it between captured pods."
        }
        Wanted::Unclear => "Correct the label's value.",
    }
}

pub(super) fn state() -> Set {
    make(
        "capture",
        "How far the capture of a workload of this node is: STATE in `lark workloads`, `state` of `lark_capture_pods`.",
        &["not_captured", "pending", "waiting", "captured", "releasing", "failed"],
        |label| label,
        |label| match label {
            "not_captured" => {
                ("Nothing asks for its capture.", Side::Own, "WHY names the label that decides.")
            }
            "pending" => (
                "It is to be captured, and something is still missing; its connections are left alone.",
                Side::Own,
                "WHY names what is missing, a certificate in most cases: see `lark certs`.",
            ),
            "waiting" => (
                "It is to be captured, and nothing of it runs yet: an image or a volume may be missing.",
                Side::Own,
                "Nothing of Lark's: `kubectl describe pod` says what its kubelet waits for.",
            ),
            "captured" => ("Its sockets are redirected.", Side::Own, "Nothing."),
            "releasing" => (
                "It is not to be captured any more; connections from before are still carried.",
                Side::Own,
                "Nothing: its hooks go with the last connection.",
            ),
            _ => (
                "It is to be captured, and capturing it failed; it is tried again twice a second.",
                Side::Own,
                "WHY names the cause; `lark check` names what the kernel has of it.",
            ),
        },
    )
}
