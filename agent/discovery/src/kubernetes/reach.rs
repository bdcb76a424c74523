//! The way to the controller from where people are: through the cluster's API, as a kubeconfig says.
//!
//! Who may forward ports of Lark's pods reaches the port that the controller has on its pod's loopback. Who may not
//! may have the API server ask the controller's Service for him, with his token in a header of Lark's own: the API
//! server keeps `Authorization` for itself.

use std::future::ready;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Limited};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::client::middleware::AuthLayer;
use kube::client::{Body, ConfigExt};
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Api, Client, Config};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::OnceCell;
use tower::{Layer, ServiceExt, service_fn};

use super::failure;

/// Time for the TCP connection to the API server.
const CONNECT: Duration = Duration::from_secs(5);

/// Which cluster, and where Lark is in it.
#[derive(Debug, Clone)]
pub struct Where {
    /// A kubeconfig; without one that of `KUBECONFIG`, of the home directory, or the pod's own account.
    pub kubeconfig: Option<PathBuf>,
    /// A context of it; without one the current.
    pub context: Option<String>,
    /// The namespace of Lark's pods.
    pub namespace: String,
}

/// Why the cluster's API leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    /// There is no kubeconfig, and this is no pod.
    #[error(
        "which cluster? There is no kubeconfig ({kubeconfig}) and this is no pod of one ({in_cluster}): give --kubeconfig, set KUBECONFIG, or ask where the controller runs, on its socket"
    )]
    Nowhere {
        /// Why there is none.
        kubeconfig: KubeconfigError,
        /// Why it is no pod.
        in_cluster: InClusterError,
    },
    /// The kubeconfig cannot be used.
    #[error("kubeconfig {at} cannot be used: {source}; see `kubectl config get-contexts`")]
    Kubeconfig {
        /// The file, or how it was looked for.
        at: String,
        /// What is wrong with it.
        source: KubeconfigError,
    },
    /// TLS or credentials cannot be set up.
    #[error("the connection to the cluster's API cannot be set up: {0}")]
    Setup(String),
    /// The API server does not answer.
    #[error(
        "the cluster's API at {url} does not answer: {said}; is it reached from here, and is it the right context?"
    )]
    Unreachable {
        /// Where it was looked for.
        url: String,
        /// Why not.
        said: String,
    },
    /// The API server does not know who asks.
    #[error("the cluster's API does not let you in: {0}; log in to the cluster again")]
    Unauthorized(String),
    /// The user may not do it.
    #[error("the cluster's API does not allow {what}: {said}")]
    Forbidden {
        /// What was asked for.
        what: String,
        /// What the API server said.
        said: String,
    },
    /// It is not there.
    #[error("{what} is not there: {said}")]
    Missing {
        /// What.
        what: String,
        /// What the API server said.
        said: String,
    },
    /// It did not work otherwise.
    #[error("{what} failed: {said}")]
    Failed {
        /// What.
        what: String,
        /// Why.
        said: String,
    },
    /// There is no token that could be shown.
    #[error(
        "your user of the kubeconfig shows no token but a certificate or a password, which nobody can pass on"
    )]
    NoToken,
}

/// The API of a cluster, for one who wants to know what Lark knows.
pub struct Reach {
    client: Client,
    config: Config,
    /// Where tokens come from, once one is needed.
    tokens: OnceCell<AuthLayer>,
    namespace: String,
}

