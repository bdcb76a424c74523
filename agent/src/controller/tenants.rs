//! Who asks about the cluster, and what he may see: by his token of the cluster's API.
//!
//! Invariants: nobody is believed whom the API does not know now or did not know half a minute ago; what the API cannot
//! say he may not see; tokens are kept as hashes; and so many are kept, and so many questions open, at most.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use lark_core::sight::Sight;
use lark_core::snapshot::Snapshot;
use lark_discovery::kubernetes::{AccessError, AccessReviews};
use lark_identity::token::{Hash, hash};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

/// How long an answer of the API counts.
const KNOWN_FOR: Duration = Duration::from_secs(30);
/// Answers that are kept.
const KNOWN_MAX: usize = 1024;
/// People about whom the API is asked at once; the others wait.
const AT_ONCE: usize = 4;
/// Namespaces of one about which it is asked at once.
const NAMESPACES_AT_ONCE: usize = 16;
/// How long the API may take to say all of one.
const ANSWER: Duration = Duration::from_secs(5);
/// Longest token, in bytes.
const TOKEN_MAX: usize = 8192;

/// Who may see what.
pub(super) struct Tenants {
    reviews: AccessReviews,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    known: Mutex<HashMap<Hash, (Arc<Seer>, Instant)>>,
    asking: Semaphore,
}

/// Somebody who asks.
#[derive(Debug)]
pub(super) struct Seer {
    /// His name, as the API server knows him.
    pub(super) name: String,
    pub(super) sight: Sight,
}

impl Tenants {
    pub(super) fn new(reviews: AccessReviews, snapshot: watch::Receiver<Arc<Snapshot>>) -> Self {
        Self { reviews, snapshot, known: Mutex::default(), asking: Semaphore::new(AT_ONCE) }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Hash, (Arc<Seer>, Instant)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose a token is, and what he may see.
    pub(super) async fn seer(&self, token: &str) -> Result<Arc<Seer>, AccessError> {
        if token.len() > TOKEN_MAX {
            return Err(AccessError::Refused("it is too long".to_owned()));
        }
        let hash = hash(token);
        let fresh = |now| self.known().get(&hash).filter(|(_, until)| *until > now).map(|(s, _)| s.clone());
        if let Some(seer) = fresh(Instant::now()) {
            return Ok(seer);
        }
        let asked = async {
            let _turn = self.asking.acquire().await;
            // The same one may have been asked about meanwhile: a page asks several things at once.
            if let Some(seer) = fresh(Instant::now()) {
                return Ok(seer);
            }
            let seer = Arc::new(self.review(token).await?);
            self.keep(hash, &seer);
            Ok(seer)
        };
        tokio::time::timeout(ANSWER, asked).await.unwrap_or_else(|_| {
            let said = format!("it has not answered within {ANSWER:?}");
            Err(AccessError::Unavailable { about: "who may get pods", said })
        })
    }

    async fn review(&self, token: &str) -> Result<Seer, AccessError> {
        let user = self.reviews.user(token).await?;
        let name = user.name().to_owned();
        if self.reviews.may_get_pods(&user, None).await? {
            return Ok(Seer { name, sight: Sight::All });
        }
        let snapshot = self.snapshot.borrow().clone();
        let of_pods = snapshot.workloads().map(|workload| workload.namespace.clone());
        let all: BTreeSet<Arc<str>> =
            of_pods.chain(snapshot.services().map(|service| service.namespace.clone())).collect();
        let (reviews, user) = (&self.reviews, &user);
        let allowed = stream::iter(all)
            .map(|namespace| async move {
                let may = reviews.may_get_pods(user, Some(&namespace)).await?;
                Ok::<_, AccessError>(may.then_some(namespace))
            })
            .buffer_unordered(NAMESPACES_AT_ONCE)
            .try_filter_map(|namespace| std::future::ready(Ok(namespace)));
        let allowed: Vec<Arc<str>> = allowed.try_collect().await?;
        Ok(Seer { name, sight: Sight::Only(allowed.into_iter().collect()) })
    }

    fn keep(&self, hash: Hash, seer: &Arc<Seer>) {
        let (mut known, now) = (self.known(), Instant::now());
        if known.len() >= KNOWN_MAX {
            known.retain(|_, (_, until)| *until > now);
        }
        if known.len() < KNOWN_MAX {
            known.insert(hash, (seer.clone(), now + KNOWN_FOR));
        }
    }
}
