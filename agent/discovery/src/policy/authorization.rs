//! AuthorizationPolicy: who may connect to a workload.

use std::collections::HashSet;

use lark_core::constants::SYSTEM_NAMESPACE;
use lark_core::identity::{SpiffeId, TrustDomain};
use lark_core::policy::{self, IdentityPattern, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::selector::{IpBlock, LabelSelector};
use super::{Metadata, PolicyError, impossible};

/// Who may connect to the workloads that it selects.
///
/// DENY wins. As soon as an ALLOW selects a workload, what no ALLOW matches is denied. In the namespace
/// `lark-system` a policy selects from the workloads of all namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationPolicy {
    /// `lark.mesh/v1alpha1`.
    pub api_version: Version,
    /// `AuthorizationPolicy`.
    pub kind: Kind,
    /// Its namespace and name.
    pub metadata: Metadata,
    /// What it says.
    #[serde(default)]
    pub spec: AuthorizationSpec,
}

/// See [`AuthorizationPolicy::api_version`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Version {
    /// The only one so far.
    #[serde(rename = "lark.mesh/v1alpha1")]
    V1Alpha1,
}

/// See [`AuthorizationPolicy::kind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Kind {
    /// The only one.
    AuthorizationPolicy,
}

/// What an AuthorizationPolicy says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationSpec {
    /// The workloads that it protects; all of the namespace if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// What is done with what a rule matches.
    #[serde(default)]
    pub action: Action,
    /// Only say what it would deny, in log, metrics and `lark policy explain`.
    #[serde(default)]
    pub dry_run: bool,
    /// Any of them may match. None matches nothing: an ALLOW without rules closes.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

/// See [`AuthorizationSpec::action`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    /// Lets it through.
    #[default]
    Allow,
    /// Denies it, whatever is allowed elsewhere.
    Deny,
}

/// From any of these, to any of these ports. An empty rule matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Who connects; anybody if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Vec<Source>>,
    /// To what; anything if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Vec<To>>,
}

/// Who connects: each field that is given must hold, of its values any.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    /// Proved identities: `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT`, or with `/*` for all below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identities: Option<Vec<String>>,
    /// Namespaces of proved identities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Vec<String>>,
    /// Service accounts of proved identities: `NAMESPACE/ACCOUNT`, or `ACCOUNT` of the policy's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accounts: Option<Vec<String>>,
    /// Addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_blocks: Option<Vec<IpBlock>>,
    /// `true`: whoever has proved an identity of the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authenticated: Option<bool>,
}

/// What is connected to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct To {
    /// Ports of the workload itself, not of a Service.
    pub ports: Vec<u16>,
}

impl AuthorizationPolicy {
    /// The same, found possible in this trust domain.
    ///
    /// # Errors
    /// When something in it can never match.
    pub fn read(self, domain: &TrustDomain) -> Result<policy::AuthorizationPolicy, PolicyError> {
        let (metadata, spec) = (self.metadata, self.spec);
        if spec.action == Action::Deny && spec.rules.is_empty() {
            return impossible(
                "spec.rules",
                "a DENY without rules denies nothing; `rules: [{}]` denies everything",
            );
        }
        let rules = spec
            .rules
            .into_iter()
            .enumerate()
            .map(|(i, rule)| rule.read(&format!("spec.rules[{i}]"), domain, &metadata.namespace));
        Ok(policy::AuthorizationPolicy {
            rules: rules.collect::<Result<_, _>>()?,
            scope: if metadata.namespace == SYSTEM_NAMESPACE { Scope::Mesh } else { Scope::Namespace },
            namespace: metadata.namespace.into(),
            name: metadata.name.into(),
            selector: spec.selector.unwrap_or_default().read("spec.selector")?,
            action: match spec.action {
                Action::Allow => policy::Action::Allow,
                Action::Deny => policy::Action::Deny,
            },
            dry_run: spec.dry_run,
        })
    }
}

impl Rule {
    fn read(
        self,
        at: &str,
        domain: &TrustDomain,
        namespace: &str,
    ) -> Result<policy::AuthorizationRule, PolicyError> {
        let from = given(self.from, &format!("{at}.from"))?.into_iter().enumerate();
        let from = from.map(|(i, source)| source.read(&format!("{at}.from[{i}]"), domain, namespace));
        let mut ports = Vec::new();
        for (i, to) in given(self.to, &format!("{at}.to"))?.into_iter().enumerate() {
            let at = format!("{at}.to[{i}].ports");
            for port in given(Some(to.ports), &at)? {
                if port == 0 {
                    return impossible(at, "0 is no port");
                }
                ports.push(port..=port);
            }
        }
        Ok(policy::AuthorizationRule { from: from.collect::<Result<_, _>>()?, ports })
    }
}

/// A list that is not given matches anything; one that is given and empty matches nothing, which
/// nobody can have meant.
fn given<T>(list: Option<Vec<T>>, at: &str) -> Result<Vec<T>, PolicyError> {
    match list {
        Some(list) if list.is_empty() => {
            impossible(at, "an empty list matches nothing; leave it out to match anything")
        }
        list => Ok(list.unwrap_or_default()),
    }
}