impl std::fmt::Debug for Reach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reach").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Reach {
    /// As the kubeconfig says; connects with the first request.
    ///
    /// # Errors
    /// When there is none, or it cannot be used.
    pub async fn new(at: Where) -> Result<Self, ReachError> {
        let Where { kubeconfig, context, namespace } = at;
        let mut config = configured(kubeconfig.as_deref(), context).await?;
        config.connect_timeout = Some(CONNECT);
        // Whoever asks says how long an answer may take; and a failure is to be told at once.
        config.default_retry = false;
        let client = Client::try_from(config.clone());
        let client = client.map_err(|error| ReachError::Setup(failure::deepest(&error)))?;
        Ok(Self { client, config, tokens: OnceCell::new(), namespace })
    }

    /// The namespace of Lark's pods.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The pod that holds a Lease, if one does. May be cancelled.
    ///
    /// # Errors
    /// When the Lease cannot be read or is not there.
    pub async fn holder(&self, lease: &str) -> Result<Option<String>, ReachError> {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = api.get(lease).await;
        let found =
            found.map_err(|error| self.explain(format!("Lease {}/{lease}", self.namespace), &error))?;
        Ok(found.spec.and_then(|spec| spec.holder_identity).filter(|holder| !holder.is_empty()))
    }

    /// A connection to a port of a pod's loopback. May be cancelled.
    ///
    /// # Errors
    /// When the API server does not forward. That nobody listens there shows on the connection.
    pub async fn forward(&self, pod: &str, port: u16) -> Result<Forwarded, ReachError> {
        let what = || format!("forwarding a port of pod {}/{pod}", self.namespace);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut forwarder =
            api.portforward(pod, &[port]).await.map_err(|error| self.explain(what(), &error))?;
        let (stream, error) = (forwarder.take_stream(port), forwarder.take_error(port));
        let (Some(stream), Some(error)) = (stream, error) else {
            return Err(ReachError::Failed { what: what(), said: "it has no stream".to_owned() });
        };
        Ok(Forwarded { stream, refused: error.boxed(), what: what() })
    }

    /// What a Service of Lark's answers to a GET, asked by the API server on behalf of whoever has `token`. Its port is
    /// served by TLS. May be cancelled.
    ///
    /// # Errors
    /// When the API server does not ask, or the answer breaks off or is longer than `most` bytes.
    pub async fn by_service(
        &self,
        service: &str,
        port: &str,
        target: &str,
        token: (&'static str, &str),
        most: usize,
    ) -> Result<Response<Vec<u8>>, ReachError> {
        let namespace = &self.namespace;
        let what = || format!("asking Service {namespace}/{service} by way of the cluster's API");
        let failed = |said: String| ReachError::Failed { what: what(), said };
        let at = format!("/api/v1/namespaces/{namespace}/services/https:{service}:{port}/proxy{target}");
        let mut value = HeaderValue::try_from(token.1).map_err(|error| failed(error.to_string()))?;
        value.set_sensitive(true);
        let request = Request::get(at).header(token.0, value).body(Body::empty());
        let request = request.map_err(|error| failed(error.to_string()))?;
        let answer = self.client.send(request).await.map_err(|error| self.explain(what(), &error))?;
        let (parts, body) = answer.into_parts();
        let body = Limited::new(body, most).collect().await;
        let body = body.map_err(|error| failed(format!("the answer broke off: {error}")))?;
        Ok(Response::from_parts(parts, body.to_bytes().into()))
    }

    /// What the API server said of a request to a Service that it answered itself.
    pub fn said(&self, service: &str, answer: &Response<Vec<u8>>) -> ReachError {
        let status = serde_json::from_slice::<kube::core::Status>(answer.body());
        let status = status.unwrap_or_else(|_| {
            let said = String::from_utf8_lossy(answer.body()).chars().take(200).collect();
            kube::core::Status { code: answer.status().as_u16(), message: said, ..Default::default() }
        });
        let what = format!("asking Service {}/{service}", self.namespace);
        self.explain(what, &kube::Error::Api(Box::new(status)))
    }

    /// The token that the user shows to the API server, made by his plug-in if that is where it is from.
    ///
    /// # Errors
    /// When there is none.
    pub async fn token(&self) -> Result<String, ReachError> {
        let made = async || {
            let made = self.config.auth_layer();
            made.map_err(|error| ReachError::Setup(failure::deepest(&error)))?.ok_or(ReachError::NoToken)
        };
        let layer = self.tokens.get_or_try_init(made).await?;
        // The client keeps what it shows to itself: a request that goes nowhere is given it.
        let shown = layer.layer(service_fn(|request: Request<Body>| {
            ready(Ok::<_, tower::BoxError>(Response::new(request.headers().get(AUTHORIZATION).cloned())))
        }));
        let shown = shown.oneshot(Request::new(Body::empty())).boxed().await;
        let shown = shown.map_err(|error| ReachError::Setup(error.to_string()))?;
        let shown = shown.body().as_ref().and_then(|shown| shown.to_str().ok());
        let token = shown.and_then(|shown| shown.strip_prefix("Bearer ")).ok_or(ReachError::NoToken)?;
        Ok(token.trim().to_owned())
    }

    fn explain(&self, what: String, error: &kube::Error) -> ReachError {
        match error {
            kube::Error::Api(status) => {
                let said = status.message.trim_end_matches('.').to_owned();
                match status.code {
                    401 => ReachError::Unauthorized(said),
                    403 => ReachError::Forbidden { what, said },
                    404 => ReachError::Missing { what, said },
                    _ => ReachError::Failed { what, said },
                }
            }
            kube::Error::Auth(error) => ReachError::Unauthorized(failure::deepest(error)),
            kube::Error::UpgradeConnection(_) => ReachError::Failed { what, said: failure::deepest(error) },
            error => {
                let url = self.config.cluster_url.to_string();
                ReachError::Unreachable { url, said: failure::deepest(error) }
            }
        }
    }
}

async fn configured(kubeconfig: Option<&Path>, context: Option<String>) -> Result<Config, ReachError> {
    let read = match kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    let is_absent = |error: &KubeconfigError| match error {
        KubeconfigError::FindPath => true,
        KubeconfigError::ReadConfig(error, _) => error.kind() == io::ErrorKind::NotFound,
        _ => false,
    };
    let at = || {
        kubeconfig.map_or_else(|| "(KUBECONFIG or ~/.kube/config)".to_owned(), |p| p.display().to_string())
    };
    let read = match read {
        Ok(read) => read,
        Err(error) if kubeconfig.is_none() && context.is_none() && is_absent(&error) => {
            return Config::incluster()
                .map_err(|in_cluster| ReachError::Nowhere { kubeconfig: error, in_cluster });
        }
        Err(source) => return Err(ReachError::Kubeconfig { at: at(), source }),
    };
    let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
    let config = Config::from_custom_kubeconfig(read, &options).await;
    config.map_err(|source| ReachError::Kubeconfig { at: at(), source })
}

/// A forwarded connection.
pub struct Forwarded {
    stream: DuplexStream,
    /// What the node says when it cannot forward.
    refused: BoxFuture<'static, Option<String>>,
    what: String,
}

impl std::fmt::Debug for Forwarded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forwarded").field("what", &self.what).finish_non_exhaustive()
    }
}

impl Forwarded {
    fn refused(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.refused.poll_unpin(context) {
            Poll::Ready(Some(said)) => {
                self.refused = std::future::pending().boxed();
                Err(io::Error::other(format!("{}: {}", self.what, said.trim())))
            }
            Poll::Ready(None) => {
                self.refused = std::future::pending().boxed();
                Ok(())
            }
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Forwarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.refused(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Forwarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
