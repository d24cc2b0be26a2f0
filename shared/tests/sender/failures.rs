//! Attempts that end without a status: network errors, invalid responses, and timeouts.

use std::{
    io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use shared::{
    model::ErrorKind,
    sender::{HttpSender, Lookup},
};
use tokio::net::TcpSocket;

use super::{
    FAST, Loopback, answer_to, assert_delivered, assert_failed, config, send, send_payload, sender,
    server::{Reply, Server},
};

/// The deadline of attempts that end at it. On a busy machine the connection and the status line
/// are there before.
const LATE: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_closed_port_is_a_network_error() {
    // Bound and not listening, so that no other test gets the port.
    let closed = TcpSocket::new_v4().unwrap();
    closed.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}/secret-path?token=t", closed.local_addr().unwrap());
    assert_failed(&send(&sender(), &url).await, ErrorKind::Network, "connection refused");
}

#[tokio::test]
async fn a_name_without_addresses_is_a_network_error() {
    #[derive(Debug)]
    struct Nothing;
    #[async_trait]
    impl Lookup for Nothing {
        async fn lookup(&self, _: &str) -> io::Result<Vec<IpAddr>> {
            Err(io::Error::other("resolver 10.0.0.2 said NXDOMAIN"))
        }
    }
    let mut config = config(true);
    config.lookup = Arc::new(Nothing);
    let answer = send(&HttpSender::new(config).unwrap(), "http://hooks.example/").await;
    assert_failed(&answer, ErrorKind::Network, "the host name does not resolve");
}

#[tokio::test]
async fn a_response_that_is_not_http_is_a_network_error() {
    for reply in [
        Reply::new("SSH-2.0-OpenSSH_9.9\r\n").then_close(),
        Reply::new("\0\0\0\0\0\0\r\n\r\n").then_stall(),
        Reply::new("HTTP/1.1 2x0 OK\r\n\r\n").then_stall(),
        Reply::new("HTTP/1.1 200 ")
            .then_repeat(b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
        Reply::new("HTTP/1.1 200 OK").then_close(),
        Reply::new("HTTP/1.1 103 Early Hints\r\n\r\n").then_close(),
        Reply::new("").then_close(),
    ] {
        let answer = answer_to(reply).await;
        assert_eq!(
            (answer.error, answer.status_code),
            (Some(ErrorKind::Network), None),
            "{answer:?}"
        );
        assert!(!answer.message.unwrap().is_empty());
        assert!(answer.duration < FAST, "{:?}", answer.duration);
    }
}

#[tokio::test]
async fn no_response_is_a_timeout() {
    for reply in [
        Reply::new("").then_stall(),
        Reply::new("HTTP/1.1 200 OK").then_stall(),
        Reply::new("").then_repeat(b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    ] {
        let server = Server::start(vec![reply]).await;
        let deadline = LATE;
        let answer =
            send_payload(&sender(), &server.url("/"), Bytes::from_static(b"{}"), deadline).await;
        assert_failed(&answer, ErrorKind::Timeout, "no response within 1000 ms");
        assert!(answer.duration >= deadline && answer.duration < FAST, "{:?}", answer.duration);
    }
}

/// The status arrives in time, but the body does not. The status decides.
#[tokio::test]
async fn the_deadline_ends_a_slow_body() {
    for (code, error) in [(200, None), (500, Some(ErrorKind::HttpStatus))] {
        let reply = Reply::new(format!("HTTP/1.1 {code} Whatever\r\ncontent-length: 9\r\n\r\nabc"))
            .then_stall();
        let server = Server::start(vec![reply]).await;
        let deadline = LATE;
        let answer =
            send_payload(&sender(), &server.url("/"), Bytes::from_static(b"{}"), deadline).await;
        assert_eq!((answer.error, answer.status_code), (error, Some(code)));
    }
}

/// The process is suspended during the name lookup until after the deadline. No request is sent.
#[tokio::test]
async fn nothing_is_sent_after_the_deadline() {
    const DEADLINE: Duration = Duration::from_millis(50);
    fn suspend() {
        let start = Instant::now();
        while start.elapsed() < DEADLINE {
            std::hint::spin_loop();
        }
    }
    let mut server = Server::start(vec![Reply::status(200)]).await;
    let mut config = config(true);
    config.lookup = Arc::new(Loopback { before: suspend });
    let sender = HttpSender::new(config).unwrap();
    let url = format!("http://hooks.example:{}/late", server.address.port());
    for deadline in [DEADLINE, Duration::ZERO] {
        let answer = send_payload(&sender, &url, Bytes::from_static(b"{}"), deadline).await;
        assert_eq!(answer.error, Some(ErrorKind::Timeout));
    }
    // Earlier requests would arrive before this one.
    assert_delivered(&send(&super::sender(), &server.url("/in-time")).await, 200);
    assert!(server.received().await.head.starts_with("POST /in-time "));
    assert!(server.is_quiet());
}
