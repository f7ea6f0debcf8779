//! The HTTP face of a process: `/metrics` in the OpenMetrics text format, `/healthz` (it runs) and
//! `/readyz` (it can do its job, or which parts cannot).

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

/// What `/metrics` answers with.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The parts of a process and what each of them is missing. Clones share their state.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, Part>>>);

#[derive(Debug)]
enum Part {
    Up,
    /// Down, and the process does its job without it.
    Missed(String),
    Down(String),
}

impl Readiness {
    /// Says that a part can do its job.
    pub fn up(&self, part: &'static str) {
        self.parts().insert(part, Part::Up);
    }

    /// Says that a part cannot do its job, and why.
    pub fn down(&self, part: &'static str, reason: impl Into<String>) {
        self.parts().insert(part, Part::Down(reason.into()));
    }

    /// Says that a part cannot do its job, and why; the process is ready without it.
    pub fn missed(&self, part: &'static str, reason: impl Into<String>) {
        self.parts().insert(part, Part::Missed(reason.into()));
    }

    /// Tells whether every part that is needed can do its job.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let is_down = |part: &Part| matches!(part, Part::Down(_));
        !self.parts().values().any(is_down)
    }

    fn report(&self) -> String {
        let line = |(name, part): (&&str, &Part)| match part {
            Part::Up => format!("{name}: up\n"),
            Part::Missed(reason) | Part::Down(reason) => format!("{name}: down: {reason}\n"),
        };
        self.parts().iter().map(line).collect()
    }

    fn parts(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Part>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves `metrics` and `readiness` until `shutdown` completes.
///
/// # Errors
///
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Registry>,
    readiness: Readiness,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    axum::serve(listener, router(metrics, readiness))
        .with_graceful_shutdown(shutdown)
        .await
}

fn router(metrics: Arc<Registry>, readiness: Readiness) -> Router {
    let metrics = move || async move {
        let mut text = String::new();
        match encode(&mut text, &metrics) {
            Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    };
    let ready = move || async move {
        let status = if readiness.is_ready() {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        (status, readiness.report())
    };
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "running\n" }))
        .route("/readyz", get(ready))
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn fetch(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn metrics_and_health_are_served() {
        let mut registry = Registry::default();
        let calls = Counter::<u64>::default();
        registry.register("calls", "Calls so far", calls.clone());
        calls.inc_by(7);
        let readiness = Readiness::default();
        let listener = TcpListener::bind("127.0.7.2:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(
            listener,
            Arc::new(registry),
            readiness.clone(),
            std::future::pending(),
        ));

        assert!(fetch(address, "/metrics").await.contains("calls_total 7"));
        assert!(fetch(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        readiness.down("store", "disk is full");
        let answer = fetch(address, "/readyz").await;
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.ends_with("store: down: disk is full\n"),
            "{answer}"
        );
        readiness.missed("store", "nobody answers");
        let answer = fetch(address, "/readyz").await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("store: down: nobody answers\n"),
            "{answer}"
        );
        readiness.up("store");
        assert!(fetch(address, "/readyz").await.ends_with("store: up\n"));
        server.abort();
    }
}
