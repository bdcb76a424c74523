//! Every word that Lark prints as the cause of something, in closed sets: what it means, which side
//! saw it, and what to do. `lark explain` and docs/reasons.md are made from these rows.
//!
//! The sets that other crates' errors map to live here too, so that each error has its row by type.

use serde::Serialize;

/// Defines a closed set: an enum whose variants have a label, who sees it, and advice; the doc comment
/// is the meaning.
macro_rules! closed_set {
    (
        $(#[doc = $about:literal])+ $name:ident;
        $($(#[doc = $doc:literal])+ $variant:ident = $label:literal, $seen:ident, $advice:literal;)+
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[doc = $doc])+ $variant,)+ }
        impl $name {
            /// All of the set, in its order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// The word in logs, metrics and tables.
            pub const fn label(self) -> &'static str { match self { $(Self::$variant => $label,)+ } }
            pub(crate) const fn text(self) -> (&'static str, $crate::explain::Side, &'static str) {
                match self { $(Self::$variant => (concat!($($doc),+), $crate::explain::Side::$seen, $advice),)+ }
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(self.label()) }
        }
    };
}

mod ca;
mod capture;
mod certificate;
mod ending;
mod kernel;
mod mode;
mod passthrough;
mod refusal;
mod requests;
mod system;
mod tunnel;
mod unwatched;
mod violation;
mod watch;

pub use ca::{CaRefusal, CaRequest};
pub use certificate::Certificate;
pub use ending::Ending;
pub use passthrough::Passthrough;
pub use requests::{Cut, Opaque};
pub use system::{System, told};
pub use tunnel::{Cause, Tunnel};
pub use unwatched::Unwatched;
pub use violation::Violation;
pub use watch::Watch;

/// Who saw it, and therefore whose log and metrics have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The agent of the pod that connects.
    Source,
    /// The agent of the pod that is connected to.
    Destination,
    /// Both agents: the one that refuses tells the other.
    Both,
    /// Either agent of a tunnel, the one that looked at the other.
    Either,
    /// The agent of the pod's own node.
    Own,
    /// The hook on the cgroup of the pod that connects.
    ConnectHook,
    /// The hook on the cgroup of the pod that is connected to.
    AcceptHook,
    /// The hook on the agent's own cgroup.
    AgentHook,
    /// The hook in the network namespace of a strict pod.
    LookupHook,
    /// The program on the host's end of a strict pod's interface.
    LeaveHook,
    /// The hook on the kubelet's cgroup.
    ProbeHook,
    /// The controller, and the agent that asked it.
    Controller,
    /// Whichever program prints it.
    Printer,
}

impl Side {
    /// The words for people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Source => "the source's agent",
            Self::Destination => "the destination's agent",
            Self::Both => "both agents",
            Self::Either => "either agent of the tunnel",
            Self::Own => "the pod's own agent",
            Self::ConnectHook => "the hook of the connecting pod",
            Self::AcceptHook => "the hook of the pod that accepts",
            Self::AgentHook => "the hook of the agent",
            Self::LookupHook => "the hook in the strict pod's namespace",
            Self::LeaveHook => "the program on the host's end of the strict pod's interface",
            Self::ProbeHook => "the hook of the kubelet",
            Self::Controller => "the controller, told to the agent that asked",
            Self::Printer => "whoever prints it",
        }
    }
}

impl Serialize for Side {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.words())
    }
}

/// One reason of one set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Name of the set.
    pub set: &'static str,
    /// The word.
    pub reason: &'static str,
    /// What it means, in a sentence.
    pub meaning: &'static str,
    /// Who saw it.
    pub seen_by: Side,
    /// What to do.
    pub advice: &'static str,
}

/// A closed set with its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: &'static str,
    /// What its words stand for, and where they are printed.
    pub about: &'static str,
    /// Its rows, in the order of the data path.
    pub rows: Vec<Row>,
}

type Text = (&'static str, Side, &'static str);

fn set<T: Copy>(
    name: &'static str,
    about: &'static str,
    all: &[T],
    label: impl Fn(T) -> &'static str,
    text: impl Fn(T) -> Text,
) -> Set {
    let row = |item: &T| {
        let (meaning, seen_by, advice) = text(*item);
        Row { set: name, reason: label(*item), meaning: meaning.trim(), seen_by, advice }
    };
    Set { name, about, rows: all.iter().map(row).collect() }
}

/// All sets, in the order of the data path.
pub fn sets() -> Vec<Set> {
    vec![
        capture::wanted(),
        capture::state(),
        unwatched::set(),
        mode::set(),
        kernel::set(),
        passthrough::set(),
        refusal::set(),
        tunnel::set(),
        certificate::set(),
        violation::set(),
        ending::set(),
        requests::opaque(),
        requests::cut(),
        ca::request(),
        ca::refusal(),
        ca::state(),
        ca::phase(),
        watch::set(),
        system::set(),
    ]
}

/// The rows of a word: one in most cases, several where two sets share it. Upper and lower case, `-`
/// and `_` are the same, so that what is copied from a sentence is found.
pub fn find(word: &str) -> Vec<Row> {
    let plain = |text: &str| text.trim().to_ascii_lowercase().replace('-', "_");
    let word = plain(word);
    let rows = sets().into_iter().flat_map(|set| set.rows);
    rows.filter(|row| plain(row.reason) == word).collect()
}

/// Words that may have been meant: those that contain the word or a part of it, at most eight.
pub fn near(word: &str) -> Vec<&'static str> {
    let word = word.to_ascii_lowercase();
    let parts: Vec<&str> = word.split(|c: char| !c.is_alphanumeric()).filter(|part| part.len() > 2).collect();
    let mut found = Vec::new();
    for row in sets().into_iter().flat_map(|set| set.rows) {
        let reason = row.reason.to_ascii_lowercase();
        if !found.contains(&row.reason) && parts.iter().any(|part| reason.contains(part)) {
            found.push(row.reason);
        }
    }
    found.truncate(8);
    found
}

#[cfg(test)]
mod tests;
