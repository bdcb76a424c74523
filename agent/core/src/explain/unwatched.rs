//! Between the agent and the cgroups of its node's pods.

use super::{Set, set as make};

closed_set! {
    /// Why the kernel does not tell at once what happens to the cgroups of a node's pods. The agent finds it by looking,
    /// twice a second.
    Unwatched;
    /// More happened at once than the kernel keeps.
    Overflow = "watch_overflow", Own,
        "Nothing: everything was looked at anew. If it comes all the time, raise the sysctl fs.inotify.max_queued_events of the node.";
    /// Watches are used up, or instances of inotify.
    Exhausted = "watch_exhausted", Own,
        "Raise the sysctls fs.inotify.max_user_watches and fs.inotify.max_user_instances of the node, which all programs of root share.";
    /// The kernel refuses a watch.
    Refused = "watch_refused", Own, "The log line ends with what it said: see `lark explain` of that.";
}

pub(super) fn set() -> Set {
    make(
        "unwatched",
        "Why pods of a node are found by looking and not as soon as they are there: `reason` of `lark_capture_unwatched_total`, `cause` in the agent's log.",
        Unwatched::ALL,
        Unwatched::label,
        Unwatched::text,
    )
}
