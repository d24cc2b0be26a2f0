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

/// For what takes milliseconds on a machine with nothing else to do.
pub const BOUND: Duration = Duration::from_secs(60);

/// Between two requests.
pub const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A stack whose retries come soon, and whose circuits stay closed.
pub fn launch() -> Launch {
    let launch =
        Launch::fresh().unwrap().set("RETRY_BASE_DELAY_MS", "50").set("CIRCUIT_FAILURES", "0");
    launch.set("RETRY_MAX_ATTEMPTS", "50").set("RUST_LOG", "warn")
}

/// Health as it is now: what is told holds for a second.
pub async fn fresh_health(api: &ApiClient) -> (StatusCode, Value) {
    let asked = Instant::now();
    let first = checked_at(&health(api).await.1);
    loop {
        let (status, body) = health(api).await;
        if checked_at(&body) != first {
            return (status, body);
        }
        assert!(asked.elapsed() < BOUND, "health stays the same");
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

/// Waits until health says this, and returns all that it says.
pub async fn wait_for_health(api: &ApiClient, word: &str) -> Value {
    let started = Instant::now();
    loop {
        let (_, health) = health(api).await;
        if health["status"] == word {
            return health;
        }
        assert!(started.elapsed() < BOUND, "not {word}: {health}");
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

/// Posts a webhook with a payload of so many bytes: its id, or that it was refused with 503.
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
