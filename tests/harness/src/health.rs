//! Waits until a stack reports a health status.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "tests call this: its panics are their failures"
)]

use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    client::{Accepted, ApiClient},
    stack::Launch,
};

/// The time limit of conditions that take milliseconds on an idle machine.
pub const BOUND: Duration = Duration::from_secs(60);

/// The pause between two requests.
pub const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A stack with short retries and without circuits.
pub fn launch() -> Launch {
    let launch =
        Launch::fresh().unwrap().set("RETRY_BASE_DELAY_MS", "50").set("CIRCUIT_FAILURES", "0");
    launch.set("RETRY_MAX_ATTEMPTS", "50").set("RUST_LOG", "warn")
}

/// The current health. The stack caches its health for a second.
pub async fn fresh_health(api: &ApiClient) -> (StatusCode, Value) {
    let started = Instant::now();
    let first = checked_at(&health(api).await.1);
    loop {
        let (status, body) = health(api).await;
        if checked_at(&body) != first {
            return (status, body);
        }
        assert!(started.elapsed() < BOUND, "health is not updated");
        sleep(POLL_INTERVAL).await;
    }
}

async fn health(api: &ApiClient) -> (StatusCode, Value) {
    let answer = api.health().await.unwrap();
    (answer.status, serde_json::from_str(&answer.body).unwrap())
}

fn checked_at(health: &Value) -> Value {
    health["checked_at"].clone()
}

/// Waits until the stack has this health status. Returns the whole health.
pub async fn wait_for_health(api: &ApiClient, status: &str) -> Value {
    let started = Instant::now();
    loop {
        let (_, health) = health(api).await;
        if health["status"] == status {
            return health;
        }
        assert!(started.elapsed() < BOUND, "not {status}: {health}");
        sleep(POLL_INTERVAL).await;
    }
}

/// Waits until health reports a sweep, and so until the first sweep has ended.
pub async fn wait_until_swept(api: &ApiClient, bound: Duration) {
    let started = Instant::now();
    loop {
        let (_, health) = health(api).await;
        if health["sweep"]["last_run_at"].is_string() {
            return;
        }
        assert!(started.elapsed() < bound, "no sweep has ended: {health}");
        sleep(POLL_INTERVAL).await;
    }
}

/// Posts a webhook with a payload of this size. Returns its ID, or 503 if it was rejected.
pub async fn post(api: &ApiClient, url: &str, bytes: usize) -> Result<String, StatusCode> {
    let body = json!({"url": url, "payload": "x".repeat(bytes)}).to_string();
    let answer = api.call(Method::POST, &["webhooks"], &[], Some(body)).await.unwrap();
    match answer.status {
        StatusCode::SERVICE_UNAVAILABLE => Err(answer.status),
        _ => Ok(answer.expect::<Accepted>(StatusCode::ACCEPTED).unwrap().webhook_id),
    }
}

/// The warnings of the store.
pub fn warnings(health: &Value) -> String {
    health["store"]["warnings"].to_string()
}