impl Source {
    fn read(self, at: &str, domain: &TrustDomain, namespace: &str) -> Result<policy::Source, PolicyError> {
        if self == Self::default() {
            return impossible(at, "it says nothing; leave `from` out to match anybody");
        }
        if self.authenticated == Some(false) {
            return impossible(
                at,
                "authenticated must be true or left out: nothing matches only the unknown",
            );
        }
        let part = |field: &str| format!("{at}.{field}");
        let identities = given(self.identities, &part("identities"))?;
        let identities = identities.iter().map(|text| identity(text, domain, &part("identities")));
        let accounts = given(self.accounts, &part("accounts"))?;
        let accounts = accounts.iter().map(|text| account(text, domain, namespace, &part("accounts")));
        let blocks = given(self.ip_blocks, &part("ipBlocks"))?;
        let blocks = blocks.iter().map(|block| block.read(&part("ipBlocks")));
        let source = policy::Source {
            identities: identities.collect::<Result<_, _>>()?,
            namespaces: given(self.namespaces, &part("namespaces"))?,
            accounts: accounts.collect::<Result<_, _>>()?,
            blocks: blocks.collect::<Result<_, _>>()?,
            authenticated: self.authenticated.is_some(),
        };
        for name in &source.namespaces {
            SpiffeId::new(domain, name, "default")
                .or_else(|e| impossible(part("namespaces"), e.to_string()))?;
        }
        if is_possible(&source, domain) {
            Ok(source)
        } else {
            impossible(
                at,
                "identities, namespaces and accounts exclude each other, so that nobody is matched",
            )
        }
    }
}

fn identity(text: &str, domain: &TrustDomain, at: &str) -> Result<IdentityPattern, PolicyError> {
    let foreign = || {
        impossible(
            at,
            format!("{text} is of another trust domain than {domain}, so that nobody can prove it"),
        )
    };
    let Some(prefix) = text.strip_suffix('*') else {
        let exact: SpiffeId =
            text.parse().or_else(|e: lark_core::identity::IdentityError| impossible(at, e.to_string()))?;
        return if exact.trust_domain() == domain.as_str() {
            Ok(IdentityPattern::Exact(exact))
        } else {
            foreign()
        };
    };
    let rest = prefix.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/'));
    let Some((named, path)) = rest else {
        return impossible(
            at,
            format!("{text:?} must begin with spiffe://TRUST_DOMAIN/ and end in a whole segment /*"),
        );
    };
    if named != domain.as_str() {
        return foreign();
    }
    let segments: Vec<&str> = path.split('/').collect();
    let namespace = |name| SpiffeId::new(domain, name, "default").is_ok();
    let possible = match segments.as_slice() {
        [""] | ["ns", ""] => true,
        ["ns", name, ""] | ["ns", name, "sa", ""] => namespace(name),
        _ => false,
    };
    if possible {
        Ok(IdentityPattern::Below(prefix.to_owned()))
    } else {
        impossible(
            at,
            format!(
                "{text:?} matches no identity: they are spiffe://{domain}/ns/NAMESPACE/sa/ACCOUNT, and * stands for whole segments at the end"
            ),
        )
    }
}

fn account(text: &str, domain: &TrustDomain, own: &str, at: &str) -> Result<(String, String), PolicyError> {
    let (namespace, account) = text.split_once('/').unwrap_or((own, text));
    match SpiffeId::new(domain, namespace, account) {
        Ok(_) => Ok((namespace.to_owned(), account.to_owned())),
        Err(error) => impossible(at, error.to_string()),
    }
}

/// Whether some identity could fulfil all that is said of identities.
fn is_possible(source: &policy::Source, domain: &TrustDomain) -> bool {
    // By look-up and not pair by pair: a policy of the API's full size has 10^10 of them.
    let namespaces: HashSet<&str> = source.namespaces.iter().map(String::as_str).collect();
    let accounts: HashSet<(&str, &str)> =
        source.accounts.iter().map(|(n, a)| (n.as_str(), a.as_str())).collect();
    let of_accounts: HashSet<&str> = accounts.iter().map(|(namespace, _)| *namespace).collect();
    let below = format!("spiffe://{domain}/ns/");
    let in_namespaces = |pattern: &IdentityPattern| match pattern {
        IdentityPattern::Exact(exact) => namespaces.contains(exact.namespace()),
        IdentityPattern::Below(prefix) => namespace_of(prefix, &below).is_none_or(|n| namespaces.contains(n)),
    };
    let in_accounts = |pattern: &IdentityPattern| match pattern {
        IdentityPattern::Exact(exact) => accounts.contains(&(exact.namespace(), exact.account())),
        IdentityPattern::Below(prefix) => {
            namespace_of(prefix, &below).is_none_or(|n| of_accounts.contains(n))
        }
    };
    let identities = &source.identities;
    (identities.is_empty() || namespaces.is_empty() || identities.iter().any(in_namespaces))
        && (identities.is_empty() || accounts.is_empty() || identities.iter().any(in_accounts))
        && (accounts.is_empty() || namespaces.is_empty() || !of_accounts.is_disjoint(&namespaces))
}

/// The namespace of all identities that begin so; nothing if they are of several.
fn namespace_of<'a>(prefix: &'a str, below: &str) -> Option<&'a str> {
    prefix.strip_prefix(below)?.split('/').next().filter(|namespace| !namespace.is_empty())
}
