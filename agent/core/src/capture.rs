//! Which workloads of this node are to be captured, and why the others are not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::constants::{ANNOTATION_FOREIGN_POLICIES, EXCLUDED_NAMESPACES, LABEL_CAPTURE};

/// Whether the labels ask for capture, and what said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// The workload's own label says enabled.
    ByWorkload,
    /// The namespace's label says enabled.
    ByNamespace,
    /// The workload's own label says disabled.
    OptedOut,
    /// The namespace is never captured unless a workload asks by its own label.
    Excluded,
    /// No label asks for it.
    NotAsked,
    /// Labels ask for it, but a policy of a kind that Lark does not understand selects the workload.
    ForeignPolicy,
    /// A label has a value that is neither `enabled` nor `disabled`.
    Unclear,
}

impl Wanted {
    /// All answers.
    pub const ALL: &'static [Self] = &[
        Self::ByWorkload,
        Self::ByNamespace,
        Self::OptedOut,
        Self::Excluded,
        Self::NotAsked,
        Self::ForeignPolicy,
        Self::Unclear,
    ];

    /// The word in tables and in `lark explain`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::ByWorkload => "by_workload",
            Self::ByNamespace => "by_namespace",
            Self::OptedOut => "opted_out",
            Self::Excluded => "excluded",
            Self::NotAsked => "not_asked",
            Self::ForeignPolicy => "foreign_policy",
            Self::Unclear => "unclear",
        }
    }

    /// Whether the workload is to be captured.
    pub const fn is_wanted(self) -> bool {
        matches!(self, Self::ByWorkload | Self::ByNamespace)
    }

    /// Whether something asks for capture in a way that cannot be followed: not what whoever asked has meant.
    pub const fn is_mistaken(self) -> bool {
        matches!(self, Self::Unclear | Self::ForeignPolicy)
    }

    /// Why, in a sentence.
    pub const fn why(self) -> &'static str {
        match self {
            Self::ByWorkload => "the workload's label lark.mesh/capture is enabled",
            Self::ByNamespace => "the namespace's label lark.mesh/capture is enabled",
            Self::OptedOut => "the workload's label lark.mesh/capture is disabled",
            Self::Excluded => "the namespace is captured only where a workload's own label asks",
            Self::NotAsked => "neither workload nor namespace has the label lark.mesh/capture",
            Self::ForeignPolicy => {
                "a policy of a kind that Lark does not understand selects it, and no annotation accepts that"
            }
            Self::Unclear => "label lark.mesh/capture must be enabled or disabled",
        }
    }
}

/// What the labels ask for. The workload's own label wins over its namespace's.
pub fn wanted(
    namespace: &str,
    namespace_labels: &BTreeMap<String, String>,
    labels: &BTreeMap<String, String>,
) -> Wanted {
    match labels.get(LABEL_CAPTURE).map(String::as_str) {
        Some("enabled") => return Wanted::ByWorkload,
        Some("disabled") => return Wanted::OptedOut,
        Some(_) => return Wanted::Unclear,
        None => {}
    }
    if EXCLUDED_NAMESPACES.contains(&namespace) {
        return Wanted::Excluded;
    }
    match namespace_labels.get(LABEL_CAPTURE).map(String::as_str) {
        Some("enabled") => Wanted::ByNamespace,
        Some("disabled") | None => Wanted::NotAsked,
        Some(_) => Wanted::Unclear,
    }
}

/// What becomes of that where policies of kinds that Lark does not understand may select the workload:
/// in a tunnel nobody would enforce them, so that `annotations` must accept that.
pub fn beside_foreign(wanted: Wanted, selected: bool, annotations: &BTreeMap<String, String>) -> Wanted {
    let accepted = annotations.get(ANNOTATION_FOREIGN_POLICIES).is_some_and(|value| value == "accepted");
    if wanted.is_wanted() && selected && !accepted { Wanted::ForeignPolicy } else { wanted }
}

/// How far the capture of a workload of this node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum PodState {
    /// Nothing asks for it.
    NotCaptured {
        /// Why.
        why: String,
    },
    /// It is wanted, and something is still missing; connections are left alone.
    Pending {
        /// What is missing.
        why: String,
    },
    /// It is wanted, and nothing of it runs yet: an image or a volume may be missing for as long as it likes.
    Waiting {
        /// For what.
        why: String,
    },
    /// Its sockets are redirected.
    Captured,
    /// It is not wanted any more; connections from before are still carried.
    Releasing,
    /// It is wanted, and capturing it failed; it is tried again.
    Failed {
        /// What went wrong.
        why: String,
    },
}

impl PodState {
    /// Whether it is to be captured and is not.
    pub const fn is_missing(&self) -> bool {
        matches!(self, Self::Pending { .. } | Self::Waiting { .. } | Self::Failed { .. })
    }

    /// The word for tables and labels.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::NotCaptured { .. } => "not_captured",
            Self::Pending { .. } => "pending",
            Self::Waiting { .. } => "waiting",
            Self::Captured => "captured",
            Self::Releasing => "releasing",
            Self::Failed { .. } => "failed",
        }
    }

    /// The explanation, if there is one.
    pub fn why(&self) -> &str {
        match self {
            Self::NotCaptured { why }
            | Self::Pending { why }
            | Self::Waiting { why }
            | Self::Failed { why } => why,
            Self::Captured | Self::Releasing => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(value: &str) -> BTreeMap<String, String> {
        [(LABEL_CAPTURE.to_owned(), value.to_owned())].into()
    }

    #[test]
    fn a_foreign_policy_keeps_from_capture_unless_that_is_accepted() {
        let annotated = |value: &str| [(ANNOTATION_FOREIGN_POLICIES.to_owned(), value.to_owned())].into();
        for (wanted, selected, annotations, expected) in [
            (Wanted::ByNamespace, true, BTreeMap::new(), Wanted::ForeignPolicy),
            (Wanted::ByNamespace, false, BTreeMap::new(), Wanted::ByNamespace),
            (Wanted::ByWorkload, true, annotated("accepted"), Wanted::ByWorkload),
            (Wanted::ByWorkload, true, annotated("yes"), Wanted::ForeignPolicy),
            (Wanted::NotAsked, true, BTreeMap::new(), Wanted::NotAsked),
        ] {
            assert_eq!(
                beside_foreign(wanted, selected, &annotations),
                expected,
                "{wanted:?} {annotations:?}"
            );
        }
    }

    #[test]
    fn the_workloads_own_label_wins() {
        let none = BTreeMap::new();
        let cases = [
            ("shop", &none, &none, Wanted::NotAsked),
            ("shop", &label("enabled"), &none, Wanted::ByNamespace),
            ("shop", &label("enabled"), &label("disabled"), Wanted::OptedOut),
            ("shop", &label("disabled"), &label("enabled"), Wanted::ByWorkload),
            ("kube-system", &label("enabled"), &none, Wanted::Excluded),
            ("kube-system", &none, &label("enabled"), Wanted::ByWorkload),
            ("shop", &label("yes"), &none, Wanted::Unclear),
            ("shop", &label("enabled"), &label("Enabled"), Wanted::Unclear),
        ];
        for (namespace, outer, inner, expected) in cases {
            assert_eq!(wanted(namespace, outer, inner), expected, "{namespace} {outer:?} {inner:?}");
        }
    }
}
