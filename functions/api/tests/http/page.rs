//! The operator's page as it is served, and the calls that only it makes.
//! `tests/external/tests/page` tests its behaviour in a browser.

use std::time::Duration;

use api::Access;
use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use shared::config::KeyHash;

use crate::harness::{Answer, Stack};

/// The size of the compressed page.
const MAX_COMPRESSED_BYTES: usize = 60 * 1024;

/// The header and the checksum of gzip.
const GZIP_FRAME_BYTES: usize = 18;

/// The usual compression level of servers and proxies.
const GZIP_LEVEL: u8 = 6;

/// The text of the only element with this name.
fn inner<'a>(html: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = html.split_once(start).unwrap();
    let (inner, rest) = rest.split_once(end).unwrap();
    assert!(!rest.contains(start), "there is a second {start}");
    inner
}

/// The values of a directive of the content security policy.
fn directive<'a>(policy: &'a str, name: &str) -> Vec<&'a str> {
    let found = policy
        .split(';')
        .map(str::trim)
        .find_map(|part| part.strip_prefix(name)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("{name} is missing: {policy}")).split(' ').collect()
}

/// The policy allows the page's script and style and nothing else. The page loads nothing from
/// elsewhere.
#[tokio::test]
async fn the_policy_allows_the_page_s_script_and_style_only() {
    let stack = Stack::start().await;
    let answer = stack.get("/").await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("content-type")),
        (200, Some("text/html; charset=utf-8"))
    );
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
    let policy = answer.header("content-security-policy").unwrap();
    for name in ["default-src", "base-uri", "form-action", "frame-ancestors", "trusted-types"] {
        assert_eq!(directive(policy, name), ["'none'"], "{name}");
    }
    assert_eq!(directive(policy, "connect-src"), ["'self'"]);
    assert_eq!(directive(policy, "require-trusted-types-for"), ["'script'"]);
    let hash = |text: &str| format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text)));
    let (style, script) = (
        inner(&answer.text, "<style>", "</style>"),
        inner(&answer.text, "<script type=\"module\">", "</script>"),
    );
    assert_eq!(directive(policy, "style-src"), [hash(style)]);
    assert_eq!(directive(policy, "script-src"), [hash(script)]);
    assert!(style.len() > 1000 && script.len() > 10_000, "they are there");
    let rest = answer
        .text
        .replace(script, "")
        .replace(style, "")
        .replace("http://www.w3.org/2000/svg", "");
    for outside in [" src=", "http:", "https:", "url(", "@import"] {
        assert!(!rest.contains(outside) && !style.contains(outside), "{outside}");
    }
}

#[tokio::test]
async fn the_page_is_small() {
    let stack = Stack::start().await;
    let page = stack.get("/").await;
    let compressed = miniz_oxide::deflate::compress_to_vec(page.text.as_bytes(), GZIP_LEVEL).len()
        + GZIP_FRAME_BYTES;
    println!("the page: {} bytes, {compressed} compressed", page.text.len());
    assert!(compressed < MAX_COMPRESSED_BYTES, "{compressed} bytes");
}

/// Browsers cache the page and revalidate it each time. Other responses are not cached.
#[tokio::test]
async fn the_page_is_cached_and_revalidated() {
    let stack = Stack::start().await;
    let page = stack.get("/").await;
    let etag = page.header("etag").unwrap();
    assert_eq!(page.header("cache-control"), Some("no-cache"));
    let ask = async |tag: String| {
        stack.call(stack.request(Method::GET, "/").header("if-none-match", tag)).await
    };
    for tag in [etag.to_owned(), format!("W/{etag}"), format!("\"other\", {etag}")] {
        let answer = ask(tag).await;
        assert_eq!(
            (answer.status.as_u16(), answer.text.len(), answer.header("etag")),
            (304, 0, Some(etag))
        );
        assert!(answer.header("content-security-policy").is_some());
    }
    assert_eq!(ask("\"other\"".to_owned()).await.text, page.text);
    let head = stack.call(stack.request(Method::HEAD, "/")).await;
    assert_eq!((head.status.as_u16(), head.text.len(), head.header("etag")), (200, 0, Some(etag)));
    stack.get("/?x=1").await.problem(422);
    assert_eq!(stack.get("/health").await.header("cache-control"), Some("no-store"));
}

