//! Metrics and health on TCP: nothing that names a pod's peer beyond bounded labels.

use std::sync::Arc;

use hyper::{Method, StatusCode};
use tokio::net::TcpListener;

use super::Source;
use super::http::{Answer, serve as serve_http, text};

/// Serves `/metrics`, `/healthz` and `/readyz` for ever.
pub async fn serve(listener: TcpListener, source: Arc<dyn Source>) {
    serve_http(listener, move |request| {
        let fails = || source.stuck().map(|worker| format!("{worker} does not turn"));
        let waits = || (!source.ready()).then_some("pods are still to be captured");
        std::future::ready(answer(request.method(), request.uri().path(), || source.metrics(), fails, waits))
    })
    .await;
}

/// The answer to one request; `fails` says what only a start anew mends, `waits` what keeps it from being ready.
pub fn answer(
    method: &Method,
    path: &str,
    metrics: impl FnOnce() -> String,
    fails: impl FnOnce() -> Option<String>,
    waits: impl FnOnce() -> Option<&'static str>,
) -> Answer {
    let plain = |status, body: &str| text(status, "text/plain", format!("{body}\n"));
    let health = |trouble: Option<&str>| match trouble {
        None => plain(StatusCode::OK, "ok"),
        Some(what) => plain(StatusCode::SERVICE_UNAVAILABLE, what),
    };
    match (method, path) {
        (&Method::GET, "/metrics") => text(StatusCode::OK, "text/plain; version=0.0.4", metrics()),
        (&Method::GET, "/healthz") => health(fails().as_deref()),
        (&Method::GET, "/readyz") => health(waits()),
        _ => plain(StatusCode::NOT_FOUND, "not found"),
    }
}
