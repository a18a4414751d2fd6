//! `/healthz`, `/readyz` and `/metrics`.
//!
//! A standby is ready: it can take over at any time. Neither probe asks the API server, or a restart would be its answer
//! to somebody else's outage.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What is exported for Prometheus, in the text format of OpenMetrics.
pub type Scraper = Arc<dyn Fn() -> String + Send + Sync>;

/// What the probes look at.
#[derive(Default)]
pub struct Readiness(AtomicBool);

impl Readiness {
    /// From now on the process can do its work.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Clone)]
struct Probes {
    readiness: Arc<Readiness>,
    scraper: Scraper,
}

/// Answers probes until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    readiness: Arc<Readiness>,
    scraper: Scraper,
    shutdown: CancellationToken,
) {
    let router = Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .with_state(Probes { readiness, scraper });
    let served = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "the probes are not answered any more");
    }
}

async fn ready(State(probes): State<Probes>) -> Response {
    if probes.readiness.is_set() {
        "ok".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting").into_response()
    }
}

async fn scrape(State(probes): State<Probes>) -> Response {
    let header = [(
        "content-type",
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
    )];
    (header, (probes.scraper)()).into_response()
}
