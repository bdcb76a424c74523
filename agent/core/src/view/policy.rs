//! Policies, and what they say of a connection.

use serde::{Deserialize, Serialize};

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyView {
    /// `AuthorizationPolicy` or `NetworkPolicy`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `ALLOW`, `DENY`, or the directions that it isolates; `closed` if it could not be read.
    pub effect: String,
    /// Whether it only says what it would deny.
    pub dry_run: bool,
    /// The workloads that it selects, as labels; empty for all within `within`.
    pub selector: String,
    /// The namespace from which it selects; empty for all.
    pub within: String,
    /// How many workloads these are now.
    pub selected: u32,
    /// Why it could not be read, if so.
    pub error: Option<String>,
}

/// What all policies say of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyExplainView {
    /// Who connects, `namespace/name`.
    pub from: String,
    /// To whom, `namespace/name:port`.
    pub to: String,
    /// Whether all of them allow it.
    pub allowed: bool,
    /// What each says, in the order of the data path.
    pub decisions: Vec<PolicyDecisionView>,
    /// Which policies Lark does not ask, and why; empty if it asks all.
    pub note: String,
}

/// What one kind of policy says, at one end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyDecisionView {
    /// `egress`, `authorization` or `ingress`.
    pub stage: String,
    /// The node whose agent asks.
    pub node: String,
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why: the policy and its rule, or that none allows it.
    pub because: String,
    /// What dry runs would deny it for.
    pub dry_run: Vec<String>,
    /// What would change the answer.
    pub would_change: String,
}

/// An expected decision, as `lark policy test` reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyCase {
    /// Who connects, `namespace/name`.
    pub from: String,
    /// To whom, `namespace/name:port`.
    pub to: String,
    /// What is expected.
    pub expect: PolicyExpectation,
    /// The policy that is expected to decide, for example `AuthorizationPolicy shop/db`; any if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// What is expected of policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyExpectation {
    /// All allow it.
    Allow,
    /// One denies it.
    Deny,
}

/// What became of an expected decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyCaseView {
    /// What was asked and expected.
    #[serde(flatten)]
    pub case: PolicyCase,
    /// Whether it is so.
    pub passed: bool,
    /// What the policies say.
    pub found: String,
}

impl PolicyCase {
    /// Compares with what the policies say, or with why they cannot be asked.
    pub fn hold_against(self, explained: Result<&PolicyExplainView, &str>) -> PolicyCaseView {
        let (passed, found) = match explained {
            Err(error) => (false, error.to_owned()),
            Ok(explained) => {
                let deciding: Vec<&PolicyDecisionView> =
                    explained.decisions.iter().filter(|d| d.allowed == explained.allowed).collect();
                let as_expected = explained.allowed == (self.expect == PolicyExpectation::Allow);
                let by = self.by.as_ref().is_none_or(|by| deciding.iter().any(|d| names(&d.because, by)));
                let told = deciding.iter().map(|d| format!("{}: {}", d.stage, d.because)).collect::<Vec<_>>();
                let verdict = if explained.allowed { "allowed" } else { "denied" };
                (as_expected && by, format!("{verdict}; {}", told.join("; ")))
            }
        };
        PolicyCaseView { case: self, passed, found }
    }
}

/// Whether a sentence names a policy, and not one that begins alike.
fn names(sentence: &str, policy: &str) -> bool {
    sentence.match_indices(policy).any(|(at, found)| {
        let rest = sentence.get(at + found.len()..).unwrap_or_default();
        !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || "-._/".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_passes_only_for_the_expected_reason() {
        let explained = |allowed, because: &str| PolicyExplainView {
            from: "shop/web".to_owned(),
            to: "shop/db:80".to_owned(),
            allowed,
            decisions: vec![PolicyDecisionView {
                stage: "authorization".to_owned(),
                node: "two".to_owned(),
                allowed,
                because: because.to_owned(),
                dry_run: vec![],
                would_change: String::new(),
            }],
            note: String::new(),
        };
        let case = |expect, by: Option<&str>| PolicyCase {
            from: "shop/web".to_owned(),
            to: "shop/db:80".to_owned(),
            expect,
            by: by.map(str::to_owned),
        };
        let denied = explained(false, "AuthorizationPolicy shop/db-2, rule 1");
        let passed = |case: PolicyCase, view: &PolicyExplainView| case.hold_against(Ok(view)).passed;
        assert!(passed(case(PolicyExpectation::Deny, None), &denied));
        assert!(passed(case(PolicyExpectation::Deny, Some("AuthorizationPolicy shop/db-2")), &denied));
        assert!(!passed(case(PolicyExpectation::Deny, Some("AuthorizationPolicy shop/db")), &denied));
        assert!(!passed(case(PolicyExpectation::Allow, None), &denied));
        assert!(passed(case(PolicyExpectation::Allow, None), &explained(true, "no policy selects it")));
        let unknown = case(PolicyExpectation::Deny, None).hold_against(Err("no workload shop/web is known"));
        assert!(!unknown.passed && unknown.found.contains("no workload"));
    }
}
