//! No secret appears in an error, a log or a metric.
//!
//! `tests/harness/src/secrecy.rs` checks the log of every stack in every test. This test sends all
//! kinds of secrets through one stack with maximum logging, on every path that could log them.

use std::time::Duration;

use harness::{
    client::ApiClient,
    ledger,
    receiver::{Receiver, Reply},
    secrecy,
    stack::Launch,
};
use http::{Method, StatusCode};
use serde_json::json;

const BOUND: Duration = Duration::from_secs(30);

const KEY: &str = "key-mark-b64c1f";
const HMAC: &str = "hmac-mark-90d2ae is-not-base64!";
const PAYLOAD: &str = "payload-mark-3e7a55";
const QUERY: &str = "token=query-mark-d81c07";
const USERINFO: &str = "user:password-mark-6b20e9";
const HEADER: &str = "Bearer header-mark-c5f711";

fn assert_private(what: &str, text: &str) {
    for mark in
        ["key-mark", "hmac-mark", "payload-mark", "query-mark", "password-mark", "header-mark"]
    {
        assert!(!text.contains(mark), "{what} contains {mark}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_appear_in_no_log_error_or_metric() {
    // The receiver fails in two ways, and then accepts.
    let receiver = Receiver::start().await.unwrap();
    receiver.answer_with(|request| match request.attempt() {
        Some(1) => Reply::status(500),
        Some(2) => Reply::hang_up(),
        _ => Reply::status(204),
    });
    let launch = Launch::fresh()
        .unwrap()
        .set("API_KEYS", KEY)
        .set("WEBHOOK_HMAC_SECRET", HMAC)
        .set("RUST_LOG", "trace")
        .set("RETRY_BASE_DELAY_MS", "10")
        .set("CIRCUIT_FAILURES", "1")
        .set("CIRCUIT_OPEN_MS", "100");
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), Some(KEY)).unwrap();
    let webhook = |url: &str| {
        json!({"url": url, "payload": {"mark": PAYLOAD}, "headers": {"authorization": HEADER}})
            .to_string()
    };
    let post =
        async |body: String| api.call(Method::POST, &["webhooks"], &[], Some(body)).await.unwrap();

    let url = receiver.url(&format!("/hook?{QUERY}"));
    let accepted: serde_json::Value =
        post(webhook(&url)).await.expect(StatusCode::ACCEPTED).unwrap();
    let unreachable = "http://127.0.0.1:1/hook?token=query-mark-d81c07";
    let failing: serde_json::Value =
        post(webhook(unreachable)).await.expect(StatusCode::ACCEPTED).unwrap();
    let ids =
        [&accepted, &failing].map(|accepted| accepted["webhook_id"].as_str().unwrap().to_owned());
    let statuses = ledger::settle(&api, &ids, BOUND).await.statuses;
    assert_eq!(statuses, [("delivered".to_owned(), 1), ("failed".to_owned(), 1)].into());

    // No error repeats the invalid value.
    let with_userinfo = receiver.url("/hook").replace("http://", &format!("http://{USERINFO}@"));
    for (body, status) in [
        (webhook(&with_userinfo), 422),
        (webhook(&format!("ftp://{USERINFO}@receiver.example/?{QUERY}")), 422),
        (
            json!({"url": url, "payload": PAYLOAD,
            "headers": {"x-a": format!("{HEADER}\r\nx-b: c")}})
            .to_string(),
            422,
        ),
        (
            json!({"url": url, "payload": PAYLOAD, "retry": PAYLOAD, "event_type": 7,
            "deliver_at": PAYLOAD})
            .to_string(),
            422,
        ),
        (format!("{{\"payload\": \"{PAYLOAD}\", "), 400),
    ] {
        secrecy::note("password-mark-6b20e9");
        let answer = post(body).await;
        assert_eq!(answer.status, status, "{}", answer.body);
        assert_private("an error", &answer.body);
    }
    for key in ["key-mark-wrong", "key-mark-b64c1"] {
        secrecy::note(key);
        let answer = ApiClient::new(&stack.url(), Some(key))
            .unwrap()
            .call(Method::GET, &["destinations"], &[], None)
            .await
            .unwrap();
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        assert_private("a refusal", &answer.body);
    }
    let no_query: &[(&str, &str)] = &[];
    for (path, query) in [
        ("metrics", no_query),
        ("health", no_query),
        ("destinations", no_query),
        ("webhook-statuses", &[("status", PAYLOAD)]),
    ] {
        let answer = api.call(Method::GET, &[path], query, None).await.unwrap();
        assert_private(path, &answer.body);
    }
    // The log is detailed enough for this check. DEBUG is the lowest level that this build logs,
    // because the sender is not hyper's client, which logs at TRACE.
    let log = launch.log();
    for sentence in [
        "DEBUG",
        "Sending webhook notification to http://127.0.0.1:",
        "Webhook delivery failed",
        "not base64",
    ] {
        assert!(log.contains(sentence), "the log does not contain '{sentence}'");
    }
    assert_private("the log", &log);
    ledger::close(&api, stack, &launch).await;
}

/// An unreachable server causes repeated errors in the log. None contains the password.
#[tokio::test]
async fn an_unreachable_redis_is_logged_without_its_password() {
    let url = "redis://default:password-mark-44fa1c@127.0.0.1:1/0";
    let launch = Launch::fresh()
        .unwrap()
        .set("STATUS_BACKEND", "redis")
        .set("QUEUE_BACKEND", "redis")
        .set("RUST_LOG", "trace");
    let launch =
        launch.set("STATUS_REDIS_URL", url).set("QUEUE_REDIS_URL", &url.replace("/0", "/1"));
    let launch = launch.ready_within(Duration::from_secs(5));
    let error = launch.start().map(drop).unwrap_err().to_string();
    assert!(launch.log().contains("redis") || launch.log().contains("Redis"), "{error}");
    assert_private("the log", &launch.log());
    assert_private("the error", &error);
}
