//! Metrics and health on TCP: nothing that names a pod's peer beyond bounded labels.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use tokio::net::TcpListener;

use super::Source;
use super::http::{Answer, serve as serve_http, text};

/// How long one text answers all who ask: it costs much to make, and anybody may ask.
const FRESH: Duration = Duration::from_millis(250);

/// Serves `/metrics`, `/healthz` and `/readyz` for ever.
pub async fn serve(listener: TcpListener, source: Arc<dyn Source>) {
    let last = Last::default();
    serve_http(listener, move |request| {
        let metrics = || last.text(Instant::now(), || source.metrics());
        let fails = || source.stuck().map(|runtime| format!("{runtime} does not turn"));
        let waits = || (!source.ready()).then_some("pods are still to be captured");
        std::future::ready(answer(request.method(), request.uri().path(), metrics, fails, waits))
    })
    .await;
}

/// The last text, and when it was made.
#[derive(Default)]
struct Last(Mutex<Option<(Instant, Bytes)>>);

impl Last {
    /// It, unless it is too old.
    fn text(&self, now: Instant, make: impl FnOnce() -> String) -> Bytes {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((made, text)) if now.saturating_duration_since(*made) < FRESH => text.clone(),
            _ => last.insert((now, make().into())).1.clone(),
        }
    }
}

/// The answer to one request; `fails` says what only a start anew mends, `waits` what keeps it from being ready.
pub fn answer(
    method: &Method,
    path: &str,
    metrics: impl FnOnce() -> Bytes,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_made_once_for_all_who_ask_meanwhile() {
        let (last, start) = (Last::default(), Instant::now());
        let asked = |millis, text: &str| last.text(start + Duration::from_millis(millis), || text.to_owned());
        assert_eq!(asked(0, "first"), "first");
        assert_eq!(asked(249, "second"), "first");
        assert_eq!(asked(250, "third"), "third");
        assert_eq!(asked(300, "fourth"), "third");
    }
}
