//! Authentication, and the headers of every response.

use std::time::Duration;

use api::Access;
use reqwest::Method;
use serde_json::{Value, json};
use shared::config::{Config, Defaults};

use crate::harness::{Stack, URL};

/// SHA-256 of `second`.
const SECOND_HASH: &str = "16367aacb67a4a017c8da8ab95682ccb390863780f7114dda0a0e0c55644c7c4";

fn keys() -> Access {
    let keys = format!("first, sha256:{SECOND_HASH}");
    let config =
        Config::from_source(Defaults::LOCAL, |name| (name == "API_KEYS").then(|| keys.clone()))
            .unwrap();
    Access::for_lambda(&config.access)
}

#[tokio::test]
async fn only_a_key_admits_a_caller() {
    let stack = Stack::with(&[], keys()).await;
    let body = json!({"url": URL, "payload": 1}).to_string();
    for header in [
        ("authorization", "Bearer first"),
        ("x-api-key", "first"),
        ("authorization", "Bearer second"),
    ] {
        stack.post_with("/webhooks", body.clone(), &[header]).await.json(202);
    }
    for headers in [
        &[][..],
        &[("authorization", "Bearer third")],
        &[("x-api-key", SECOND_HASH)],
        &[("authorization", "first")],
    ] {
        let answer = stack.post_with("/webhooks", body.clone(), headers).await;
        answer.problem(401);
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        stack.call(stack.request(Method::GET, "/nope")).await.problem(401);
    }
    assert_eq!(stack.take_messages().await.len(), 3);
}

#[tokio::test]
async fn health_without_a_key_contains_the_status_only() {
    let stack = Stack::with(&[], keys()).await;
    assert_eq!(stack.get("/health").await.json(200), json!({"status": "healthy"}));
    let whole = stack
        .call(stack.request(Method::GET, "/health").header("x-api-key", "first"))
        .await
        .json(200);
    assert!(whole["queue"]["depths"]["webhooks"].is_object());
    stack
        .call(stack.request(Method::GET, "/health").header("x-api-key", "wrong"))
        .await
        .problem(401);
    stack.get("/metrics").await.problem(401);
    stack.faults.store_down();
    // Findings are reused for a second.
    stack.clock.advance(Duration::from_secs(1));
    assert_eq!(stack.get("/health").await.json(503), json!({"status": "unhealthy"}));
}

#[tokio::test]
async fn without_keys_lambda_refuses_every_call_without_a_reason() {
    let stack = Stack::with(&[], Access::Refuse).await;
    for path in ["/health", "/webhook-statuses", "/nope"] {
        let answer = stack.get(path).await;
        answer.problem(503);
        assert!(answer.header("retry-after").is_some());
        assert!(!answer.text.contains("API_KEYS"), "{}", answer.text);
    }
    let stack = Stack::with(&[], Access::Platform).await;
    assert_eq!(stack.get("/health").await.json(200)["store"]["status"], "healthy");
}

/// Programs on this machine may call, but not web pages of other sites in its browser.
#[tokio::test]
async fn without_keys_the_local_stack_refuses_browsers_of_other_sites() {
    let stack = Stack::start().await;
    let body = json!({"url": URL, "payload": 1}).to_string();
    stack.post_with("/webhooks", body.clone(), &[("origin", stack.base.as_str())]).await.json(202);
    for header in [
        ("host", "evil.example"),
        ("origin", "https://evil.example"),
        ("sec-fetch-site", "cross-site"),
    ] {
        stack.post_with("/webhooks", body.clone(), &[header]).await.problem(403);
    }
    let rebound =
        stack.request(Method::GET, "/webhook-statuses").header("host", "evil.example:8000");
    stack.call(rebound).await.problem(403);
    assert_eq!(stack.take_messages().await.len(), 1);
}

#[tokio::test]
async fn every_response_has_a_correlation_id() {
    let stack = Stack::start().await;
    for path in ["/health", "/nope", "/webhook-statuses?x=1", "/webhook-status/x"] {
        let with = |id: &'static str| {
            stack.call(stack.request(Method::GET, path).header("x-correlation-id", id))
        };
        assert_eq!(with("order-7").await.header("x-correlation-id"), Some("order-7"), "{path}");
        for insane in ["", "a b"] {
            let answered = with(insane).await.header("x-correlation-id").unwrap().to_owned();
            assert_eq!(answered.len(), 36, "{path}: {answered}");
        }
        assert_ne!(
            stack.get(path).await.header("x-correlation-id"),
            stack.get(path).await.header("x-correlation-id")
        );
    }
    let answer =
        stack.post_with("/webhooks", json!({"url": URL, "payload": 1}).to_string(), &[]).await;
    let body: Value = answer.json(202);
    assert_eq!(body["correlation_id"].as_str(), answer.header("x-correlation-id"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}
