//! Which policy denied a connection, as one agent tells it to the other.
//!
//! It is for people: the other end prints it and decides nothing by it. What is told is a stage, how the
//! policy denied it, and the policy's name, each of bounded length and of a closed form; never what is
//! written in a policy. Agents know the names anyway, since they read the same discovery.

use std::fmt;
use std::sync::Arc;

use super::{Because, Decision, Kind, PolicyName, Stage};

/// Longest namespace or name (Kubernetes: DNS subdomain names).
const NAME_MAX: usize = 253;

/// Which policy denied a connection, or would deny it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// What was asked.
    pub stage: Stage,
    /// How.
    pub how: How,
    /// The policy; of several that agree, one.
    pub policy: PolicyName,
}

/// How a policy denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// This rule of it matched, counted from 1.
    Rule(u32),
    /// None of it matched, nor of that many others.
    NoneAllows(u32),
    /// It could not be read.
    Unreadable,
}

impl Denial {
    /// What of a decision is told; nothing if no policy is to blame.
    pub(super) fn of(stage: Stage, because: &Because<'_>) -> Option<Self> {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let (how, policy) = match because {
            Because::NoPolicy | Because::Itself | Because::OwnNode => return None,
            Because::Rule { policy, rule } => (How::Rule(count(*rule)), policy.clone()),
            Because::NoneAllows(selecting) => {
                let others = selecting.numbers.len().saturating_sub(1);
                (How::NoneAllows(count(others)), selecting.names().next()?)
            }
            Because::Unreadable { policy, .. } => (How::Unreadable, policy.clone()),
        };
        Some(Self { stage, how, policy })
    }

    /// Which policy and how, without the verdict.
    pub fn because(&self) -> String {
        match self.how {
            How::Rule(rule) => format!("{}, rule {rule}", self.policy),
            How::NoneAllows(others) => {
                let what = if self.policy.kind == Kind::Authorization { "ALLOW" } else { "rule" };
                let more = if others > 0 { format!(" and {others} more") } else { String::new() };
                format!("no {what} matched of {}{more}", self.policy)
            }
            How::Unreadable => format!("{} could not be read", self.policy),
        }
    }

    /// The text that is told: `authorization no_match 0 AuthorizationPolicy shop/db`. Nothing for a policy
    /// whose name is none in Kubernetes.
    pub fn encode(&self) -> Option<String> {
        let PolicyName { kind, namespace, name } = &self.policy;
        let (how, number) = match self.how {
            How::Rule(rule) => ("rule", rule),
            How::NoneAllows(others) => ("no_match", others),
            How::Unreadable => ("unreadable", 0),
        };
        let text = format!("{} {how} {number} {} {namespace}/{name}", self.stage.label(), kind.label());
        (is_name(namespace) && is_name(name)).then_some(text)
    }

    /// What was told; nothing of another form.
    pub fn decode(text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let mut part = || parts.next();
        let (stage, how, number, kind, policy) = (part()?, part()?, part()?, part()?, part()?);
        if parts.next().is_some() || number.len() > 10 || !number.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let number = number.parse().ok()?;
        let how = match how {
            "rule" => How::Rule(number),
            "no_match" => How::NoneAllows(number),
            "unreadable" if number == 0 => How::Unreadable,
            _ => return None,
        };
        let stage = Stage::ALL.into_iter().find(|s| s.label() == stage)?;
        let kind = Some(stage.kind()).filter(|k| k.label() == kind)?;
        let (namespace, name) = policy.split_once('/').filter(|(n, m)| is_name(n) && is_name(m))?;
        let policy = PolicyName { kind, namespace: Arc::from(namespace), name: Arc::from(name) };
        Some(Self { stage, how, policy })
    }
}

impl Decision<'_> {
    /// The policy that denies it, if one does.
    pub fn denial(&self) -> Option<Denial> {
        if self.allowed { None } else { Denial::of(self.stage, &self.because) }
    }

    /// The policy that would deny it if it were no dry run.
    pub fn would_deny(&self) -> Option<Denial> {
        self.dry_run.iter().find_map(|because| Denial::of(self.stage, because))
    }
}

fn is_name(text: &str) -> bool {
    (1..=NAME_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
}

impl fmt::Display for Denial {
    /// The same words as a decision has.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} denied: {}", self.stage.label(), self.because())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_told_is_read_again() {
        for (text, said) in [
            (
                "authorization no_match 0 AuthorizationPolicy shop/db",
                "authorization denied: no ALLOW matched of AuthorizationPolicy shop/db",
            ),
            (
                "authorization rule 2 AuthorizationPolicy lark-system/no.body",
                "authorization denied: AuthorizationPolicy lark-system/no.body, rule 2",
            ),
            (
                "ingress no_match 3 NetworkPolicy shop/closed",
                "ingress denied: no rule matched of NetworkPolicy shop/closed and 3 more",
            ),
            (
                "egress unreadable 0 NetworkPolicy shop/odd",
                "egress denied: NetworkPolicy shop/odd could not be read",
            ),
        ] {
            let denial = Denial::decode(text).unwrap();
            assert_eq!((denial.encode().unwrap().as_str(), denial.to_string().as_str()), (text, said));
        }
    }

    #[test]
    fn nothing_of_another_form_is_believed() {
        let long = format!("ingress rule 1 NetworkPolicy shop/{}", "a".repeat(NAME_MAX + 1));
        for text in [
            "",
            "authorization",
            "authorization rule 1 NetworkPolicy shop/db",
            "ingress rule 1 AuthorizationPolicy shop/db",
            "ingress maybe 1 NetworkPolicy shop/db",
            "ingress rule -1 NetworkPolicy shop/db",
            "ingress rule 99999999999 NetworkPolicy shop/db",
            "ingress unreadable 1 NetworkPolicy shop/db",
            "ingress rule 1 NetworkPolicy db",
            "ingress rule 1 NetworkPolicy shop/db/x",
            "ingress rule 1 NetworkPolicy /db",
            "ingress rule 1 NetworkPolicy shop/d\u{1b}[0m",
            "ingress rule 1 NetworkPolicy shop/db more",
            "ingress  rule 1 NetworkPolicy shop/db",
            &long,
        ] {
            assert_eq!(Denial::decode(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_believed_has_one_form_and_prints_in_one_line(text in "(ingress|egress|authorization|.) (rule|no_match|.) [0-9]{0,3} (NetworkPolicy|AuthorizationPolicy) .{0,6}/.{0,6}") {
            if let Some(denial) = Denial::decode(&text) {
                prop_assert_eq!(denial.encode().map(|told| Denial::decode(&told)), Some(Some(denial.clone())));
                prop_assert!(denial.to_string().chars().all(|c| !c.is_control()));
            }
        }
    }
}
