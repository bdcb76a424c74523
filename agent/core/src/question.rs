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
    /// What a request asks; parts of the query that are not given are empty.
    ///
    /// # Errors
    /// When it asks nothing that is answered.
    pub fn parse(method: &str, path: &str, query: &'a str) -> Result<Self, NoQuestion> {
        if method != "GET" {
            return Err(NoQuestion::Method);
        }
        let value = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
        };
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
    }
}
