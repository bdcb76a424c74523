//! Where workloads are known from: `--discovery`.

use std::path::{Path, PathBuf};

use anyhow::bail;
use lark_core::constants::TUNNEL_PORT;
use lark_core::identity::TrustDomain;
use lark_core::mode::Mtls;
use lark_core::snapshot::{AgentDown, MeshSettings, PolicyChange, SameNode};
use lark_discovery::Discovery;
use lark_discovery::kubernetes::{Access, Mesh};

use crate::cli::agent::{self as cli, MeshArgs};

/// What `--discovery` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// The API of a cluster.
    Kubernetes(Access),
}

impl Source {
    /// Reads the flag's value.
    ///
    /// # Errors
    /// When it is of no known form.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let source = match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Self::File(path.into()),
            Some(("kubernetes", path)) if !path.is_empty() => {
                Self::Kubernetes(Access::Kubeconfig(path.into()))
            }
            None if text == "kubernetes" => Self::Kubernetes(Access::InCluster),
            _ => bail!("--discovery {text} must be kubernetes, kubernetes:KUBECONFIG or file:PATH"),
        };
        Ok(source)
    }

    /// Whether pods' places have to be found on the node.
    pub fn is_cluster(&self) -> bool {
        matches!(self, Self::Kubernetes(_))
    }

    /// Starts it, and waits for its first state.
    ///
    /// # Errors
    /// When it cannot be used, or settings of the mesh are given twice.
    pub async fn discover(&self, mesh: &MeshArgs) -> anyhow::Result<Discovery> {
        match self {
            Self::File(path) => from_file(path, mesh).await,
            Self::Kubernetes(access) => {
                let settings = settings(mesh)?;
                tracing::info!("waiting until the cluster's API has told everything once");
                let mtls = match mesh.mtls {
                    Some(cli::Mtls::Strict) => Mtls::Strict,
                    Some(cli::Mtls::Permissive) | None => Mtls::Permissive,
                };
                let mesh = Mesh { settings, mtls, tunnel_port: TUNNEL_PORT };
                Ok(lark_discovery::kubernetes::watch(access, mesh).await?)
            }
        }
    }
}

fn settings(mesh: &MeshArgs) -> anyhow::Result<MeshSettings> {
    let domain = mesh.trust_domain.as_deref().unwrap_or("cluster.local");
    Ok(MeshSettings {
        trust_domain: TrustDomain::new(domain)?,
        same_node: match mesh.same_node {
            Some(cli::SameNode::Agent) => SameNode::Agent,
            Some(cli::SameNode::Mtls) => SameNode::Mtls,
            Some(cli::SameNode::Direct) => SameNode::Direct,
            None => SameNode::default(),
        },
        agent_down: match mesh.agent_down {
            Some(cli::AgentDown::Untouched) => AgentDown::Untouched,
            Some(cli::AgentDown::Refuse) => AgentDown::Refuse,
            None => AgentDown::default(),
        },
        policy_change: match mesh.policy_change {
            Some(cli::PolicyChange::End) => PolicyChange::End,
            Some(cli::PolicyChange::Keep) => PolicyChange::Keep,
            None => PolicyChange::default(),
        },
        cluster_ranges: mesh.cluster_range.clone(),
    })
}

async fn from_file(path: &Path, mesh: &MeshArgs) -> anyhow::Result<Discovery> {
    if !mesh.is_empty() {
        bail!(
            "{} says what --trust-domain, --agent-down, --same-node, --policy-change, --mtls and --cluster-range would: leave these away",
            path.display()
        );
    }
    Ok(lark_discovery::file::watch(path).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_and_others_refused() {
        assert_eq!(Source::parse("file:mesh.yaml").unwrap(), Source::File("mesh.yaml".into()));
        assert_eq!(Source::parse("kubernetes").unwrap(), Source::Kubernetes(Access::InCluster));
        let config = Source::Kubernetes(Access::Kubeconfig("/etc/a:b".into()));
        assert_eq!(Source::parse("kubernetes:/etc/a:b").unwrap(), config);
        for odd in ["", "file", "file:", "mesh.yaml", "kubernetes:", "etcd:x"] {
            let said = Source::parse(odd).unwrap_err().to_string();
            assert!(said.contains("must be kubernetes"), "{said}");
        }
    }
}
