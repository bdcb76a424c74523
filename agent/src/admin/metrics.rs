//! Metrics and health on TCP: nothing that names a pod's peer beyond bounded labels.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use tokio::net::TcpListener;

use super::Source;
use super::http::{Answer, serve as serve_http, text};

/// For how many times as long as it took to make one text answers all who ask: anybody may ask, and a large one costs
/// much.
const REST: u32 = 9;
/// And how old it may be at most: nobody sees that.
const FRESH_MAX: Duration = Duration::from_millis(50);

/// Serves `/metrics`, `/healthz` and `/readyz` for ever.
pub async fn serve(listener: TcpListener, source: Arc<dyn Source>) {
    let last = Last::default();
    serve_http(listener, move |request| {
        let metrics = || last.text(Instant::now, || source.metrics());
        let fails = || source.stuck().map(|runtime| format!("{runtime} does not turn"));
        let waits = || (!source.ready()).then_some("pods are still to be captured");
        std::future::ready(answer(request.method(), request.uri().path(), metrics, fails, waits))
    })
    .await;
}

/// The last text, and until when it is used.
#[derive(Default)]
struct Last(Mutex<Option<(Instant, Bytes)>>);

impl Last {
    /// It, unless it is too old.
    fn text(&self, now: impl Fn() -> Instant, make: impl FnOnce() -> String) -> Bytes {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = now();
        match &*last {
            Some((until, text)) if asked < *until => text.clone(),
            _ => {
                let text = make();
                let made = now();
                let fresh = FRESH_MAX.min(made.saturating_duration_since(asked).saturating_mul(REST));
                last.insert((made + fresh, text.into())).1.clone()
            }
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
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_text_answers_who_asks_for_as_long_as_its_making_was_worth() {
        let (last, start, passed) = (Last::default(), Instant::now(), Cell::new(Duration::ZERO));
        let asked = |millis, takes, text: &str| {
            passed.set(Duration::from_millis(millis));
            let make = || {
                passed.set(passed.get() + Duration::from_millis(takes));
                text.to_owned()
            };
            last.text(|| start + passed.get(), make)
        };
        assert_eq!(asked(0, 5, "first"), "first");
        assert_eq!(asked(49, 5, "second"), "first");
        assert_eq!(asked(50, 100, "third"), "third");
        // However long it took.
        assert_eq!(asked(199, 0, "fourth"), "third");
        assert_eq!(asked(200, 0, "fifth"), "fifth");
        assert_eq!(asked(200, 0, "sixth"), "sixth");
    }
}
