//! HTTP for this machine: `/health`, `/ready`, `/metrics`, `/status`. No health data is on any page.
//!
//! | path | answer |
//! |---|---|
//! | `/health` | 200 while every stage makes progress within its deadline and the disk takes readings, else 503 and who is late, or what is wrong |
//! | `/ready` | 200 while readings are taken, else 503, the phase, and what is wrong |
//! | `/metrics` | OpenMetrics text |
//! | `/status` | JSON, as `fogbeat status --json` |

use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::health::{Health, Phase};

/// What the pages are made of.
pub struct Pages {
    pub health: Arc<Health>,
    pub registry: Arc<Registry>,
    /// Makes the status document; may block for a moment (it looks at files).
    pub status: Box<dyn Fn() -> serde_json::Value + Send + Sync>,
}

/// Serves until `stop` turns true.
pub async fn serve(
    listener: TcpListener,
    pages: Arc<Pages>,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let stopped = async move {
        // An error means that the gateway is gone: a reason to stop as well.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    // Answers are made at once and are small; what a slow reader leaves open must not hold up a stop.
    tokio::select! {
        served = axum::serve(listener, router(pages)) => served,
        () = stopped => Ok(()),
    }
}

fn router(pages: Arc<Pages>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .with_state(pages)
}

async fn health(State(pages): State<Arc<Pages>>) -> Response {
    let (late, trouble) = (pages.health.late(Instant::now()), pages.health.trouble());
    let healthy = late.is_empty() && trouble.is_none();
    let code = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(serde_json::json!({ "healthy": healthy, "late": late, "trouble": trouble }))).into_response()
}

async fn ready(State(pages): State<Arc<Pages>>) -> Response {
    let (phase, trouble) = (pages.health.phase(), pages.health.trouble());
    let ready = phase == Phase::Running && trouble.is_none();
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(serde_json::json!({ "ready": ready, "phase": phase, "trouble": trouble }))).into_response()
}

async fn metrics(State(pages): State<Arc<Pages>>) -> Response {
    match metrics_text(&pages.registry) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// All metrics in OpenMetrics text.
///
/// # Errors
/// When a metric cannot be formatted.
pub fn metrics_text(registry: &Registry) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry)?;
    Ok(text)
}

async fn status(State(pages): State<Arc<Pages>>) -> Response {
    match tokio::task::spawn_blocking(move || (pages.status)()).await {
        Ok(document) => Json(document).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn ask(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_pages_follow_the_gateways_life() {
        let health = Arc::new(Health::default());
        let mut registry = Registry::with_prefix("fogbeat");
        crate::telemetry::process::register(&mut registry, 0);
        let status = Box::new(|| serde_json::json!({ "version": "x" }));
        let pages = Arc::new(Pages { health: health.clone(), registry: Arc::new(registry), status });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(serve(listener, pages, stopped));

        assert!(ask(address, "/health").await.starts_with("HTTP/1.1 200"));
        assert!(ask(address, "/ready").await.starts_with("HTTP/1.1 503"));
        health.enter(Phase::Running);
        assert!(ask(address, "/ready").await.starts_with("HTTP/1.1 200"));
        health.announce("journal", Duration::ZERO, Instant::now());
        tokio::time::sleep(Duration::from_millis(2)).await;
        let late = ask(address, "/health").await;
        assert!(late.starts_with("HTTP/1.1 503") && late.contains(r#""late":["journal"]"#), "{late}");
        health.announce("journal", Duration::from_secs(60), Instant::now());
        health.trouble_is(Some("the disk is full".into()));
        for page in ["/health", "/ready"] {
            let answer = ask(address, page).await;
            assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("the disk is full"), "{answer}");
        }
        let metrics = ask(address, "/metrics").await;
        assert!(metrics.contains("fogbeat_process_open_fds ") && metrics.ends_with("# EOF\n"), "{metrics}");
        assert!(ask(address, "/status").await.ends_with(r#"{"version":"x"}"#));
        assert!(ask(address, "/").await.starts_with("HTTP/1.1 404"));
        stop.send(true).unwrap();
        server.await.unwrap().unwrap();
    }
}
