//! What the admin API is asked: from the parts of a request to a question.

/// A question. Each has a view in [`crate::view`] as its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question<'a> {
    /// How the agent is.
    Status,
    /// All workloads.
    Workloads,
    /// All Services.
    Services,
    /// Live connections.
    Connections,
    /// Who talks to whom.
    Edges,
    /// Certificates of this node.
    Certs,
    /// What is wanted against what is there.
    Check,
    /// What the kernel has.
    Bpf,
    /// Which way a connection would take.
    Trace {
        /// `namespace/name`.
        from: &'a str,
        /// `IP:PORT`.
        to: &'a str,
    },
    /// All policies.
    Policies,
    /// What policies say of a connection.
    Policy {
        /// `namespace/name`.
        from: &'a str,
        /// `namespace/name:port`.
        to: &'a str,
    },
    /// Which policies select a workload.
    PoliciesOf {
        /// `namespace/name`.
        workload: &'a str,
    },
    /// The last hour.
    History,
    /// What requests add up to.
    Requests {
        /// Whether a row is an edge rather than a workload.
        by_edge: bool,
        /// How far back to look.
        seconds: u64,
    },
    /// Connections and requests as they happen. The answer does not end.
    Tap {
        /// Of either end.
        namespace: &'a str,
        /// Of either end.
        workload: &'a str,
        /// Of the connection.
        direction: &'a str,
        /// What secures it.
        verdict: &'a str,
        /// Of a request.
        status: &'a str,
    },
    /// What became of the last connection.
    Last {
        /// `namespace/name`, or an address.
        from: &'a str,
        /// The same.
        to: &'a str,
    },
    /// Which log lines are written.
    Log,
    /// That other log lines be written for a while: the one thing that may be asked by POST.
    SetLog {
        /// The levels that count, or `reset`.
        filter: &'a str,
        /// For how long.
        seconds: u64,
    },
    /// The last log lines.
    Recent,
    /// All metrics.
    Metrics,
}

/// Why a request asks nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoQuestion {
    /// It would change something.
    #[error("only GET")]
    Method,
    /// Nothing is there.
    #[error("not found")]
    Path,
}

impl<'a> Question<'a> {
    /// Whether it may be asked of all nodes at once: its answer ends, and is JSON.
    pub const fn is_for_all(&self) -> bool {
        !matches!(self, Self::Tap { .. } | Self::SetLog { .. } | Self::Recent | Self::Metrics)
    }

    /// What a request asks; parts of the query that are not given are empty.
    ///
    /// # Errors
    /// When it asks nothing that is answered.
    pub fn parse(method: &str, path: &str, query: &'a str) -> Result<Self, NoQuestion> {
        let value = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
        };
        let seconds = || value("seconds").parse().unwrap_or_default();
        if (method, path) == ("POST", "/v1/log") {
            return Ok(Self::SetLog { filter: value("filter"), seconds: seconds() });
        }
        if method != "GET" {
            return Err(NoQuestion::Method);
        }
        Ok(match path {
            "/v1/status" => Self::Status,
            "/v1/workloads" => Self::Workloads,
            "/v1/services" => Self::Services,
            "/v1/connections" => Self::Connections,
            "/v1/edges" => Self::Edges,
            "/v1/certs" => Self::Certs,
            "/v1/check" => Self::Check,
            "/v1/bpf" => Self::Bpf,
            "/v1/trace" => Self::Trace { from: value("from"), to: value("to") },
            "/v1/policies" => Self::Policies,
            "/v1/policy/explain" => Self::Policy { from: value("from"), to: value("to") },
            "/v1/policy/selecting" => Self::PoliciesOf { workload: value("workload") },
            "/v1/history" => Self::History,
            "/v1/requests" => Self::Requests { by_edge: value("by") == "edge", seconds: seconds() },
            "/v1/tap" => Self::Tap {
                namespace: value("namespace"),
                workload: value("workload"),
                direction: value("direction"),
                verdict: value("verdict"),
                status: value("status"),
            },
            "/v1/last" => Self::Last { from: value("from"), to: value("to") },
            "/v1/log" => Self::Log,
            "/v1/recent" => Self::Recent,
            "/metrics" => Self::Metrics,
            _ => return Err(NoQuestion::Path),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_asks_one_thing_or_nothing() {
        let ask = |path, query| Question::parse("GET", path, query);
        assert_eq!(ask("/v1/edges", "x=y"), Ok(Question::Edges));
        let trace = Question::Trace { from: "shop/web", to: "10.0.0.1:80" };
        assert_eq!(ask("/v1/trace", "to=10.0.0.1:80&from=shop/web&from=other"), Ok(trace));
        assert_eq!(ask("/v1/trace", "fromage=1"), Ok(Question::Trace { from: "", to: "" }));
        assert_eq!(ask("/v1/edges/", ""), Err(NoQuestion::Path));
        assert_eq!(Question::parse("POST", "/v1/edges", ""), Err(NoQuestion::Method));
        assert!(
            ask("/v1/requests", "by=edge").unwrap().is_for_all() && !ask("/v1/tap", "").unwrap().is_for_all()
        );
        let set = Question::SetLog { filter: "lark_tunnel=debug,access=off", seconds: 60 };
        assert_eq!(
            Question::parse("POST", "/v1/log", "seconds=60&filter=lark_tunnel=debug,access=off"),
            Ok(set)
        );
        assert_eq!(ask("/v1/requests", "seconds=x"), Ok(Question::Requests { by_edge: false, seconds: 0 }));
    }
}
