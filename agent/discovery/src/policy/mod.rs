//! Policies as manifests write them: AuthorizationPolicy (`lark.mesh/v1alpha1`) and NetworkPolicy
//! (`networking.k8s.io/v1`). Whatever discovery finds them in hands them over as JSON values; each is
//! read for itself, and one that cannot be read becomes an [`Unreadable`] that closes what it selects.

mod authorization;
mod network;
mod selector;

pub use authorization::{Action, AuthorizationPolicy, AuthorizationSpec, Rule, Source, To};
pub use network::{
    EgressRule, IngressRule, NetworkPolicy, NetworkPolicySpec, Peer, PolicyType, Port, PortNumber, Protocol,
};
pub use selector::{IpBlock, LabelSelector, Operator, Requirement};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lark_core::constants::SYSTEM_NAMESPACE;
use lark_core::identity::TrustDomain;
use lark_core::policy::{Kind, Labels, Policies, PolicyName, Selector, Unreadable};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a manifest says of itself. Fields that Kubernetes adds are taken and not looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Metadata {
    /// Its namespace.
    pub namespace: String,
    /// Its name, unique among its kind in the namespace.
    pub name: String,
}

/// Why a policy is not usable. A sentence each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// It is no manifest of its kind.
    #[error("{0}")]
    Form(String),
    /// Something in it can never be, or never match.
    #[error("{at}: {what}")]
    Impossible {
        /// Where, for example `spec.rules[1].from[0]`.
        at: String,
        /// What.
        what: String,
    },
    /// Another one before it has its name.
    #[error("it appears twice")]
    Twice,
}

/// Says that something can never be.
fn impossible<T>(at: impl Into<String>, what: impl Into<String>) -> Result<T, PolicyError> {
    Err(PolicyError::Impossible { at: at.into(), what: what.into() })
}

/// Reads all policies of a moment.
pub fn read(
    domain: &TrustDomain,
    namespaces: BTreeMap<Arc<str>, Labels>,
    authorization: Vec<Value>,
    network: Vec<Value>,
) -> Policies {
    let mut policies = Policies { namespaces, ..Policies::default() };
    let mut names = BTreeSet::new();
    for (value, kind) in authorization
        .into_iter()
        .map(|value| (value, Kind::Authorization))
        .chain(network.into_iter().map(|value| (value, Kind::Network)))
    {
        let name = name(kind, &value);
        let read = if names.insert(name.clone()) {
            one(domain, kind, &value, &mut policies)
        } else {
            Err(PolicyError::Twice)
        };
        if let Err(error) = read {
            policies.unreadable.push(unreadable(name, &value, &error));
        }
    }
    policies
}

fn one(domain: &TrustDomain, kind: Kind, value: &Value, policies: &mut Policies) -> Result<(), PolicyError> {
    match kind {
        Kind::Authorization => {
            let policy: AuthorizationPolicy = form(value)?;
            policies.authorization.push(policy.read(domain)?);
        }
        Kind::Network => {
            let policy: NetworkPolicy = form(value)?;
            policies.network.push(policy.read()?);
        }
    }
    Ok(())
}

fn form<T: DeserializeOwned + Serialize>(value: &Value) -> Result<T, PolicyError> {
    let failed = |error: serde_json::Error| PolicyError::Form(error.to_string());
    let read = T::deserialize(value).map_err(failed)?;
    // serde takes a list for a structure, field by field: an empty one would be a rule that says nothing.
    if is_shaped(value, &serde_json::to_value(&read).map_err(failed)?) {
        Ok(read)
    } else {
        Err(PolicyError::Form("a list stands where fields by name belong".to_owned()))
    }
}

/// Whether lists are lists and structures structures wherever both have something.
fn is_shaped(given: &Value, read: &Value) -> bool {
    match (given, read) {
        (Value::Array(given), Value::Array(read)) => given.iter().zip(read).all(|(g, r)| is_shaped(g, r)),
        (Value::Object(given), Value::Object(read)) => {
            given.iter().all(|(key, g)| read.get(key).is_none_or(|r| is_shaped(g, r)))
        }
        (given, _) => !given.is_array(),
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn name(kind: Kind, value: &Value) -> PolicyName {
    let part = |pointer| text(value, pointer).chars().take(253).collect::<String>().into();
    PolicyName { kind, namespace: part("/metadata/namespace"), name: part("/metadata/name") }
}

/// What a policy closes that cannot be read: the workloads of its selector if that can be, or else all
/// from which it would have selected.
fn unreadable(policy: PolicyName, value: &Value, error: &PolicyError) -> Unreadable {
    let pointer = match policy.kind {
        Kind::Authorization => "/spec/selector",
        Kind::Network => "/spec/podSelector",
    };
    let read = |value: &Value| form::<LabelSelector>(value).and_then(|s| s.read("selector")).ok();
    let selector: Option<Selector> = value.pointer(pointer).and_then(read);
    let everywhere = policy.namespace.is_empty()
        || policy.kind == Kind::Authorization && &*policy.namespace == SYSTEM_NAMESPACE;
    Unreadable {
        within: (!everywhere).then(|| policy.namespace.clone()),
        why: error.to_string(),
        selector: selector.unwrap_or_default(),
        dry_run: policy.kind == Kind::Authorization
            && value.pointer("/spec/dryRun") == Some(&Value::Bool(true)),
        policy,
    }
}

#[cfg(test)]
mod tests;