/// The page needs no API key, but its calls do. If every call is refused, so is the page.
#[tokio::test]
async fn the_page_needs_no_key_and_its_calls_do() {
    let access = Access::Keys(vec![KeyHash::of(b"key")]);
    let stack = Stack::with(&[], access).await;
    assert_eq!(stack.get("/").await.status.as_u16(), 200);
    for path in ["/overview", "/metrics", "/destinations", "/webhook-statuses", "/dead-letters"] {
        stack.get(path).await.problem(401);
    }
    stack.post("/", "{}").await.problem(405);
    Stack::with(&[], Access::Refuse).await.get("/").await.problem(503);
}

fn minutes(overview: &Value) -> Vec<[u64; 3]> {
    let minutes = overview["last_hour"]["minutes"].as_array().unwrap();
    minutes
        .iter()
        .map(|minute| ["delivered", "waiting", "failed"].map(|name| minute[name].as_u64().unwrap()))
        .collect()
}

async fn overview(stack: &Stack) -> Value {
    stack.get("/overview").await.json(200)
}

/// Each webhook counts in the minute of its acceptance with its current status, for an hour.
#[tokio::test]
async fn the_overview_counts_the_last_hour_by_minute() {
    let stack = Stack::start().await;
    let nothing = overview(&stack).await;
    assert_eq!(minutes(&nothing), [[0; 3]; 60]);
    assert_eq!(
        nothing["oldest_waiting"],
        json!({"complete": true, "webhook_id": null, "since": null})
    );
    let delivered = stack.accept(json!({})).await;
    stack.conclude(&delivered, 200).await;
    let first = stack.accept(json!({})).await;
    stack.clock.advance(Duration::from_secs(120));
    let failed = stack.accept(json!({})).await;
    stack.conclude(&failed, 410).await;
    let retrying = stack.accept(json!({})).await;
    stack.conclude(&retrying, 500).await;
    let now = overview(&stack).await;
    let shown = minutes(&now);
    assert_eq!((shown[57], shown[58], shown[59]), ([1, 1, 0], [0; 3], [0, 1, 1]));
    assert_eq!(now["last_hour"]["complete"], true);
    assert_eq!(
        (&now["oldest_waiting"]["webhook_id"], &now["oldest_waiting"]["complete"]),
        (&first.into(), &true.into())
    );
    stack.clock.advance(Duration::from_secs(58 * 60));
    assert_eq!(
        minutes(&overview(&stack).await).iter().flatten().sum::<u64>(),
        2,
        "the two of the later minute are left"
    );
    stack.faults.store_down();
    stack.get("/overview").await.problem(503);
}

/// A scheduled webhook waits from its time on, and a redriven one from the redrive on.
#[tokio::test]
async fn the_oldest_waiting_webhook_should_have_been_sent_first() {
    let stack = Stack::start().await;
    let old = stack.accept(json!({})).await;
    stack.bury(&old).await;
    let at = shared::clock::Clock::now(&*stack.clock).plus(Duration::from_secs(3600));
    let scheduled = stack.accept(json!({"deliver_at": at.to_string()})).await;
    assert_eq!(overview(&stack).await["oldest_waiting"]["webhook_id"], Value::Null);
    stack.clock.advance(Duration::from_secs(3500));
    let redriven: Answer = stack.post(&format!("/dead-letters/{old}/redrive"), "").await;
    redriven.json(202);
    stack.clock.advance(Duration::from_secs(600));
    let oldest = overview(&stack).await["oldest_waiting"].clone();
    assert_eq!(oldest["webhook_id"], old);
    stack.conclude(&old, 200).await;
    let oldest = overview(&stack).await["oldest_waiting"].clone();
    assert_eq!(
        (&oldest["webhook_id"], &oldest["since"]),
        (&scheduled.into(), &at.to_string().into())
    );
}

/// The payload is returned exactly as it was accepted, and only on request.
#[tokio::test]
async fn the_payload_is_returned_on_request_only() {
    let stack = Stack::start().await;
    let payload = r#"{"n": 12345678901234567890.10,  "n":"\u00e4"}"#;
    let body = format!(r#"{{"url":"https://receiver.example/","payload":{payload}}}"#);
    let id =
        stack.post("/webhooks", body).await.json(202)["webhook_id"].as_str().unwrap().to_owned();
    let path = format!("/webhook-status/{id}");
    assert_eq!(stack.get(&path).await.json(200).get("payload"), None);
    assert_eq!(stack.get(&format!("{path}?include=")).await.json(200).get("payload"), None);
    let whole = stack.get(&format!("{path}?include=payload")).await;
    whole.json(200);
    assert!(whole.text.contains(&format!(r#""payload":{payload}"#)), "{}", whole.text);
    assert_eq!(stack.get(&format!("{path}?include=headers")).await.problem(422), ["include"]);
    assert_eq!(stack.get(&format!("{path}?payload=1")).await.problem(422), ["payload"]);
}
