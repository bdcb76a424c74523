//! Roots while they are replaced: what nodes hold decides when the next phase begins, and whatever follows
//! from a phase is done in one order. The listener is vouched for by a root that every node holds before
//! nodes are told to hold others; files come last and are put right again and again.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lark_core::identity::TrustDomain;
use lark_core::rotation::{NodeFacts, Phase, RootId, State, Step, Waiting, step};
use lark_core::snapshot::Snapshot;
use lark_core::view::{CaView, NodeHolds, RootView};
use lark_identity::authority::{Authority, AuthorityError, Offered, OnDisk};
use lark_identity::given::{GivenFiles, LOOK_EVERY};
use lark_identity::listener::ServingCertificate;
use lark_identity::nodes::Nodes;
use tokio::sync::watch;

use super::replica::{Replica, ReplicaError};

/// How often the next phase is considered.
const EVERY: Duration = Duration::from_millis(500);

/// Why a person's wish is not followed.
#[derive(Debug, thiserror::Error)]
pub(super) enum WishError {
    /// It makes no sense, or files cannot be written.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The same of several controllers.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// There is no such node.
    #[error("discovery has no node {0:?}; see NODE in `lark ca status`")]
    NoSuchNode(String),
}

/// Where the roots are kept.
pub(super) enum Keeper {
    /// In a directory, by this controller alone.
    Disk(OnDisk),
    /// In the cluster, by the replica that leads.
    Cluster(Arc<Replica>),
}

/// The roots and everybody who needs to know of them.
pub(super) struct Rotation {
    pub(super) authority: Arc<Authority>,
    pub(super) keeper: Keeper,
    pub(super) nodes: Nodes,
    pub(super) certificate: Arc<ServingCertificate>,
    pub(super) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(super) domain: TrustDomain,
}

