//! The HTTP sender with real sockets on loopback: the request that a destination receives, and the
//! result of its response.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use shared::{
    clock::Timestamp,
    id::WebhookId,
    model::ErrorKind,
    sender::{
        AddressGuard, Answer, GuardSettings, HttpSender, Lookup, MAX_RESPONSE_BYTES, Request,
        Sender, SenderConfig,
    },
    signing::Secret,
};

#[path = "sender/server.rs"]
#[expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]
mod server;
use server::{Reply, Server};

#[path = "sender/failures.rs"]
mod failures;

#[path = "sender/receivers.rs"]
#[expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]
mod receivers;

#[path = "sender/tls.rs"]
#[expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]
mod tls;

/// Long enough for every attempt that ends by itself, even on a busy machine.
const AMPLE: Duration = Duration::from_secs(30);

/// The maximum duration of a fast attempt, although the deadline is [`AMPLE`].
const FAST: Duration = Duration::from_secs(10);

/// The maximum size of the socket buffers of both ends.
const SOCKET_BUFFERS: usize = 16 * 1024 * 1024;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Resolves every name to loopback, after it has run `before`.
#[derive(Debug)]
struct Loopback {
    before: fn(),
}

#[async_trait]
impl Lookup for Loopback {
    async fn lookup(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        (self.before)();
        Ok(vec![Ipv4Addr::LOCALHOST.into()])
    }
}

fn config(allow_private: bool) -> SenderConfig {
    let guard =
        AddressGuard::new(GuardSettings { allow_private, ..GuardSettings::default() }).unwrap();
    let mut config = SenderConfig::new(Vec::new(), Arc::new(guard));
    config.lookup = Arc::new(Loopback { before: || () });
    config
}

fn sender() -> HttpSender {
    HttpSender::new(config(true)).unwrap()
}

fn webhook_id() -> WebhookId {
    "order_17_01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap()
}

async fn send_payload(
    sender: &HttpSender,
    url: &str,
    payload: Bytes,
    deadline: Duration,
) -> Answer {
    let request = Request {
        url,
        headers: &[],
        payload,
        webhook_id: &webhook_id(),
        secrets: None,
        correlation_id: "cor-1",
        event_type: None,
        attempt: 1,
        timestamp: Timestamp::from_millis(1_700_000_000_000),
    };
    sender.send(&request, deadline).await
}

async fn send(sender: &HttpSender, url: &str) -> Answer {
    send_payload(sender, url, Bytes::from_static(b"{}"), AMPLE).await
}

/// The result of an attempt with this reply.
async fn answer_to(reply: Reply) -> Answer {
    let server = Server::start(vec![reply]).await;
    send(&sender(), &server.url("/")).await
}

#[track_caller]
fn assert_delivered(answer: &Answer, code: u16) {
    assert_eq!((answer.error, answer.status_code), (None, Some(code)), "{answer:?}");
    assert_eq!(
        (&answer.message, &answer.response_excerpt, answer.retry_after),
        (&None, &None, None)
    );
}

#[track_caller]
fn assert_failed(answer: &Answer, kind: ErrorKind, message: &str) {
    assert_eq!((answer.error, answer.status_code), (Some(kind), None), "{answer:?}");
    assert_eq!(answer.message.as_deref(), Some(message));
}

