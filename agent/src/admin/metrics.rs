//! Metrics and health on TCP: nothing that names a pod's peer beyond bounded labels.

use std::sync::Arc;

use hyper::{Method, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::Source;
use super::http::{CONNECTIONS, connection, text};

/// Serves `/metrics`, `/healthz` and `/readyz` for ever.
pub async fn serve(listener: TcpListener, source: Arc<dyn Source>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: the next one may find some.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let source = source.clone();
        tokio::spawn(async move {
            connection(stream, |request| match (request.method(), request.uri().path()) {
                (&Method::GET, "/metrics") => {
                    text(StatusCode::OK, "text/plain; version=0.0.4", source.metrics())
                }
                (&Method::GET, "/healthz") => text(StatusCode::OK, "text/plain", "ok\n".to_owned()),
                (&Method::GET, "/readyz") if source.ready() => {
                    text(StatusCode::OK, "text/plain", "ok\n".to_owned())
                }
                (&Method::GET, "/readyz") => text(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "text/plain",
                    "pods are still to be captured\n".to_owned(),
                ),
                _ => text(StatusCode::NOT_FOUND, "text/plain", "not found\n".to_owned()),
            })
            .await;
            drop(permit);
        });
    }
}
