//! More concurrent requests than the capacity. Excess requests get a 503 at once and have no
//! effect, and monitoring still works. Complete requests need a slot, and bodies need memory, even
//! while they arrive.

use std::time::Duration;

use api::Access;
use serde_json::json;
use shared::config::KeyHash;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    faulty::Fault,
    harness::{Stack, URL},
};

const BOUND: Duration = Duration::from_secs(60);

/// The smallest memory setting. One batch of [`LARGE`] bytes uses most of it.
const ROOM: (&str, &str) = ("API_BODY_BYTES", "33554432");
const LARGE: usize = 5_900_000;

/// A request whose body is not complete.
struct Unfinished {
    stream: TcpStream,
}

impl Unfinished {
    /// Sends the head with these further headers, and the start of the body.
    async fn begin(stack: &Stack, path: &str, lines: &str, body: &str) -> Self {
        let host = stack.base.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(host).await.unwrap();
        let begun = format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\nconnection: \
             close\r\n{lines}\r\n{body}"
        );
        stream.write_all(begun.as_bytes()).await.unwrap();
        Self { stream }
    }

    /// A batch of [`LARGE`] bytes, of which one is sent.
    async fn large(stack: &Stack, key: &str) -> Self {
        Self::begin(
            stack,
            "/webhooks/batch",
            &format!("x-api-key: {key}\r\ncontent-length: {LARGE}\r\n"),
            "{",
        )
        .await
    }

    /// Sends the rest, and returns the whole response.
    async fn end(mut self, rest: &str) -> String {
        self.stream.write_all(rest.as_bytes()).await.unwrap();
        self.answer().await
    }

    async fn answer(&mut self) -> String {
        let mut answer = Vec::new();
        // A reset can cut off the response to a refused request.
        let _ = tokio::time::timeout(BOUND, self.stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Whether a response arrives before the body is complete.
    async fn is_answered(&self) -> bool {
        tokio::time::timeout(Duration::from_millis(200), self.stream.readable()).await.is_ok()
    }
}

fn keys(names: &[&str]) -> Access {
    Access::Keys(names.iter().map(|name| KeyHash::of(name.as_bytes())).collect())
}

/// A body that arrives slowly holds no slot.
#[tokio::test]
async fn incomplete_bodies_hold_no_slots() {
    let stack = Stack::with(&[("API_CONCURRENCY", "2")], Access::Loopback).await;
    let body = json!({"url": URL, "payload": {"n": 1}}).to_string();
    let (first, rest) = body.split_at(1);
    let mut slow = Vec::new();
    for _ in 0..20 {
        let length = format!("content-length: {}\r\n", body.len());
        slow.push(Unfinished::begin(&stack, "/webhooks", &length, first).await);
    }
    for _ in 0..5 {
        stack.post("/webhooks", body.clone()).await.json(202);
        stack.get("/webhook-statuses").await.json(200);
    }
    assert_eq!(stack.take_messages().await.len(), 5);
    for request in slow {
        let answer = request.end(rest).await;
        assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    }
    assert_eq!(stack.take_messages().await.len(), 20);
}

#[tokio::test]
async fn excess_requests_get_a_503_with_retry_after() {
    let stack = Stack::with(&[("API_CONCURRENCY", "2")], Access::Loopback).await;
    let body = json!({"url": URL, "payload": 1}).to_string();
    stack.faults.take_calls();
    stack.faults.set("create", Fault::Held);
    let at_work = async {
        tokio::join!(stack.post("/webhooks", body.clone()), stack.post("/webhooks", body.clone()))
    };
    let meanwhile = async {
        stack.faults.called("create", 2).await;
        let shed = stack.post("/webhooks", body.clone()).await;
        shed.problem(503);
        assert_eq!(
            (shed.json(503)["type"].as_str(), shed.header("retry-after")),
            (Some("urn:posthaste:overloaded"), Some("1"))
        );
        for path in ["/webhook-statuses", "/nope"] {
            stack.get(path).await.problem(503);
        }
        for path in ["/health", "/metrics"] {
            assert_eq!(stack.get(path).await.status, 200, "{path}: who watches gets through");
        }
        stack.faults.heal();
    };
    let ((first, second), ()) = tokio::join!(at_work, meanwhile);
    first.json(202);
    second.json(202);
    stack.post("/webhooks", body.clone()).await.json(202);
    assert_eq!(stack.take_messages().await.len(), 3, "and nothing of what was shed");
}

/// One API key uses at most half of the slots and of the memory. Requests of the other key work.
#[tokio::test]
async fn one_key_cannot_use_the_capacity_of_another() {
    let stack = Stack::with(
        &[("API_BODY_BYTES", "67108864"), ("API_CONCURRENCY", "4")],
        keys(&["loud", "quiet"]),
    )
    .await;
    let body = json!({"url": URL, "payload": {"n": 1}}).to_string();
    let one = Unfinished::large(&stack, "loud").await;
    let mut refused = Unfinished::large(&stack, "loud").await;
    // That takes a moment: a refused body is read for a while, so that its sender sees the
    // response.
    let answer = refused.answer().await;
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("urn:posthaste:overloaded"),
        "{answer}"
    );
    assert!(!one.is_answered().await, "the first has its room");
    let other = Unfinished::large(&stack, "quiet").await;
    assert!(!other.is_answered().await, "so has the other key's");
    stack.post_with("/webhooks", body.clone(), &[("x-api-key", "quiet")]).await.json(202);
    // An unchecked header has no effect on the share: the bearer token is the key.
    let disguised =
        format!("authorization: Bearer loud\r\nx-api-key: quiet\r\ncontent-length: {LARGE}\r\n");
    let mut disguised = Unfinished::begin(&stack, "/webhooks/batch", &disguised, "{").await;
    assert!(disguised.answer().await.starts_with("HTTP/1.1 503 "));
}