/// The whole request, byte for byte: the payload with its spaces and number formats, the headers of
/// Posthaste and of the caller, no others, and a signature that an independent library accepts.
#[tokio::test]
async fn a_request_arrives_exactly_as_promised() {
    let mut server = Server::start(vec![Reply::status(200)]).await;
    let mut config = config(true);
    config.secrets = Secret::parse_list(SECRET).unwrap();
    let payload = "{ \"ä\":1.0,\n\t\"b\" : [1e2] }".as_bytes();
    let now = jiff::Timestamp::now();
    let headers = [
        ("Authorization", "Bearer t"),
        ("Content-Type", "application/cloudevents+json"),
        ("Host", "evil.example"),
    ];
    let answer = HttpSender::new(config)
        .unwrap()
        .send(
            &Request {
                url: &server.url("/hook?a=b%20c#fragment"),
                headers: &headers.map(|(name, value)| (name.to_owned(), value.to_owned())),
                payload: Bytes::from_static(payload),
                webhook_id: &webhook_id(),
                secrets: None,
                correlation_id: "cor-1",
                event_type: Some("order.paid"),
                attempt: 3,
                timestamp: Timestamp::from_millis(now.as_millisecond()),
            },
            AMPLE,
        )
        .await;
    assert_delivered(&answer, 200);

    let received = server.received().await;
    assert_eq!(received.body, payload);
    let signature = received.header("webhook-signature");
    let mut expected = [
        "accept: */*".to_owned(),
        "authorization: Bearer t".to_owned(),
        format!("content-length: {}", payload.len()),
        "content-type: application/cloudevents+json".to_owned(),
        format!("host: {}", server.address),
        format!("user-agent: Posthaste/{}", env!("CARGO_PKG_VERSION")),
        format!("webhook-id: {}", webhook_id()),
        format!("webhook-signature: {signature}"),
        format!("webhook-timestamp: {}", now.as_second()),
        "x-correlation-id: cor-1".to_owned(),
        "x-webhook-attempt: 3".to_owned(),
        "x-webhook-event: order.paid".to_owned(),
    ];
    expected.sort_unstable();
    let mut lines = received.head.trim_end().lines();
    assert_eq!(lines.next(), Some("POST /hook?a=b%20c HTTP/1.1"));
    assert!(received.head.contains(" HTTP/1.1\r\nhost: "), "the first header line (RFC 9110, 7.2)");
    let mut lines: Vec<_> = lines.collect();
    lines.sort_unstable();
    assert_eq!(lines, expected);

    let mut headers = http::HeaderMap::new();
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        headers.insert(name, received.header(name).parse().unwrap());
    }
    standardwebhooks::Webhook::new(SECRET).unwrap().verify(&received.body, &headers).unwrap();
}

/// A delivery has the id of its message at every endpoint, and only its endpoint's secrets sign it.
#[tokio::test]
async fn a_delivery_is_signed_by_its_endpoint_under_the_id_of_its_message() {
    let mut server = Server::start(vec![Reply::status(200)]).await;
    let mut config = config(true);
    config.secrets = Secret::parse_list("c2V0dGluZ3Mgc2VjcmV0LCBub3QgdXNlZA==").unwrap();
    let secrets =
        Secret::parse_list(&format!("{SECRET} b2xkIHNlY3JldCBvZiB0aGUgZW5kcG9pbnQ=")).unwrap();
    let message_id = webhook_id().to_string();
    let delivery: WebhookId = format!("{message_id}.ep-aaaaaaaaaaaaaaaa").parse().unwrap();
    let now = jiff::Timestamp::now();
    let request = Request {
        url: &server.url("/"),
        headers: &[],
        payload: Bytes::from_static(b"{}"),
        webhook_id: &delivery,
        secrets: Some(&secrets),
        correlation_id: "cor-1",
        event_type: None,
        attempt: 1,
        timestamp: Timestamp::from_millis(now.as_millisecond()),
    };
    assert_delivered(&HttpSender::new(config).unwrap().send(&request, AMPLE).await, 200);
    let received = server.received().await;
    assert_eq!(received.header("webhook-id"), message_id);
    let expected = shared::signing::sign(&secrets, &message_id, now.as_second(), b"{}");
    assert_eq!(received.header("webhook-signature"), expected);
    assert_eq!(expected.split(' ').count(), 2);
}

#[tokio::test]
async fn a_large_payload_arrives_whole() {
    let mut server = Server::start(vec![Reply::status(200)]).await;
    let payload: Bytes = (0..1024 * 1024).map(|index: u32| b'0' + (index % 10) as u8).collect();
    assert_delivered(&send_payload(&sender(), &server.url("/"), payload.clone(), AMPLE).await, 200);
    assert!(server.received().await.body == payload);
}

#[tokio::test]
async fn every_2xx_is_delivered_and_nothing_else_is() {
    for code in [200, 201, 202, 204, 226, 299] {
        assert_delivered(&answer_to(Reply::status(code)).await, code);
    }
    for code in [101, 300, 301, 304, 307, 308, 400, 404, 410, 429, 500, 503, 599, 999] {
        let answer = answer_to(Reply::status(code)).await;
        assert_eq!((answer.error, answer.status_code), (Some(ErrorKind::HttpStatus), Some(code)));
        assert!(answer.message.unwrap().starts_with(&format!("the destination answered {code}")));
    }
}

