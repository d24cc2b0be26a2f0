//! Every kind of invalid input, and each limit. A refused request stores and queues nothing.

use std::time::Duration;

use api::Access;
use reqwest::{Method, header::CONTENT_TYPE};
use serde_json::{Value, json};
use shared::store::Filter;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use url::form_urlencoded;

use crate::harness::{Stack, URL};

async fn check_nothing_happened(stack: &Stack) {
    assert!(stack.context.store.list(&Filter::default(), None, 10).await.unwrap().items.is_empty());
    assert!(stack.take_messages().await.is_empty());
}

/// The response to a POST with these further headers and this body.
async fn raw(stack: &Stack, rest: &str) -> String {
    let address = stack.base.strip_prefix("http://").unwrap();
    let mut connection = TcpStream::connect(address).await.unwrap();
    let request =
        format!("POST /webhooks HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{rest}");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    answer
}

fn with(more: &Value) -> String {
    let mut body = json!({"url": URL, "payload": 1});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body.to_string()
}

#[tokio::test]
async fn malformed_json_is_a_400_that_names_the_place() {
    let stack = Stack::start().await;
    for (body, place) in [
        ("", "line 1 column 0"),
        ("{\"url\":\n  nope}", "line 2 column 4"),
        ("[1,2", "line 1 column 4"),
    ] {
        let answer = stack.post("/webhooks", body).await;
        assert!(answer.problem(400).is_empty());
        assert!(answer.text.contains(place), "{}", answer.text);
        stack.post("/webhooks/batch", body).await.problem(400);
        stack
            .post(&format!("/test-webhook?webhook_url={URL}"), body.replace("[1,2", "[1,"))
            .await
            .problem(400);
    }
    let not_utf8 = stack
        .request(Method::POST, "/webhooks")
        .header(CONTENT_TYPE, "application/json")
        .body(b"{\"url\":\"\xff\"}".to_vec());
    stack.call(not_utf8).await.problem(400);
    check_nothing_happened(&stack).await;
}

