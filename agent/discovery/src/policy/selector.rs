//! What both kinds of policies select by.

use std::collections::BTreeMap;

use lark_core::policy::{self, Block};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{PolicyError, impossible};

/// A label selector of Kubernetes. All requirements must hold; an empty one selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelector {
    /// Labels that must be there with these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Other requirements.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Requirement>,
}

/// One requirement of a selector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// What holds of it.
    pub operator: Operator,
    /// Values for `In` and `NotIn`; none for the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// See [`Requirement::operator`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Operator {
    /// It is there and has one of the values.
    In,
    /// It is not there, or has none of the values.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

/// A range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IpBlock {
    /// The range, for example `10.0.0.0/8`.
    pub cidr: String,
    /// Ranges inside that do not belong to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
}

/// Characters of a name in a label (Kubernetes: qualified name, label value).
fn is_name(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

fn key(key: &str, at: &str) -> Result<String, PolicyError> {
    let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(p, n)| (Some(p), n));
    let prefix_holds = prefix.is_none_or(|p| !p.is_empty() && p.len() <= 253 && p.split('.').all(is_name));
    if prefix_holds && is_name(name) {
        Ok(key.to_owned())
    } else {
        impossible(at, format!("{key:?} is no label's name"))
    }
}

fn value(value: &str, at: &str) -> Result<String, PolicyError> {
    if value.is_empty() || is_name(value) {
        Ok(value.to_owned())
    } else {
        impossible(at, format!("{value:?} is no label's value"))
    }
}

impl LabelSelector {
    /// The same, found possible; `at` says where it stands.
    ///
    /// # Errors
    /// When no label could ever be as it says.
    pub fn read(&self, at: &str) -> Result<policy::Selector, PolicyError> {
        let labels_at = format!("{at}.matchLabels");
        let labels = self.match_labels.iter().map(|(k, v)| Ok((key(k, &labels_at)?, value(v, &labels_at)?)));
        let expressions = self
            .match_expressions
            .iter()
            .enumerate()
            .map(|(i, requirement)| requirement.read(&format!("{at}.matchExpressions[{i}]")));
        Ok(policy::Selector {
            labels: labels.collect::<Result<_, PolicyError>>()?,
            expressions: expressions.collect::<Result<_, PolicyError>>()?,
        })
    }
}

impl Requirement {
    fn read(&self, at: &str) -> Result<policy::Requirement, PolicyError> {
        let values = self.values.iter().map(|v| value(v, at)).collect::<Result<Vec<_>, _>>()?;
        let operator = match (self.operator, values.is_empty()) {
            (Operator::In, false) => policy::Operator::In(values),
            (Operator::NotIn, false) => policy::Operator::NotIn(values),
            (Operator::Exists, true) => policy::Operator::Exists,
            (Operator::DoesNotExist, true) => policy::Operator::DoesNotExist,
            (Operator::In | Operator::NotIn, true) => return impossible(at, "In and NotIn need values"),
            (Operator::Exists | Operator::DoesNotExist, false) => {
                return impossible(at, "Exists and DoesNotExist take no values");
            }
        };
        Ok(policy::Requirement { key: key(&self.key, at)?, operator })
    }
}

impl IpBlock {
    /// The same, found possible; `at` says where it stands.
    ///
    /// # Errors
    /// When it is no range, or a hole is not inside.
    pub fn read(&self, at: &str) -> Result<Block, PolicyError> {
        Block::new(&self.cidr, &self.except).or_else(|error| impossible(at, error.to_string()))
    }
}
