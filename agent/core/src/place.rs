//! Where a pod is on its node: which directories of a cgroup tree are pods', by the names that kubelets
//! give them. Names only; that a directory really is the pod's is shown by the processes in it.
//!
//! Both of kubelet's drivers are read (`pkg/kubelet/cm/cgroup_manager_linux.go` and `helpers_linux.go` of
//! Kubernetes 1.32 to 1.36), with any `--cgroup-root` above them:
//!
//! ```text
//! cgroupfs  /kubepods/pod<UID>                  /kubepods/{burstable,besteffort}/pod<UID>
//! systemd   /kubepods.slice/kubepods-pod<UID>.slice
//!           /kubepods.slice/kubepods-{burstable,besteffort}.slice/kubepods-{…}-pod<UID>.slice
//! ```
//!
//! In systemd's names `-` separates levels, so that a UID's are written `_` there. Below a pod are its
//! containers: containerd's are `<ID>` or `cri-containerd-<ID>.scope`, CRI-O's `crio-<ID>` or
//! `crio-<ID>.scope`, with `crio-conmon-<ID>.scope` for the monitor of one, which is none of the pod's own
//! processes.

mod looks;

use std::net::IpAddr;

pub use looks::Looks;

/// The quality-of-service class whose directory a pod is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Requests equal limits.
    Guaranteed,
    /// Some requests.
    Burstable,
    /// None.
    BestEffort,
}

/// What a directory of a cgroup tree is, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Directory {
    /// Pods' directories are, or come to be, below it.
    Pods,
    /// A pod's own.
    Pod {
        /// The pod's UID, as the API writes it.
        uid: String,
        /// Its class.
        class: Class,
    },
}

const CLASSES: [(&str, Class); 2] = [("burstable", Class::Burstable), ("besteffort", Class::BestEffort)];

/// Reads the path of a directory, relative to the root of the tree. `None`: no pod's, and no parent of
/// pods'.
pub fn directory(path: &str) -> Option<Directory> {
    let mut parts = path.trim_matches('/').rsplit('/');
    let (name, parent) = (parts.next()?, parts.next().unwrap_or_default());
    if let Some(stem) = name.strip_suffix(".slice") {
        return slice(stem);
    }
    // The cgroupfs driver's; its parents are known by their names alone.
    if name == "kubepods" {
        return Some(Directory::Pods);
    }
    let class = |name: &str| CLASSES.iter().find(|(word, _)| *word == name).map(|(_, class)| *class);
    if parent == "kubepods" && class(name).is_some() {
        return Some(Directory::Pods);
    }
    let of = match class(parent) {
        Some(class) => class,
        None if parent == "kubepods" => Class::Guaranteed,
        None => return None,
    };
    Some(Directory::Pod { uid: uid(name.strip_prefix("pod")?)?, class: of })
}

/// A slice of systemd's by its name, which has those of its parents in it.
fn slice(stem: &str) -> Option<Directory> {
    // What is above `kubepods` is `--cgroup-root`.
    let rest = match stem.strip_prefix("kubepods") {
        Some(rest) => rest,
        None => stem.split_once("-kubepods")?.1,
    };
    let (class, rest) = CLASSES
        .iter()
        .find_map(|(word, class)| Some((*class, rest.strip_prefix('-')?.strip_prefix(word)?)))
        .unwrap_or((Class::Guaranteed, rest));
    if rest.is_empty() {
        return Some(Directory::Pods);
    }
    let name = rest.strip_prefix("-pod")?;
    Some(Directory::Pod { uid: uid(&name.replace('_', "-"))?, class })
}

/// A UID of the API: RFC 4122 in lower case. Static pods have 32 hexadecimal digits instead.
fn uid(text: &str) -> Option<String> {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let is_uuid = text.len() == 36
        && text
            .bytes()
            .enumerate()
            .all(|(i, b)| if [8, 13, 18, 23].contains(&i) { b == b'-' } else { hex(b) });
    let is_static = text.len() == 32 && text.bytes().all(hex);
    (is_uuid || is_static).then(|| text.to_owned())
}

/// Whether a directory below a pod's holds processes of the container runtime, not of the pod.
pub fn is_runtimes_own(name: &str) -> bool {
    name.starts_with("crio-conmon-")
}

/// A network namespace in which processes of a pod are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// What tells it from others.
    pub inode: u64,
    /// The pod's addresses that it has, if that could be read.
    pub addresses: Option<Vec<IpAddr>>,
}

/// Why it is not known in which network namespace a pod is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NamespaceError {
    /// No process of the pod runs yet, or any more.
    #[error("no process of it runs on this node yet")]
    NoProcess,
    /// All processes of the pod are on the node's own network, which is not theirs: a runtime puts one into the pod's
    /// cgroup before it enters the sandbox.
    #[error("its processes are on the node's own network, as they are until its sandbox is made")]
    NotInSandbox,
    /// The API does not tell the pod's address yet.
    #[error("the cluster's API does not tell its address yet")]
    NoAddress,
    /// None of the processes' namespaces has the pod's address.
    #[error("none of the {count} network namespaces of its processes has its address {address}")]
    Foreign {
        /// How many there are.
        count: usize,
        /// What was looked for.
        address: IpAddr,
    },
    /// More than one of the processes' namespaces has the pod's address.
    #[error(
        "{count} network namespaces of its processes have its address {address}, so that none is known to be its own: the pod made others and gave them this address"
    )]
    Ambiguous {
        /// How many have it.
        count: usize,
        /// The address.
        address: IpAddr,
    },
    /// Of one of the processes' namespaces it is not known which addresses it has.
    #[error("the addresses of {count} network namespaces of its processes cannot be read, or are too many")]
    Unread {
        /// How many that are.
        count: usize,
    },
    /// The pod is to be on the node's network and is not.
    #[error("it is to be on the node's own network, and its processes are not")]
    NotOnHost,
}

/// Which of the namespaces is the pod's: the node's own for one on the host network, else the one that has
/// all of the pod's addresses and is not the node's. A container may have made more of them: as long as one of
/// those has the addresses too, it is not guessed.
///
/// # Errors
/// When it is not known, with the reason.
pub fn namespace(
    candidates: &[Candidate],
    host: u64,
    host_network: bool,
    addresses: &[IpAddr],
) -> Result<u64, NamespaceError> {
    if candidates.is_empty() {
        return Err(NamespaceError::NoProcess);
    }
    if host_network {
        let found = candidates.iter().any(|c| c.inode == host);
        return if found { Ok(host) } else { Err(NamespaceError::NotOnHost) };
    }
    let first = *addresses.first().ok_or(NamespaceError::NoAddress)?;
    let own = || candidates.iter().filter(|c| c.inode != host);
    if own().next().is_none() {
        return Err(NamespaceError::NotInSandbox);
    }
    // It may be the pod's.
    let unread = own().filter(|c| c.addresses.is_none()).count();
    if unread > 0 {
        return Err(NamespaceError::Unread { count: unread });
    }
    let has_all = |c: &&Candidate| c.addresses.iter().any(|has| addresses.iter().all(|a| has.contains(a)));
    let mut found: Vec<u64> = own().filter(has_all).map(|c| c.inode).collect();
    found.sort_unstable();
    found.dedup();
    match *found {
        [] => Err(NamespaceError::Foreign { count: candidates.len(), address: first }),
        [inode] => Ok(inode),
        _ => Err(NamespaceError::Ambiguous { count: found.len(), address: first }),
    }
}

#[cfg(test)]
mod tests;
