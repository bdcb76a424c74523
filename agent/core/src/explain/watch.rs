//! Between discovery and the cluster's API.

use super::{Set, set as make};

closed_set! {
    /// Why a kind of objects of the cluster's API cannot be watched at the moment. What was known stays in use.
    Watch;
    /// There is no connection to the API server, or it broke off.
    Unreachable = "api_unreachable", Printer,
        "Does the API server run, is its address right, does it prove itself by the cluster's CA? It is tried again by itself.";
    /// The API server does not know who asks.
    Unauthorized = "api_unauthorized", Printer,
        "Look at the mounted service account's token, or at the kubeconfig's credentials.";
    /// Whoever asks may not watch this kind.
    Forbidden = "api_forbidden", Printer,
        "The ClusterRole lark-discovery (deploy/kubernetes/rbac.yaml) is missing, changed or not bound to who asks: it grants list and watch on what discovery needs.";
    /// The watch was away for too long to go on where it was: everything is listed anew.
    Expired = "api_expired", Printer,
        "Nothing: it comes with restarts of the API server. If it comes all the time, the agent is too slow or starved of CPU.";
    /// The API server answered with an error of its own.
    ServerFailed = "api_failed", Printer, "See the API server's log; it is tried again by itself.";
    /// What the API server sent cannot be read.
    Unreadable = "api_unreadable", Printer,
        "Something between them changes the bytes, or the server is none of Kubernetes 1.32 or later.";
}

impl Watch {
    /// What to do.
    pub const fn advice(self) -> &'static str {
        self.text().2
    }
}

pub(super) fn set() -> Set {
    make(
        "watch",
        "Why discovery cannot watch the cluster's API: `cause` in log lines, and `discovery` in `lark status`.",
        Watch::ALL,
        Watch::label,
        Watch::text,
    )
}