#[tokio::test]
async fn a_body_reserves_memory_by_its_length_or_as_it_grows() {
    let stack = Stack::with(&[ROOM], Access::Loopback).await;
    let small = json!({"url": URL, "payload": 1}).to_string();
    let first =
        Unfinished::begin(&stack, "/webhooks/batch", &format!("content-length: {LARGE}\r\n"), "{")
            .await;
    assert!(!first.is_answered().await);
    // There is no memory for its content-length, although no byte of it has arrived.
    let mut second =
        Unfinished::begin(&stack, "/webhooks/batch", &format!("content-length: {LARGE}\r\n"), "")
            .await;
    assert!(second.answer().await.starts_with("HTTP/1.1 503 "));
    stack.post("/webhooks", small.clone()).await.json(202);
    // A body without a content-length is read until there is no more memory.
    let chunk = " ".repeat(0x10_0000);
    let mut chunks = vec![format!("100000\r\n{chunk}\r\n"); 6];
    chunks.push("0\r\n\r\n".to_owned());
    let third =
        Unfinished::begin(&stack, "/webhooks/batch", "transfer-encoding: chunked\r\n", "").await;
    assert!(!third.is_answered().await);
    let answer = third.end(&chunks.concat()).await;
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("urn:posthaste:overloaded"),
        "{answer}"
    );
    // The memory is released when the caller has disconnected.
    drop(first);
    let batch = json!({"webhooks": vec![json!({"url": URL, "payload": "a".repeat(50_000)}); 100]})
        .to_string();
    let taken = async {
        loop {
            let answer = stack.post("/webhooks/batch", batch.clone()).await;
            if answer.status != 503 {
                return answer;
            }
        }
    };
    tokio::time::timeout(BOUND, taken).await.unwrap().json(202);
}

/// A response that the caller does not read holds memory too.
#[tokio::test]
async fn large_responses_hold_memory_until_they_are_read() {
    let stack = Stack::with(&[ROOM], Access::Loopback).await;
    for _ in 0..100 {
        stack.accept_with_long_excerpts().await;
    }
    let path = "/webhook-statuses?page_size=100";
    stack.get(path).await.json(200);
    let host = stack.base.strip_prefix("http://").unwrap();
    let mut unread = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(host).await.unwrap();
        // The system's buffers hold a part of it. The rest stays in the server.
        let asked = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n").repeat(8);
        stream.write_all(asked.as_bytes()).await.unwrap();
        unread.push(stream);
    }
    let shed = async { while stack.get(path).await.status != 503 {} };
    tokio::time::timeout(BOUND, shed).await.expect("unread bytes are not counted");
    for path in ["/health", "/metrics"] {
        assert_eq!(stack.get(path).await.status, 200, "{path}: who watches gets through");
    }
    drop(unread);
    let again = async { while stack.get(path).await.status != 200 {} };
    tokio::time::timeout(BOUND, again).await.unwrap();
}