/// The status arrives, and the body is missing, incomplete, or endless: delivered without delay.
#[tokio::test]
async fn a_broken_body_of_a_2xx_changes_nothing() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nabc";
    let endless = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let broken = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nthis is no chunk";
    let encoded = "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc";
    for reply in [
        Reply::new(head).then_stall(),
        Reply::new(head).then_close(),
        Reply::new(endless).then_repeat(b"4\r\nabcd\r\n"),
        Reply::new(broken).then_stall(),
        Reply::new(encoded).then_stall(),
    ] {
        let answer = answer_to(reply).await;
        assert_delivered(&answer, 200);
        assert!(answer.duration < FAST, "{:?}", answer.duration);
    }
}

#[tokio::test]
async fn a_broken_body_of_a_failure_changes_nothing() {
    let head = "HTTP/1.1 500 Oh\r\ncontent-length: 1000\r\n\r\nabc";
    for reply in [Reply::new(head).then_stall(), Reply::new(head).then_close()] {
        let answer = answer_to(reply).await;
        assert_eq!((answer.error, answer.status_code), (Some(ErrorKind::HttpStatus), Some(500)));
        assert_eq!(
            answer.message.as_deref(),
            Some("the destination answered 500 Internal Server Error")
        );
        assert_eq!(answer.response_excerpt.as_deref(), Some("abc"));
        assert!(answer.duration < FAST, "{:?}", answer.duration);
    }
}

/// At most 256 bytes, cut between two characters. Invalid UTF-8 is replaced. Compressed bodies stay
/// compressed.
#[tokio::test]
async fn failures_have_an_excerpt() {
    let excerpt = async |headers: &str, body: &[u8]| {
        answer_to(Reply::with_body(400, headers, body)).await.response_excerpt
    };
    assert_eq!(excerpt("", b"").await, None);
    assert_eq!(excerpt("", b"no such order").await.as_deref(), Some("no such order"));
    assert_eq!(excerpt("", "x".repeat(100_000).as_bytes()).await, Some("x".repeat(256)));
    assert_eq!(
        excerpt("", format!("x{}", "€".repeat(1000)).as_bytes()).await,
        Some(format!("x{}", "€".repeat(85)))
    );
    assert_eq!(excerpt("", b"a\xff\xfeb").await.as_deref(), Some("a\u{fffd}\u{fffd}b"));
    assert_eq!(excerpt("", &[0xff; 1000]).await, Some("\u{fffd}".repeat(85)));
    assert_eq!(
        excerpt("content-encoding: gzip\r\n", b"\x1f\x8bplain").await.as_deref(),
        Some("\x1f\u{fffd}plain")
    );
}