fn unix(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Rotation {
    /// Begins a rotation to a root made here.
    pub(super) async fn rotate(&self) -> Result<CaView, WishError> {
        match &self.keeper {
            Keeper::Disk(disk) => drop(disk.rotate(&self.domain, SystemTime::now())?),
            Keeper::Cluster(replica) => drop(replica.rotate().await?),
        }
        Ok(self.changed())
    }

    /// Takes the rotation back.
    pub(super) async fn abort(&self) -> Result<CaView, WishError> {
        match &self.keeper {
            Keeper::Disk(disk) => drop(disk.abort(SystemTime::now())?),
            Keeper::Cluster(replica) => {
                drop(replica.abort().await?);
            }
        }
        Ok(self.changed())
    }

    /// Goes on without a node for as long as it is silent.
    pub(super) async fn without(&self, node: &str) -> Result<CaView, WishError> {
        if self.snapshot.borrow().node(node).is_none() {
            return Err(WishError::NoSuchNode(node.chars().take(80).collect()));
        }
        let node = [node.to_owned()];
        match &self.keeper {
            Keeper::Disk(disk) => drop(disk.without(node)?),
            Keeper::Cluster(replica) => {
                drop(replica.without(node).await?);
            }
        }
        Ok(self.changed())
    }

    /// Whether this controller leads; one that is alone does.
    pub(super) fn leads(&self) -> bool {
        match &self.keeper {
            Keeper::Disk(_) => true,
            Keeper::Cluster(replica) => replica.leads(),
        }
    }

    /// Who has to be asked what only the one knows that leads, if it is not this one.
    pub(super) fn elsewhere(&self) -> Option<String> {
        match &self.keeper {
            Keeper::Cluster(replica) if !replica.leads() => Some(match replica.leader() {
                Some(leader) => format!(
                    "replica {leader} leads and follows the nodes; ask it: `kubectl exec {leader} -- lark …` in its namespace"
                ),
                None => "no replica of the controller leads just now; ask again".to_owned(),
            }),
            _ => None,
        }
    }

    fn changed(&self) -> CaView {
        said(&self.authority.state());
        self.follow();
        self.view()
    }

    /// Brings the listener, the nodes and the files in line with the state.
    pub(super) fn follow(&self) {
        if let Err(error) = self.certificate.renew_if_due(SystemTime::now()) {
            tracing::error!(%error, "the controller's own certificate is not renewed");
        }
        self.nodes.tell(self.authority.trust());
        if let Keeper::Disk(disk) = &self.keeper
            && let Err(error) = disk.tidy()
        {
            tracing::error!(%error, "the files of the CA are not as they should be; it is tried again");
        }
    }

    fn facts(&self) -> Vec<NodeFacts> {
        let snapshot = self.snapshot.borrow().clone();
        // By name, as people are told whom a phase waits for.
        let mut names: Vec<&str> = snapshot.nodes().map(|node| &*node.name).collect();
        names.sort_unstable();
        self.nodes.facts(names)
    }

    /// Goes from phase to phase as nodes follow, for ever. To be dropped at will.
    pub(super) async fn run(&self) {
        let mut told = String::new();
        loop {
            tokio::time::sleep(EVERY).await;
            let advanced = match &self.keeper {
                Keeper::Disk(disk) => disk.advance(&self.facts(), SystemTime::now()).map_err(WishError::from),
                Keeper::Cluster(replica) => replica.advance(&self.facts()).await.map_err(WishError::from),
            };
            match advanced {
                Ok(Some(state)) => said(&state),
                Ok(None) => {}
                Err(error) if error.to_string() == told => {}
                Err(error) => {
                    told = error.to_string();
                    tracing::error!(%error, "the next phase of the rotation cannot begin; it is tried again");
                }
            }
            self.follow();
        }
    }

    /// Takes up what somebody else puts into the files of the CA, for ever. To be dropped at will.
    pub(super) async fn follow_given(&self, given: Option<GivenFiles>) {
        let (Some(mut files), Keeper::Disk(disk)) = (given, &self.keeper) else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let ca = match files.changed() {
                None => continue,
                Some(Ok(ca)) => ca,
                Some(Err(error)) => {
                    tracing::error!(%error, "the CA's files are not usable; the CA from before stays");
                    continue;
                }
            };
            match disk.offer(ca, SystemTime::now()) {
                Ok(Offered::Same) => {}
                Ok(Offered::Swapped) => tracing::info!("the CA is replaced by another of the same root"),
                Ok(Offered::Begun) => said(&self.authority.state()),
                Ok(Offered::Waits) => {
                    tracing::warn!(
                        "a CA of another root was given; its turn comes when the rotation under way has ended"
                    );
                }
                Ok(Offered::TakenBack) => {
                    tracing::warn!(
                        "a CA was given of a root whose rotation was taken back: it begins by `lark ca rotate` alone"
                    );
                }
                Err(error) => tracing::error!(%error, "the CA that was given cannot be taken up"),
            }
            self.follow();
        }
    }

    /// Does what a replica has to do all the time, for ever. To be dropped at will.
    pub(super) async fn replicate(&self) {
        match &self.keeper {
            Keeper::Disk(_) => std::future::pending().await,
            Keeper::Cluster(replica) => replica.run(&self.nodes).await,
        }
    }

    /// Lets another one lead at once.
    pub(super) async fn leave(&self) {
        if let Keeper::Cluster(replica) = &self.keeper {
            replica.release().await;
        }
    }

    /// The roots, and which node holds what.
    pub(super) fn view(&self) -> CaView {
        let (state, facts) = (self.authority.state(), self.facts());
        let waits = match step(&state, &facts, unix(SystemTime::now())) {
            Step::Stay(waits) => waits,
            Step::Next(_) => Vec::new(),
        };
        let snapshot = self.snapshot.borrow().clone();
        let mut nodes: Vec<_> = snapshot.nodes().map(|node| self.node(&node.name, &waits)).collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        CaView {
            trust_domain: self.domain.to_string(),
            phase: state.phase.label().to_owned(),
            meaning: state.meaning(),
            epoch: state.epoch,
            since: state.since,
            roots: state.phase.roots().into_iter().map(|root| self.root(&state, root)).collect(),
            nodes,
            waits_for: waits.iter().map(sentence).collect(),
        }
    }

    fn node(&self, name: &str, waits: &[Waiting]) -> NodeHolds {
        let heard = self.nodes.state(name);
        let names = |ids: &[RootId]| ids.iter().map(ToString::to_string).collect();
        let report = heard.as_ref().map(|heard| &heard.report);
        NodeHolds {
            name: name.to_owned(),
            heard: heard.as_ref().map(|heard| heard.silent.as_secs()),
            version: heard.as_ref().map(|heard| heard.version.clone()),
            epoch: report.map(|report| report.epoch),
            roots: report.map(|report| names(&report.roots)).unwrap_or_default(),
            svids: report.map(|report| names(&report.svids)).unwrap_or_default(),
            asking: report.is_some_and(|report| report.asking),
            waits_for: waits
                .iter()
                .find(|waiting| waiting.node == name)
                .map(|waiting| waiting.why.to_string()),
        }
    }

    fn root(&self, state: &State, root: RootId) -> RootView {
        let plan = state.plan();
        let ca = self.authority.ca(root);
        let roles = [
            (plan.trusted.contains(&root), "trusted"),
            (plan.issuer == root, "issues"),
            (plan.serves == root, "serves"),
        ];
        RootView {
            id: root.to_string(),
            roles: roles.iter().filter(|(has, _)| *has).map(|(_, role)| (*role).to_owned()).collect(),
            expires_at: ca.as_ref().map(|ca| unix(ca.not_after())),
            key: ca.is_some(),
        }
    }
}

fn sentence(waiting: &Waiting) -> String {
    if waiting.node.is_empty() {
        waiting.why.to_string()
    } else {
        format!("{}: {}", waiting.node, waiting.why)
    }
}

pub(super) fn said(state: &State) {
    let (phase, meaning) = (state.phase.label(), state.meaning());
    match state.phase {
        Phase::Steady { root } => tracing::info!(phase, root = root.short(), "{meaning}"),
        _ => tracing::info!(phase, epoch = state.epoch, "root rotation: {meaning}"),
    }
}
