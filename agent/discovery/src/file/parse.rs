//! From text to snapshot.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lark_core::capture;
use lark_core::identity::{IdentityError, SpiffeId, TrustDomain};
use lark_core::mode::{Marks, Mtls, mode};
use lark_core::policy::BlockError;
use lark_core::snapshot::{self, Alike, Snapshot, SnapshotError};

use super::model;
use crate::policy;

/// Largest file that is read, in bytes.
pub const FILE_MAX: u64 = 64 * 1024 * 1024;

/// Why a file makes no snapshot. Each says the file, the place and the reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{path}: {what}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        what: String,
    },
    /// It is no such document.
    #[error("{path}:{line}:{column}: {what}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where, from 1.
        line: u64,
        /// Where, from 1.
        column: u64,
        /// What is wrong.
        what: String,
    },
    /// Something in it cannot be.
    #[error("{path}: {place}: {what}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Which entry, for example `workloads[3] (shop/web)`.
        place: String,
        /// What is wrong.
        what: String,
    },
}

/// Makes a snapshot of the document's text; `path` is for messages.
///
/// # Errors
/// When the text is not such a document, or says something that cannot be.
pub fn parse(path: &Path, text: &str, generation: u64) -> Result<Snapshot, FileError> {
    let file: model::MeshFile = serde_saphyr::from_str(text).map_err(|e| syntax(path, &e))?;
    build(path, file, generation)
}

fn syntax(path: &Path, error: &serde_saphyr::Error) -> FileError {
    let bare = error.without_snippet();
    let (line, column) = bare.location().map_or((0, 0), |l| (l.line(), l.column()));
    // The message repeats its place, which stands before it already.
    let message = bare.to_string();
    let what = message.lines().next().unwrap_or_default();
    let what = what.split(" at line ").next().unwrap_or(what);
    let what = match what.strip_prefix("error: ") {
        Some(rest) => rest,
        None => what,
    };
    FileError::Syntax { path: path.to_owned(), line, column, what: what.trim().to_owned() }
}

