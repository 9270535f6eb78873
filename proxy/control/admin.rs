//! What does the admin listener show? Metrics, health and the status page; nothing can be changed here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::Semaphore;

use super::api::{self, Api};

/// Callers who may follow events at once. They stay for as long as they like, and who only looks needs a place, too.
const FOLLOWERS: usize = super::bounded::MOST / 2;

/// The status page: one file, no build step.
const PAGE: &str = include_str!("status.html");

/// Whether the door is open: listening, with a table published, and not on its way down.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// From now on it is, or is not.
    pub fn set(&self, open: bool) {
        self.0.store(open, Ordering::Release);
    }
}

/// Everything on the admin listener.
pub fn router(api: Api, readiness: Readiness) -> Router {
    let ready = async move || {
        if readiness.0.load(Ordering::Acquire) {
            (StatusCode::OK, "ready\n")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
        }
    };
    api::viewing(Router::new())
        .route("/", get(page))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .with_state(Api { followers: Some(Arc::new(Semaphore::new(FOLLOWERS))), ..api })
}

async fn page() -> Response {
    // The page's own script is named by a number nobody can know beforehand; any other script is refused.
    let nonce = format!("{:032x}", fastrand::u128(..));
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    (headers, PAGE.replacen("<script>", &format!("<script nonce=\"{nonce}\">"), 1)).into_response()
}
