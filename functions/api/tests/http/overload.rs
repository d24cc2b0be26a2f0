//! More requests at a time than there is room for: the ones beyond are told so at once, nothing is done for them, and whoever watches still
//! gets through.

use std::time::Duration;

use api::Access;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{Stack, URL};

const BOUND: Duration = Duration::from_secs(20);

/// A request whose body is held back: it takes up room.
struct Unfinished {
    stream: TcpStream,
    rest: String,
}

impl Unfinished {
    async fn begin(stack: &Stack) -> Self {
        let body = json!({"url": URL, "payload": {"n": 1}}).to_string();
        let host = stack.base.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(host).await.unwrap();
        let (first, rest) = body.split_at(5);
        let length = body.len();
        let begun = format!(
            "POST /webhooks HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{first}"
        );
        stream.write_all(begun.as_bytes()).await.unwrap();
        Self { stream, rest: rest.to_owned() }
    }

    /// The whole answer to it.
    async fn end(mut self) -> String {
        self.stream.write_all(self.rest.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(BOUND, self.stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    }
}

#[tokio::test]
async fn what_exceeds_the_room_is_shed_and_says_when_to_come_again() {
    let stack = Stack::with(&[("API_CONCURRENCY", "2")], Access::Loopback).await;
    let body = json!({"url": URL, "payload": 1}).to_string();
    let unfinished = [Unfinished::begin(&stack).await, Unfinished::begin(&stack).await];
    let shed = async {
        loop {
            // Until both have been let in, there is room for it.
            let answer = stack.post("/webhooks", body.clone()).await;
            if answer.status != 202 {
                return answer;
            }
            stack.take_messages().await;
        }
    };
    let shed = tokio::time::timeout(BOUND, shed).await.unwrap();
    shed.problem(503);
    assert_eq!((shed.json(503)["type"].as_str(), shed.header("retry-after")), (Some("urn:posthaste:overloaded"), Some("1")));
    for path in ["/webhook-statuses", "/nope"] {
        stack.get(path).await.problem(503);
    }
    for path in ["/health", "/metrics"] {
        assert_eq!(stack.get(path).await.status, 200, "{path}: who watches gets through");
    }
    stack.take_messages().await;
    for request in unfinished {
        let answer = request.end().await;
        assert!(answer.starts_with("HTTP/1.1 202 "), "what was let in is served: {answer}");
    }
    stack.post("/webhooks", body).await.json(202);
    assert_eq!(stack.take_messages().await.len(), 3, "and nothing of what was shed");
}