/// An endless body is not read to its end. The sender closes the connection, which stops the
/// server.
#[tokio::test]
async fn an_endless_body_is_not_read_to_its_end() {
    for code in [200, 500] {
        let endless =
            Reply::new(format!("HTTP/1.1 {code} Whatever\r\ntransfer-encoding: chunked\r\n\r\n"));
        let piece = [
            format!("{MAX_RESPONSE_BYTES:x}\r\n").as_bytes(),
            "x".repeat(MAX_RESPONSE_BYTES).as_bytes(),
            b"\r\n",
        ]
        .concat();
        let mut server = Server::start(vec![endless.then_repeat(&piece)]).await;
        let answer = send(&sender(), &server.url("/")).await;
        assert_eq!(answer.status_code, Some(code));
        assert!(answer.duration < FAST, "{:?}", answer.duration);
        let written = server.connection_ended().await;
        assert!(written < SOCKET_BUFFERS + 2 * MAX_RESPONSE_BYTES, "{written} bytes");
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let elsewhere = Server::start(vec![Reply::status(200)]).await;
    for code in [301, 302, 303, 307, 308] {
        let location = format!("location: {}\r\n", elsewhere.url("/secret?token=t"));
        let answer = answer_to(Reply::with_body(code, &location, b"")).await;
        assert_eq!((answer.error, answer.status_code), (Some(ErrorKind::HttpStatus), Some(code)));
        let origin = format!("http://{}", elsewhere.address);
        let told = format!(" with a redirect to {origin}. Posthaste does not follow redirects");
        assert!(answer.message.as_ref().unwrap().ends_with(&told), "{answer:?}");
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn cookies_are_not_kept() {
    let mut server =
        Server::start(vec![Reply::with_body(200, "set-cookie: a=b\r\n", b""), Reply::status(200)])
            .await;
    let sender = sender();
    for _ in 0..2 {
        assert_delivered(&send(&sender, &server.url("/")).await, 200);
        assert!(!server.received().await.head.contains("cookie"));
    }
}

#[tokio::test]
async fn retry_after_is_returned() {
    for code in [302, 400, 413, 429, 500, 502, 503, 504] {
        for (headers, seconds) in [
            ("retry-after: 86400\r\n", 86_400),
            ("Retry-After: 27.2\r\n", 28),
            ("retry-after: 28, 2\r\n", 28),
            ("retry-after: 2\r\nx-a: b\r\nRETRY-AFTER: 28\r\n", 28),
        ] {
            let answer = answer_to(Reply::with_body(code, headers, b"")).await;
            assert_eq!(
                answer.retry_after,
                Some(Duration::from_secs(seconds)),
                "{code}, {headers:?}"
            );
        }
    }
    assert_delivered(&answer_to(Reply::with_body(200, "retry-after: 5\r\n", b"")).await, 200);
}

#[tokio::test]
async fn a_connection_goes_to_the_checked_address_under_the_urls_name() {
    let mut server = Server::start(vec![Reply::status(200)]).await;
    let host = format!("hooks.example:{}", server.address.port());
    assert_delivered(&send(&sender(), &format!("http://{host}/")).await, 200);
    assert_eq!(server.received().await.header("host"), host);
}

/// A public name that resolves to loopback, and loopback addresses: refused without a connection.
#[tokio::test]
async fn private_destinations_are_refused_without_a_connection() {
    let server = Server::start(vec![Reply::status(200)]).await;
    let port = server.address.port();
    let strict = HttpSender::new(config(false)).unwrap();
    let answer = send(&strict, &format!("http://hooks.example:{port}/")).await;
    let message = "the host name resolves to non-public addresses only. For local use, \
        ALLOW_PRIVATE_DESTINATIONS=true allows them";
    assert_failed(&answer, ErrorKind::RefusedAddress, message);
    for host in ["127.0.0.1", "0x7f.1", "2130706433", "[::ffff:127.0.0.1]", "localhost"] {
        let answer = send(&strict, &format!("http://{host}:{port}/")).await;
        assert_eq!(
            (answer.error, answer.status_code),
            (Some(ErrorKind::RefusedAddress), None),
            "{host}"
        );
    }
    // The server counts connections, as an allowed one shows.
    assert_delivered(&send(&sender(), &server.url("/")).await, 200);
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_connection_is_reused() {
    let failure = Reply::with_body(500, "", &[b'x'; 10_000]);
    let server =
        Server::start(vec![Reply::with_body(200, "", b"thanks"), failure, Reply::status(200)])
            .await;
    let sender = sender();
    for code in [200, 500, 200] {
        assert_eq!(send(&sender, &server.url("/")).await.status_code, Some(code));
    }
    assert_eq!(server.connections(), 1);
}

/// The server closed a kept connection without notice. The sender opens a new connection, loses no
/// attempt, and sends nothing twice.
#[tokio::test]
async fn a_kept_connection_that_was_closed_is_no_failure() {
    const ROUNDS: usize = 20;
    let mut server = Server::start(vec![Reply::status(200).then_close(); ROUNDS]).await;
    let sender = sender();
    for round in 1..=ROUNDS {
        assert_delivered(&send(&sender, &server.url("/")).await, 200);
        server.received().await;
        server.connection_ended().await;
        assert_eq!(server.connections(), round);
    }
}

/// The server closes the connection after it has read the request. It may have processed the
/// request, so the sender does not repeat it.
#[tokio::test]
async fn a_request_that_was_written_is_not_repeated() {
    let mut server =
        Server::start(vec![Reply::status(200), Reply::new("").then_close(), Reply::status(200)])
            .await;
    let sender = sender();
    assert_delivered(&send(&sender, &server.url("/")).await, 200);
    let answer = send(&sender, &server.url("/")).await;
    assert_eq!((answer.error, answer.status_code), (Some(ErrorKind::Network), None), "{answer:?}");
    assert_eq!(server.connections(), 1);
    server.received().await;
    server.received().await;
}
