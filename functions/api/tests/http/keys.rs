//! With API keys, no caller without one is admitted, on any route with any method. The routes come
//! from the router, so a new route is covered automatically.

use std::collections::BTreeSet;

use api::Access;
use reqwest::Method;
use serde_json::json;
use shared::config::{Config, Defaults};

use crate::harness::{Answer, Stack};

const KEY: &str = "key-of-the-caller-5f2c";

/// The routes that respond without a key: the status, and the operator's page, which has no data.
const OPEN: [&str; 2] = ["/health", "/"];

/// Methods that a client can send.
const METHODS: [Method; 8] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
    Method::TRACE,
];

fn access(settings: &[(&str, &str)]) -> Access {
    let setting = |name: &str| {
        settings.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    };
    Access::for_lambda(&Config::from_source(Defaults::LAMBDA, setting).unwrap().access)
}

async fn with_key() -> Stack {
    Stack::with(&[], access(&[("API_KEYS", KEY)])).await
}

/// Every path of the router. Only its debug text contains them.
fn paths(stack: &Stack) -> BTreeSet<String> {
    let text = format!("{:?}", api::router(stack.context.clone(), Access::Refuse));
    let paths: BTreeSet<String> = text
        .split('"')
        .filter(|part| part.starts_with('/') && !part.contains("__private"))
        .map(str::to_owned)
        .collect();
    for known in [
        "/webhooks",
        "/webhooks/batch",
        "/webhook-status/{webhook_id}",
        "/dead-letters/redrive",
        "/health",
        "/metrics",
    ] {
        assert!(
            paths.contains(known),
            "the router's text has changed, so routes cannot be listed by it: {text}"
        );
    }
    paths
}

/// Credentials that are not an API key.
fn wrong() -> Vec<Vec<(&'static str, String)>> {
    let basic = base64("user:key-of-the-caller-5f2c");
    let hash = "9b0a35b4d8a3a2f4f4d1c0d7d0d3a1f7a2b6a38c31c5c6f2c38bfa3a0e6d0b11";
    vec![
        vec![("authorization", "Bearer wrong".to_owned())],
        vec![("x-api-key", "wrong".to_owned())],
        vec![("authorization", String::new())],
        vec![("authorization", "Bearer".to_owned())],
        vec![("authorization", "Bearer ".to_owned())],
        vec![("x-api-key", String::new())],
        vec![("authorization", KEY.to_owned())],
        vec![("authorization", format!("Basic {basic}"))],
        vec![("authorization", format!("Token {KEY}"))],
        vec![("authorization", format!("Bearer {}", KEY.to_uppercase()))],
        vec![("authorization", format!("Bearer {KEY}x"))],
        vec![("authorization", format!("Bearer {}", &KEY[..KEY.len() - 1]))],
        vec![("authorization", format!("Bearer {KEY},{KEY}"))],
        vec![("x-api-key", format!("sha256:{hash}"))],
        vec![("authorization", "Bearer wrong".to_owned()), ("x-api-key", KEY.to_owned())],
        vec![("cookie", format!("x-api-key={KEY}; authorization=Bearer {KEY}"))],
        vec![
            ("x-forwarded-for", "127.0.0.1".to_owned()),
            ("forwarded", "for=127.0.0.1".to_owned()),
        ],
    ]
}

fn base64(text: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(text)
}