#[tokio::test]
async fn invalid_fields_are_a_422_that_names_each() {
    let stack = Stack::start().await;
    let answer = stack.post(
        "/webhooks",
        r#"{"url": 7, "reference_id": "a b",
            "headers": {"X-Foo": 1, "Host": "x", "X-B": "a\nb", "webhook_id": "x"},
            "event_type": "", "ulr": "x",
            "deliver_at": "soon", "retry": {"max_attempts": 0, "factor": "x", "tries": 1}}"#,
    );
    let mut named = answer.await.problem(422);
    named.sort_unstable();
    let expected = [
        "deliver_at",
        "event_type",
        "headers.Host",
        "headers.X-B",
        "headers.X-Foo",
        "headers.webhook_id",
        "payload",
        "reference_id",
        "retry.factor",
        "retry.max_attempts",
        "retry.tries",
        "ulr",
        "url",
    ];
    assert_eq!(named, expected);
    for (body, field) in [
        ("[]".to_owned(), "body"),
        ("7".to_owned(), "body"),
        ("{}".to_owned(), "url"),
        (format!(r#"{{"url":"{URL}"}}"#), "payload"),
        (format!(r#"{{"url":"{URL}","payload":1,"payload":2}}"#), "payload"),
        (with(&json!({"reference_id": ""})), "reference_id"),
        (with(&json!({"reference_id": "x".repeat(65)})), "reference_id"),
        (with(&json!({"event_type": "x".repeat(129)})), "event_type"),
        (with(&json!({"event_type": "a\u{7}b"})), "event_type"),
        (with(&json!({"event_type": "\u{e4}"})), "event_type"),
        (with(&json!({"headers": []})), "headers"),
        (with(&json!({"headers": {"X-A": "1", "x-a": "2"}})), "headers.x-a"),
        (with(&json!({"headers": {"webhook-id": "x"}})), "headers.webhook-id"),
        (with(&json!({"retry": 3})), "retry"),
        (with(&json!({"retry": {"schedule_ms": [1], "max_attempts": 2}})), "retry.schedule_ms"),
        (with(&json!({"retry": {"schedule_ms": [-1]}})), "retry.schedule_ms"),
    ] {
        let named = stack.post("/webhooks", body.clone()).await.problem(422);
        assert!(named.contains(&field.to_owned()), "{body}: {named:?}");
    }
    check_nothing_happened(&stack).await;
}

#[tokio::test]
async fn headers_have_a_limit_in_number_and_in_bytes() {
    let stack = Stack::start().await;
    let headers = |count: usize, length: usize| {
        let headers: serde_json::Map<String, Value> =
            (0..count).map(|n| (format!("x-{n:03}"), "v".repeat(length).into())).collect();
        with(&json!({"headers": headers}))
    };
    stack.post("/webhooks", headers(32, 251)).await.json(202);
    assert_eq!(stack.post("/webhooks", headers(33, 1)).await.problem(422), ["headers"]);
    assert_eq!(stack.post("/webhooks", headers(100, 1)).await.problem(422), ["headers"]);
    assert_eq!(stack.post("/webhooks", headers(32, 252)).await.problem(422), ["headers"]);
}

#[tokio::test]
async fn a_schedule_is_at_most_a_year_ahead() {
    let stack = Stack::start().await;
    let ahead = |days: u64| {
        let at = stack.context.clock.now().plus(Duration::from_secs(days * 24 * 3600));
        with(&json!({"deliver_at": at.to_string()}))
    };
    stack.post("/webhooks", ahead(365)).await.json(202);
    assert_eq!(stack.post("/webhooks", ahead(366)).await.problem(422), ["deliver_at"]);
}

#[tokio::test]
async fn a_refused_url_is_a_422_with_the_reason() {
    let settings = [
        ("WEBHOOK_ALLOWLIST", r"^https?://[^/]*example\.com/.*$"),
        ("ALLOW_PRIVATE_DESTINATIONS", "false"),
    ];
    let stack = Stack::with(&settings, Access::Loopback).await;
    for (url, reason) in [
        ("ftp://example.com/", "must begin with http:// or https://"),
        ("https://user:pass@example.com/", "user name or password"),
        ("https://other.example/", "allowlist"),
        ("http://127.0.0.1/", "not a public address"),
        ("http://169.254.169.254/latest/meta-data", "not a public address"),
        ("http://[::1]/", "not a public address"),
        ("http://localhost/", "localhost"),
        ("http://127.0.0.1:0/", "must not have port 0"),
        ("http://example.com:0/", "must not have port 0"),
        ("http://*.example.com/", "not a valid name"),
        ("http://a..example.com/", "not a valid name"),
        (&format!("http://{}.example.com/", "a".repeat(64)), "not a valid name"),
        (&format!("http://{}example.com/", "a.".repeat(122)), "not a valid name"),
        ("not a url", "valid absolute URL"),
        ("", "valid absolute URL"),
    ] {
        let answer = stack.post("/webhooks", json!({"url": url, "payload": 1}).to_string()).await;
        assert_eq!(answer.problem(422), ["url"]);
        assert!(answer.text.contains(reason), "{url}: {}", answer.text);
        let query: String = form_urlencoded::Serializer::new(String::new())
            .append_pair("webhook_url", url)
            .finish();
        assert_eq!(
            stack.post(&format!("/test-webhook?{query}"), "1").await.problem(422),
            ["webhook_url"]
        );
    }
    let long = format!("https://example.com/{}", "x".repeat(2048));
    assert_eq!(
        stack.post("/webhooks", json!({"url": long, "payload": 1}).to_string()).await.problem(422),
        ["url"]
    );
    stack.post("/test-webhook?url=https://example.com/", "1").await.problem(422);
    check_nothing_happened(&stack).await;
    stack
        .post("/webhooks", json!({"url": "https://api.example.com/", "payload": 1}).to_string())
        .await
        .json(202);
}

#[tokio::test]
async fn unknown_routes_are_404_and_wrong_methods_405() {
    let stack = Stack::start().await;
    for path in [
        "/nope",
        "/openapi.yaml",
        "/webhooks/",
        "/webhook-status/",
        "/webhooks/batch/x",
        "//webhooks",
    ] {
        stack.get(path).await.problem(404);
    }
    for (method, path, allow) in [
        (Method::GET, "/webhooks", "POST"),
        (Method::PUT, "/webhooks", "POST"),
        (Method::DELETE, "/webhooks/batch", "POST"),
        (Method::POST, "/webhook-statuses", "GET,HEAD,DELETE"),
        (Method::PATCH, "/health", "GET,HEAD"),
        (Method::GET, "/dead-letters/redrive", "POST"),
    ] {
        let answer = stack.call(stack.request(method, path)).await;
        answer.problem(405);
        assert_eq!(answer.header("allow"), Some(allow), "{path}");
    }
    let options = stack.call(stack.request(Method::OPTIONS, "/webhooks")).await;
    assert_eq!((options.status.as_u16(), options.header("allow")), (204, Some("POST")));
    let head = stack.call(stack.request(Method::HEAD, "/health")).await;
    assert_eq!((head.status.as_u16(), head.text.as_str()), (200, ""));
}

#[tokio::test]
async fn a_404_for_a_trailing_slash_names_the_route_without_it() {
    let stack = Stack::start().await;
    for (path, route) in [
        ("/webhooks/", "/webhooks"),
        ("/webhook-status/x_1//", "/webhook-status/x_1"),
        ("/health/", "/health"),
    ] {
        let answer = stack.post(path, "{}").await;
        answer.problem(404);
        assert!(
            answer.text.contains(&format!("Use '{route}' without a trailing slash.")),
            "{}",
            answer.text
        );
    }
    for path in ["/nope/", "/webhooks/batch/x/", "/webhooks", "//"] {
        let answer = stack.get(path).await;
        assert!(!answer.text.contains("trailing slash"), "{path}: {}", answer.text);
    }
}

#[tokio::test]
async fn only_json_is_accepted() {
    let stack = Stack::start().await;
    let post = |content_type: &str| {
        let request = stack.request(Method::POST, "/webhooks").header(CONTENT_TYPE, content_type);
        stack.call(request.body(json!({"url": URL, "payload": 1}).to_string()))
    };
    for other in
        ["text/plain", "application/x-www-form-urlencoded", "application/xml", "text/x+json", ""]
    {
        post(other).await.problem(415);
    }
    let test = format!("/test-webhook?webhook_url={URL}");
    let one = json!({"url": URL, "payload": 1});
    for (path, body) in
        [("/webhooks", &one), ("/webhooks/batch", &json!({"webhooks": [one]})), (&*test, &one)]
    {
        let undeclared = stack.request(Method::POST, path).body(body.to_string());
        stack.call(undeclared).await.problem(415);
    }
    check_nothing_happened(&stack).await;
    for json in ["application/json", "application/json; charset=utf-8", "application/vnd.api+json"]
    {
        post(json).await.json(202);
    }
}

/// The limit applies to the payload's bytes, not to the bytes around it. The whole body has a limit
/// too, even without `content-length`.
#[tokio::test]
async fn payload_and_body_are_limited() {
    let stack = Stack::with(&[("MAX_PAYLOAD_BYTES", "1000")], Access::Loopback).await;
    let payload = |bytes: usize| {
        format!(r#"{{"url":"{URL}", "payload" :   "{}"   }}"#, "x".repeat(bytes - 2))
    };
    stack.post("/webhooks", payload(1000)).await.json(202);
    assert_eq!(stack.post("/webhooks", payload(1001)).await.problem(413), ["payload"]);
    let test = format!("/test-webhook?webhook_url={URL}");
    stack.post(&test, format!("  \"{}\" ", "x".repeat(998))).await.json(202);
    assert_eq!(
        stack.post(&test, format!("\"{}\"", "x".repeat(999))).await.problem(413),
        ["payload"]
    );
    let blanks = |bytes: usize| format!("{}{}", " ".repeat(bytes), payload(10));
    stack.post("/webhooks", blanks(64 * 1024)).await.json(202);
    stack.post("/webhooks", blanks(66 * 1024)).await.problem(413);
    stack.post("/webhooks", blanks(4_000_000)).await.problem(413);
    let chunk = format!("400\r\n{}\r\n", " ".repeat(1024));
    let chunked = format!("transfer-encoding: chunked\r\n\r\n{}0\r\n\r\n", chunk.repeat(100));
    assert!(raw(&stack, &chunked).await.starts_with("HTTP/1.1 413"));
    stack.post("/webhooks/batch", " ".repeat(7 * 1024 * 1024)).await.problem(413);
}

#[tokio::test]
async fn invalid_parameters_and_ids_are_named() {
    let stack = Stack::start().await;
    for (path, fields) in [
        ("/webhook-statuses?status=done", vec!["status"]),
        ("/webhook-statuses?stauts=failed", vec!["stauts"]),
        (
            "/webhook-statuses?reference_id=a%20b&page=0&page_size=101",
            vec!["reference_id", "page_size", "page"],
        ),
        ("/webhook-statuses?page=11&page_size=100", vec!["page"]),
        ("/dead-letters?page=2", vec!["page"]),
        ("/dead-letters?page_size=x", vec!["page_size"]),
        ("/health?verbose=1", vec!["verbose"]),
    ] {
        assert_eq!(stack.get(path).await.problem(422), fields, "{path}");
    }
    assert_eq!(
        stack.post("/webhook-cleanup?older_than_days=-1", "").await.problem(422),
        ["older_than_days"]
    );
    assert_eq!(stack.post("/webhooks?x=1", with(&json!({}))).await.problem(422), ["x"]);
    for id in [
        "x",
        "order_7",
        "a_01890a5d-ac96-774b-bcce-b302099a8057",
        "%00",
        "a%2Fb_01890a5d-ac96-774b-bcce-b302099a8057",
    ] {
        for path in [
            format!("/webhook-status/{id}"),
            format!("/webhooks/{id}/explain"),
            format!("/dead-letters/{id}"),
        ] {
            stack.get(&path).await.problem(404);
        }
        stack.delete(&format!("/webhook-status/{id}")).await.problem(404);
        stack.delete(&format!("/dead-letters/{id}")).await.problem(404);
        stack.post(&format!("/webhooks/{id}/resend"), "").await.problem(404);
        stack.post(&format!("/dead-letters/{id}/redrive"), "").await.problem(404);
    }
}