fn build(path: &Path, file: model::MeshFile, generation: u64) -> Result<Snapshot, FileError> {
    let invalid = |place: &str, what: String| FileError::Invalid {
        path: path.to_owned(),
        place: place.to_owned(),
        what,
    };
    let trust_domain = TrustDomain::new(&file.mesh.trust_domain)
        .map_err(|e: IdentityError| invalid("mesh.trustDomain", e.to_string()))?;
    let mesh = snapshot::MeshSettings {
        trust_domain: trust_domain.clone(),
        same_node: match file.mesh.same_node {
            model::SameNode::Agent => snapshot::SameNode::Agent,
            model::SameNode::Mtls => snapshot::SameNode::Mtls,
            model::SameNode::Direct => snapshot::SameNode::Direct,
        },
        agent_down: match file.mesh.agent_down {
            model::AgentDown::Untouched => snapshot::AgentDown::Untouched,
            model::AgentDown::Refuse => snapshot::AgentDown::Refuse,
        },
        policy_change: match file.mesh.policy_change {
            model::PolicyChange::End => snapshot::PolicyChange::End,
            model::PolicyChange::Keep => snapshot::PolicyChange::Keep,
        },
        cluster_ranges: file
            .mesh
            .cluster_ranges
            .iter()
            .enumerate()
            .map(|(i, text)| {
                let wrong = |e: BlockError| invalid(&format!("mesh.clusterRanges[{i}]"), e.to_string());
                text.parse().map_err(wrong)
            })
            .collect::<Result<_, _>>()?,
    };
    let mtls = match file.mesh.mtls {
        model::Mtls::Permissive => Mtls::Permissive,
        model::Mtls::Strict => Mtls::Strict,
    };
    let namespaces: HashMap<&str, Marks<'_>> = file
        .namespaces
        .iter()
        .map(|n| (n.name.as_str(), Marks { labels: &n.labels, annotations: &n.annotations }))
        .collect();
    let nodes = file
        .nodes
        .iter()
        .enumerate()
        .map(|(i, node)| {
            let place = format!("nodes[{i}] ({})", node.name);
            if node.addresses.is_empty() {
                return Err(invalid(&place, "a node needs an address".to_owned()));
            }
            Ok(snapshot::Node {
                name: node.name.as_str().into(),
                addresses: node.addresses.clone(),
                tunnel_port: node.tunnel_port,
                zone: None,
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let none = BTreeMap::new();
    let mut alike = Alike::default();
    let workloads = file
        .workloads
        .into_iter()
        .enumerate()
        .map(|(i, workload)| {
            let place = format!("workloads[{i}] ({}/{})", workload.namespace, workload.name);
            let outer = namespaces.get(workload.namespace.as_str()).copied();
            let outer = outer.unwrap_or(Marks { labels: &none, annotations: &none });
            let mut workload =
                self::workload(workload, outer, mtls, &trust_domain).map_err(|what| invalid(&place, what))?;
            alike.workload(&mut workload);
            Ok(workload)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let services = file.services.into_iter().map(service).collect();
    let namespaces = file.namespaces.into_iter().map(|n| (n.name.into(), n.labels)).collect();
    let policies =
        policy::read(&trust_domain, namespaces, file.authorization_policies, file.network_policies);
    let snapshot = Snapshot::build(generation, mesh, nodes, workloads, services)
        .map_err(|e: SnapshotError| invalid("document", e.to_string()))?;
    if let Some(lost) = snapshot.workloads().find(|w| snapshot.node(&w.node).is_none()) {
        let what = format!("workload {} runs on node {}, which is not listed", lost.full_name(), lost.node);
        return Err(invalid("document", what));
    }
    Ok(snapshot.with_policies(policies))
}

fn workload(
    workload: model::Workload,
    outer: Marks<'_>,
    mtls: Mtls,
    domain: &TrustDomain,
) -> Result<snapshot::Workload, String> {
    let identity =
        SpiffeId::new(domain, &workload.namespace, &workload.account).map_err(|e| e.to_string())?;
    if workload.name.is_empty() {
        return Err("a workload needs a name".to_owned());
    }
    for address in &workload.addresses {
        if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
            return Err(format!("{address} is no workload's address"));
        }
    }
    if workload.network_namespace.as_ref().is_some_and(|p| !p.is_absolute()) {
        return Err("networkNamespace must be an absolute path".to_owned());
    }
    let netns = workload
        .network_namespace
        .or_else(|| workload.host_network.then(|| PathBuf::from("/proc/self/ns/net")));
    let place = match (workload.cgroup, netns) {
        (Some(cgroup), Some(netns)) => Some(Box::new(snapshot::Place { cgroup, netns })),
        (None, None) => None,
        (Some(_), None) => return Err("cgroup is given, so networkNamespace must be too".to_owned()),
        (None, Some(_)) if workload.host_network => None,
        (None, Some(_)) => return Err("networkNamespace is given, so cgroup must be too".to_owned()),
    };
    let uid = workload.uid.unwrap_or_else(|| format!("{}.{}", workload.namespace, workload.name));
    if uid.is_empty() || uid.len() > 253 {
        return Err("uid must have 1 to 253 characters".to_owned());
    }
    let wanted = capture::wanted(&workload.namespace, outer.labels, &workload.labels);
    let own = Marks { labels: &workload.labels, annotations: &workload.annotations };
    Ok(snapshot::Workload {
        uid: uid.into(),
        mode: mode(mtls, outer, own),
        capture: capture::beside_foreign(
            wanted,
            !workload.foreign_policies.is_empty(),
            &workload.annotations,
        ),
        foreign_policies: workload.foreign_policies.into(),
        namespace: workload.namespace.into(),
        name: workload.name.into(),
        account: workload.account.into(),
        identity,
        labels: Arc::new(workload.labels),
        addresses: workload.addresses.into(),
        contested: Box::default(),
        node: workload.node.into(),
        owner: workload.owner.map(|o| format!("{}/{}", o.kind, o.name).into()),
        host_network: workload.host_network,
        ports: workload
            .ports
            .into_iter()
            .map(|p| snapshot::NamedPort { name: p.name, port: p.port })
            .collect(),
        place,
    })
}

fn service(service: model::Service) -> snapshot::Service {
    snapshot::Service {
        namespace: service.namespace.into(),
        name: service.name.into(),
        addresses: service.addresses,
        ports: service
            .ports
            .into_iter()
            .map(|p| snapshot::ServicePort {
                name: p.name,
                port: p.port,
                target_port: p.target_port.unwrap_or(p.port),
            })
            .collect(),
        endpoints: service
            .endpoints
            .into_iter()
            .map(|e| snapshot::Endpoint::new(e.address, e.ready))
            .collect(),
        traffic: snapshot::Traffic::default(),
    }
}
