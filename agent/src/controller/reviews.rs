//! Agents of a cluster: who they are is asked of its API by TokenReview, and discovery must know the pod.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use lark_core::snapshot::Snapshot;
use lark_discovery::kubernetes::{Bearer, ReviewError, TokenReviews};
use lark_identity::members::{Authenticated, Authenticator, Caller, Membership, TokenRefused};
use lark_identity::token::{Hash, hash};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

/// How long an answer about a token counts. The pod that shows it must be known all the time.
const KNOWN_FOR: Duration = Duration::from_secs(60);
/// Answers that are kept; there is one token an agent.
const KNOWN_MAX: usize = 8192;
/// Questions to the API at once; whoever has no token cannot make more.
const AT_ONCE: usize = 16;
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// How long discovery may lag behind an agent that has just started.
const LAG: Duration = Duration::from_secs(2);
/// Longest token, in bytes; one of a service account has about a thousand.
const TOKEN_MAX: usize = 8192;

/// Authenticates agents by the tokens of their pods.
pub(super) struct Reviews {
    reviews: TokenReviews,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    known: Mutex<HashMap<Hash, (Bearer, Instant)>>,
    asking: Semaphore,
}

impl Reviews {
    pub(super) fn new(reviews: TokenReviews, snapshot: watch::Receiver<Arc<Snapshot>>) -> Self {
        Self { reviews, snapshot, known: Mutex::default(), asking: Semaphore::new(AT_ONCE) }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Hash, (Bearer, Instant)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn bearer(&self, token: &str) -> Result<Bearer, TokenRefused> {
        if token.len() > TOKEN_MAX {
            return Err(TokenRefused::Unknown);
        }
        let (hash, now) = (hash(token), Instant::now());
        let known = self.known().get(&hash).filter(|(_, until)| *until > now).map(|(b, _)| b.clone());
        if let Some(bearer) = known {
            return Ok(bearer);
        }
        let asked = async {
            let _turn = self.asking.acquire().await;
            self.reviews.review(token).await
        };
        let answer = tokio::time::timeout(ANSWER, asked).await;
        let bearer = answer.unwrap_or_else(|_| Err(ReviewError::Unavailable("no answer".to_owned())));
        let bearer = bearer.map_err(refused)?;
        let mut known = self.known();
        if known.len() >= KNOWN_MAX {
            known.retain(|_, (_, until)| *until > now);
        }
        if known.len() < KNOWN_MAX {
            known.insert(hash, (bearer.clone(), now + KNOWN_FOR));
        }
        Ok(bearer)
    }

    async fn caller(&self, token: &str) -> Result<Caller, TokenRefused> {
        let bearer = self.bearer(token).await?;
        let mut snapshot = self.snapshot.clone();
        let placed = snapshot.wait_for(|snapshot| is_placed(snapshot, &bearer.pod, &bearer.node));
        match tokio::time::timeout(LAG, placed).await {
            Ok(Ok(_)) => {
                Ok(Caller { node: bearer.node, due: false, membership: Membership::Pod(bearer.pod) })
            }
            _ => Err(TokenRefused::PodUnknown { node: bearer.node }),
        }
    }
}

/// Whether a pod is known on a node that is known: one that was deleted is out, whatever runs there still.
fn is_placed(snapshot: &Snapshot, pod: &str, node: &str) -> bool {
    snapshot.workload(pod).is_some_and(|workload| &*workload.node == node) && snapshot.node(node).is_some()
}

fn refused(error: ReviewError) -> TokenRefused {
    match error {
        ReviewError::Refused { .. } => TokenRefused::Reviewed(error.to_string()),
        ReviewError::NoAgent { .. } => TokenRefused::NoAgent(error.to_string()),
        ReviewError::NotBound => TokenRefused::NotBound,
        ReviewError::Unavailable(_) => TokenRefused::NotReviewed(error.to_string()),
    }
}

impl Authenticator for Reviews {
    fn authenticate<'a>(&'a self, token: &'a str, _now: SystemTime) -> Authenticated<'a> {
        Box::pin(self.caller(token))
    }

    fn is_member(&self, caller: &Caller) -> bool {
        match &caller.membership {
            Membership::Pod(pod) => is_placed(&self.snapshot.borrow(), pod, &caller.node),
            Membership::Line(_) => false,
        }
    }
}
