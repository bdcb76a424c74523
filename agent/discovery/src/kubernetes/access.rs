//! Who asks, and in which namespaces he may get pods: asked of the API by TokenReview and SubjectAccessReview.

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};

use super::client::{Access, ConnectError, connect};
use super::failure;

/// Asks the API about users.
#[derive(Clone)]
pub struct AccessReviews(Client);

impl std::fmt::Debug for AccessReviews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessReviews").finish_non_exhaustive()
    }
}

/// Somebody, as the API server knows him.
#[derive(Debug, Clone)]
pub struct User(UserInfo);

impl User {
    /// His name.
    pub fn name(&self) -> &str {
        self.0.username.as_deref().unwrap_or_default()
    }
}

/// Why nobody can say what somebody may.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// The API server does not take the token: expired, forged, or for another audience than itself.
    #[error("the cluster's API does not take the token: {0}; log in to the cluster again")]
    Refused(String),
    /// The API server could not be asked.
    #[error("the cluster's API could not be asked {about}: {said}; ask again")]
    Unavailable {
        /// What it was asked.
        about: &'static str,
        /// Why not.
        said: String,
    },
}

impl AccessReviews {
    /// Asks this API server.
    ///
    /// # Errors
    /// When there is no way to it.
    pub async fn new(access: &Access) -> Result<Self, ConnectError> {
        Ok(Self(connect(access).await?))
    }

    /// Whose a token is that is good for the API server itself. May be cancelled.
    ///
    /// # Errors
    /// When the token must not be taken, or nobody can say.
    pub async fn user(&self, token: &str) -> Result<User, AccessError> {
        // Without audiences the server asks for its own.
        let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: None };
        let ask = TokenReview { spec, ..TokenReview::default() };
        let api: Api<TokenReview> = Api::all(self.0.clone());
        let answer = api.create(&PostParams::default(), &ask).await;
        let answer = answer.map_err(|error| unavailable("whose the token is", &error))?;
        let status = answer.status.unwrap_or_default();
        let user = status.user.filter(|user| user.username.as_ref().is_some_and(|name| !name.is_empty()));
        match (status.authenticated, user) {
            (Some(true), Some(user)) => Ok(User(user)),
            _ => {
                let said = status.error.filter(|error| !error.is_empty());
                Err(AccessError::Refused(said.unwrap_or_else(|| "it is not authenticated".to_owned())))
            }
        }
    }

    /// Whether somebody may get pods in a namespace, or in all of them. May be cancelled.
    ///
    /// # Errors
    /// When nobody can say; then he may not.
    pub async fn may_get_pods(&self, user: &User, namespace: Option<&str>) -> Result<bool, AccessError> {
        let User(user) = user;
        let what = ResourceAttributes {
            verb: Some("get".to_owned()),
            resource: Some("pods".to_owned()),
            version: Some("v1".to_owned()),
            // An empty one stands for all.
            namespace: Some(namespace.unwrap_or_default().to_owned()),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: user.username.clone(),
            uid: user.uid.clone(),
            groups: user.groups.clone(),
            extra: user.extra.clone(),
            resource_attributes: Some(what),
            ..SubjectAccessReviewSpec::default()
        };
        let ask = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let api: Api<SubjectAccessReview> = Api::all(self.0.clone());
        let answer = api.create(&PostParams::default(), &ask).await;
        let answer = answer.map_err(|error| unavailable("who may get pods", &error))?;
        let status = answer.status.unwrap_or_default();
        Ok(status.allowed && status.denied != Some(true))
    }
}

fn unavailable(about: &'static str, error: &kube::Error) -> AccessError {
    AccessError::Unavailable { about, said: failure::deepest(error) }
}
