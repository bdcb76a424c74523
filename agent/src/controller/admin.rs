//! The controller's admin API: HTTP on a Unix socket for root of its machine; and its metrics on TCP.

use std::future::ready;
use std::sync::Arc;

use futures_util::FutureExt;
use hyper::http::uri::PathAndQuery;
use hyper::{Method, StatusCode};
use lark_core::explain::CaRefusal;
use lark_core::rotation::Phase;
use lark_core::sight::Sight;
use lark_core::view::CaView;
use lark_identity::service::CaService;
use tokio::net::{TcpListener, UnixListener};

use super::cluster::Cluster;
use super::rotation::{Rotation, WishError};
use crate::admin::{Answer, json, metrics_answer, serve_http, text, value};
use crate::observe::{Described, Gauge, Gauges, exposed};

/// Questions to all nodes: what comes after it is asked of each as `/v1/…`.
const CLUSTER: &str = "/v1/cluster/";

/// What every replica knows.
const ROOTS: &str = "/v1/ca/roots";

/// Serves the API for ever.
pub(super) async fn serve(listener: UnixListener, rotation: Arc<Rotation>, cluster: Arc<Cluster>) {
    serve_http(listener, move |request| {
        let (method, uri) = (request.method(), request.uri());
        let target = uri.path_and_query().map_or("", PathAndQuery::as_str);
        match (target.strip_prefix(CLUSTER), rotation.elsewhere()) {
            (question, Some(elsewhere)) if question.is_some() || uri.path() != ROOTS => {
                ready(text(StatusCode::BAD_REQUEST, "text/plain", elsewhere)).left_future()
            }
            (Some(question), _) if method == Method::GET => {
                let (cluster, question) = (cluster.clone(), format!("/v1/{question}"));
                async move { cluster.ask(&question, &Sight::All).await }.boxed().right_future()
            }
            _ => {
                let (rotation, method) = (rotation.clone(), method.clone());
                let (path, query) = (uri.path().to_owned(), uri.query().unwrap_or_default().to_owned());
                async move { answer(&rotation, &method, &path, &query).await }.boxed().right_future()
            }
        }
    })
    .await;
}

async fn answer(rotation: &Rotation, method: &Method, path: &str, query: &str) -> Answer {
    let wish = |result: Result<CaView, WishError>| match result {
        Ok(view) => json(&view),
        Err(error) => text(StatusCode::BAD_REQUEST, "text/plain", error.to_string()),
    };
    match (method, path) {
        (&Method::GET, "/v1/ca") => json(&rotation.view()),
        (&Method::GET, ROOTS) => {
            text(StatusCode::OK, "application/x-pem-file", rotation.authority.trusted_pem())
        }
        (&Method::POST, "/v1/ca/rotate") => wish(rotation.rotate().await),
        (&Method::POST, "/v1/ca/abort") => wish(rotation.abort().await),
        (&Method::POST, "/v1/ca/without") => wish(rotation.without(value(query, "node")).await),
        _ => text(StatusCode::NOT_FOUND, "text/plain", "not found\n".to_owned()),
    }
}

/// Serves metrics and health for ever.
pub(super) async fn serve_metrics(listener: TcpListener, rotation: Arc<Rotation>, service: CaService) {
    serve_http(listener, move |request| {
        let metrics = || -> String {
            let refused = service.refused();
            let refused = |reason: CaRefusal| refused.get(reason.label()).copied().unwrap_or(0);
            exposed(&gauges(&rotation.view(), rotation.leads(), service.issued(), refused)).unwrap_or_else(
                |error| {
                    tracing::error!(%error, "metrics cannot be shown");
                    String::new()
                },
            )
        };
        ready(metrics_answer(request.method(), request.uri().path(), || metrics().into(), || None, || None))
    })
    .await;
}

/// All metrics of a controller, for documents.
pub fn catalogue() -> Vec<Described> {
    let nothing = CaView {
        trust_domain: String::new(),
        phase: String::new(),
        meaning: String::new(),
        epoch: 0,
        since: 0,
        roots: Vec::new(),
        nodes: Vec::new(),
        waits_for: Vec::new(),
    };
    gauges(&nothing, true, 0, |_| 0).iter().map(Gauge::described).collect()
}

fn gauges(view: &CaView, leads: bool, issued: u64, refused: impl Fn(CaRefusal) -> u64) -> Gauges {
    #[expect(clippy::cast_precision_loss, reason = "metrics are floats by format")]
    let float = |n: u64| n as f64;
    let gauge = |name, help, labels, counter, values| Gauge { name, help, labels, counter, values };
    let heard =
        |n: &&lark_core::view::NodeHolds| n.heard.is_some_and(|s| s < lark_core::rotation::SILENT.as_secs());
    let following = u64::try_from(view.nodes.iter().filter(heard).count()).unwrap_or(u64::MAX);
    let all = u64::try_from(view.nodes.len()).unwrap_or(u64::MAX);
    vec![
        gauge(
            "lark_build_info",
            "Version of the program",
            &["version"],
            false,
            vec![(vec![env!("CARGO_PKG_VERSION").to_owned()], 1.0)],
        ),
        gauge(
            "lark_ca_certificates_issued_total",
            "Certificates issued",
            &[],
            true,
            vec![(vec![], float(issued))],
        ),
        gauge(
            "lark_ca_requests_refused_total",
            "Connections, streams and requests that the controller refused, by reason",
            &["reason"],
            true,
            CaRefusal::ALL.iter().map(|r| (vec![r.label().to_owned()], float(refused(*r)))).collect(),
        ),
        gauge(
            "lark_ca_expiration_timestamp_seconds",
            "When the CA of a root expires: the first end of life in its chain",
            &["root"],
            false,
            view.roots.iter().filter_map(|r| Some((vec![r.id.clone()], float(r.expires_at?)))).collect(),
        ),
        gauge(
            "lark_ca_rotation_phase",
            "1 for the phase that the rotation of the root is in",
            &["phase"],
            false,
            Phase::LABELS
                .iter()
                .map(|label| (vec![(*label).to_owned()], f64::from(u8::from(view.phase == *label))))
                .collect(),
        ),
        gauge(
            "lark_ca_leads",
            "1 for the replica of the controller that leads; one that is alone leads",
            &[],
            false,
            vec![(vec![], f64::from(u8::from(leads)))],
        ),
        gauge(
            "lark_ca_nodes",
            "Nodes of the mesh by whether their agents follow the controller; told by the replica that leads",
            &["state"],
            false,
            [("following", following), ("silent", all - following)]
                .into_iter()
                .filter(|_| leads)
                .map(|(state, count)| (vec![state.to_owned()], float(count)))
                .collect(),
        ),
    ]
}
