//! Whose a bound ServiceAccount token is: asked of the API by TokenReview.

use std::sync::Arc;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::PostParams;
use kube::{Api, Client};

use super::client::{Access, ConnectError, connect};
use super::failure;

/// Claims that the API server puts into a token bound to a pod, from Kubernetes 1.32 on (KEP-4193).
const NODE: &str = "authentication.kubernetes.io/node-name";
const POD: &str = "authentication.kubernetes.io/pod-uid";

/// Asks the API about tokens.
#[derive(Clone)]
pub struct TokenReviews {
    client: Client,
    audience: String,
    /// The user that agents are, `system:serviceaccount:NAMESPACE:NAME`.
    agent: String,
}

impl std::fmt::Debug for TokenReviews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenReviews").field("agent", &self.agent).finish_non_exhaustive()
    }
}

/// The pod that shows a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    /// The node that it runs on.
    pub node: Arc<str>,
    /// Its UID.
    pub pod: Arc<str>,
}

/// Why a token is not taken. None says anything of the token itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// The API server does not take it: expired, forged, of a pod that is gone, or for somebody else.
    #[error("the cluster's API does not take the token for audience {audience}: {said}")]
    Refused {
        /// For whom it should be.
        audience: String,
        /// What the API server said.
        said: String,
    },
    /// It is of another account than the agents'.
    #[error("the token is of {user}, and agents are {agent}")]
    NoAgent {
        /// Whose it is.
        user: String,
        /// Whose it should be.
        agent: String,
    },
    /// It is bound to no pod on a node.
    #[error(
        "the token is bound to no pod of a node: it must be a projected one, of Kubernetes 1.32 or later"
    )]
    NotBound,
    /// The API server could not be asked.
    #[error("the cluster's API could not be asked about the token: {0}")]
    Unavailable(String),
}

impl TokenReviews {
    /// Tokens must be for `audience`, of the ServiceAccount `account` in `namespace`.
    ///
    /// # Errors
    /// When there is no way to the API server.
    pub async fn new(
        access: &Access,
        audience: &str,
        namespace: &str,
        account: &str,
    ) -> Result<Self, ConnectError> {
        let agent = format!("system:serviceaccount:{namespace}:{account}");
        Ok(Self { client: connect(access).await?, audience: audience.to_owned(), agent })
    }

    /// The pod that a token is bound to. May be cancelled.
    ///
    /// # Errors
    /// When the token must not be taken, or nobody can say.
    pub async fn review(&self, token: &str) -> Result<Bearer, ReviewError> {
        let spec =
            TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![self.audience.clone()]) };
        let ask = TokenReview { spec, ..TokenReview::default() };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &ask).await;
        let answer = answer.map_err(|error| ReviewError::Unavailable(failure::deepest(&error)))?;
        self.read(answer.status.unwrap_or_default())
    }

    fn read(&self, status: TokenReviewStatus) -> Result<Bearer, ReviewError> {
        let audiences = status.audiences.unwrap_or_default();
        // A server that does not know of audiences leaves them out, and the token may be for anybody.
        if status.authenticated != Some(true) || !audiences.contains(&self.audience) {
            let said = status.error.filter(|e| !e.is_empty());
            let said = said.unwrap_or_else(|| "it is not authenticated".to_owned());
            return Err(ReviewError::Refused { audience: self.audience.clone(), said });
        }
        let user = status.user.unwrap_or_default();
        let name = user.username.unwrap_or_default();
        if name != self.agent {
            return Err(ReviewError::NoAgent { user: name, agent: self.agent.clone() });
        }
        let extra = user.extra.unwrap_or_default();
        let one = |claim: &str| match extra.get(claim).map(Vec::as_slice) {
            Some([value]) if !value.is_empty() => Some(Arc::from(value.as_str())),
            _ => None,
        };
        match (one(NODE), one(POD)) {
            (Some(node), Some(pod)) => Ok(Bearer { node, pod }),
            _ => Err(ReviewError::NotBound),
        }
    }
}