async fn call(
    stack: &Stack,
    method: &Method,
    path: &str,
    headers: &[(&'static str, String)],
) -> Answer {
    let mut request =
        stack.request(method.clone(), path).header("content-type", "application/json").body("{}");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    stack.call(request).await
}

/// Every call is refused without effect: the webhook in the paths is unchanged, and nothing is
/// queued.
#[tokio::test]
async fn no_route_responds_without_a_key() {
    let stack = with_key().await;
    let body = json!({"url": crate::harness::URL, "payload": "private-payload-71bd",
        "reference_id": "kept"})
    .to_string();
    let accepted = stack.post_with("/webhooks", body, &[("x-api-key", KEY)]).await.json(202);
    let id = accepted["webhook_id"].as_str().unwrap();
    let before = stack.record(id).await;
    assert_eq!(stack.take_messages().await.len(), 1);
    let mut refused = 0;
    for path in paths(&stack) {
        let open = OPEN.contains(&path.as_str());
        let path = path.replace("{webhook_id}", id);
        for method in &METHODS {
            for headers in wrong() {
                // Without any key the caller is anonymous, which the public routes admit.
                let names_key = headers.iter().any(|(name, value)| {
                    *name == "x-api-key" || value.trim().starts_with("Bearer ")
                });
                if open && !names_key {
                    continue;
                }
                let answer = call(&stack, method, &path, &headers).await;
                assert_eq!(answer.status, 401, "{method} {path} with {headers:?}: {}", answer.text);
                assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
                assert!(
                    !answer.text.contains("private-payload") && !answer.text.contains(KEY),
                    "{}",
                    answer.text
                );
                refused += 1;
            }
            if !open {
                for query in [
                    "",
                    "?x-api-key=key-of-the-caller-5f2c&\
                     authorization=Bearer%20key-of-the-caller-5f2c",
                ] {
                    let answer = call(&stack, method, &format!("{path}{query}"), &[]).await;
                    assert_eq!(answer.status, 401, "{method} {path}{query}: {}", answer.text);
                }
            }
            // The same call with the key is admitted. Calls that would change something are not
            // made.
            if method.is_safe() {
                let answer = call(&stack, method, &path, &[("x-api-key", KEY.to_owned())]).await;
                assert_ne!(answer.status, 401, "{method} {path}");
            }
        }
    }
    println!("{refused} calls with wrong credentials were refused");
    assert!(refused > 1000, "{refused}");
    assert_eq!(stack.record(id).await, before);
    assert_eq!(stack.take_messages().await, Vec::<String>::new());
}

/// The public route returns the status only, with every method.
#[tokio::test]
async fn health_without_a_key_returns_the_status_with_every_method() {
    let stack = with_key().await;
    for method in &METHODS {
        let answer = call(&stack, method, "/health", &[]).await;
        match (method, answer.status.as_u16()) {
            (&Method::GET, 200) => assert_eq!(answer.text, r#"{"status":"healthy"}"#),
            (&Method::HEAD, 200) | (&Method::OPTIONS, 204) => assert_eq!(answer.text, ""),
            (_, status) => {
                answer.problem(405);
                assert_eq!(status, 405, "{method}");
            }
        }
    }
}

/// A Lambda function without API keys and without `API_AUTH` refuses every call, even with
/// something that looks like a key.
#[tokio::test]
async fn without_keys_lambda_refuses_every_route() {
    let stack = Stack::with(&[], access(&[])).await;
    for path in paths(&stack) {
        for method in &METHODS {
            for headers in [vec![], vec![("x-api-key", KEY.to_owned())]] {
                let answer = call(&stack, method, &path, &headers).await;
                assert_eq!(answer.status, 503, "{method} {path}: {}", answer.text);
                assert!(!answer.text.contains("API_KEYS"), "{}", answer.text);
            }
        }
    }
}

/// With `API_AUTH=iam` every caller is admitted. API keys are still required if there are
/// any.
#[tokio::test]
async fn with_iam_the_platform_authenticates_and_keys_are_still_required() {
    let stack = Stack::with(&[], access(&[("API_AUTH", "iam")])).await;
    stack.get("/webhook-statuses").await.json(200);
    let stack = Stack::with(&[], access(&[("API_AUTH", "iam"), ("API_KEYS", KEY)])).await;
    stack.get("/webhook-statuses").await.problem(401);
    call(&stack, &Method::GET, "/webhook-statuses", &[("x-api-key", KEY.to_owned())])
        .await
        .json(200);
}
