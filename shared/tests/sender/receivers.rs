//! Receivers with invalid or incomplete responses. A received status decides, and a connection is
//! reused only after a complete response.

use std::time::Duration;

use bytes::Bytes;
use shared::{
    model::ErrorKind,
    sender::{Excerpts, HttpSender, SenderConfig},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{
    AMPLE, FAST, assert_delivered, config, send, send_payload, sender,
    server::{Reply, Server},
};

const LENGTH: &str = "content-length: 0\r\n\r\n";

/// Sends three requests to a receiver that responds to each with these bytes. Returns the number of
/// connections.
async fn connections_of_three(bytes: &[u8], code: u16) -> usize {
    let server = Server::start(vec![Reply::new(bytes); 3]).await;
    let sender = sender();
    for _ in 0..3 {
        let answer = send(&sender, &server.url("/")).await;
        let error = (!(200..300).contains(&code)).then_some(ErrorKind::HttpStatus);
        assert_eq!(
            (answer.error, answer.status_code),
            (error, Some(code)),
            "{:?}: {answer:?}",
            bytes.escape_ascii().to_string()
        );
        assert!(answer.duration < FAST, "{:?}", answer.duration);
    }
    server.connections()
}

#[tokio::test]
async fn unusual_heads_are_valid_and_their_connections_are_reused() {
    for code in [200, 503] {
        for (line, lines) in [
            ("HTTP/1.1 CODE OK", "x-a: b\r\n".repeat(120)),
            ("HTTP/1.1 CODE OK", "x-a: b\r\n c\r\n\td\r\n".to_owned()),
            ("HTTP/1.1 CODE", String::new()),
            ("HTTP/1.1 CODE ", String::new()),
            ("HTTP/1.3 CODE OK", String::new()),
            ("http/1.1 CODE ok", String::new()),
            ("HTTP/1.1   CODE   OK", String::new()),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hi\r\nlink: <a>\r\n\r\nHTTP/1.1 CODE OK",
                String::new(),
            ),
            ("HTTP/1.0 CODE OK", "connection: keep-alive\r\n".to_owned()),
            ("HTTP/1.1 CODE OK", "content-length: 0, 0\r\n".to_owned()),
        ] {
            let head = format!("{}\r\n{lines}{LENGTH}", line.replace("CODE", &code.to_string()));
            assert_eq!(connections_of_three(head.as_bytes(), code).await, 1, "{head:?}");
            let bare = head.replace("\r\n", "\n");
            assert_eq!(connections_of_three(bare.as_bytes(), code).await, 1, "{bare:?}");
        }
    }
}

#[tokio::test]
async fn the_status_of_a_broken_response_counts_and_its_connection_is_closed() {
    for code in [200, 500] {
        for rest in [
            &b"x-a: b\0c\r\ncontent-length: 0\r\n\r\n"[..],
            b"x a: b\r\ncontent-length: 0\r\n\r\n",
            b"\xff\xfe: b\r\ncontent-length: 0\r\n\r\n",
            b": b\r\ncontent-length: 0\r\n\r\n",
            b"hello\r\ncontent-length: 0\r\n\r\n",
            b"connection: close\r\ncontent-length: 0\r\n\r\n",
            b"content-length: 0\r\n\r\nHTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            b"content-length: 0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            b"transfer-encoding: chunked\r\n\r\nthis is no chunk\r\n",
        ] {
            let bytes = [format!("HTTP/1.1 {code} Whatever\r\n").as_bytes(), rest].concat();
            assert_eq!(
                connections_of_three(&bytes, code).await,
                3,
                "{:?}",
                bytes.escape_ascii().to_string()
            );
        }
        let old = format!(
            "HTTP/1.0 {code} OK\r\nconnection: keep-alive\r\ntransfer-encoding: \
             chunked\r\n\r\n0\r\n\r\n"
        );
        assert_eq!(connections_of_three(old.as_bytes(), code).await, 3);
        assert_eq!(
            connections_of_three(format!("HTTP/1.0 {code} OK\r\n{LENGTH}").as_bytes(), code).await,
            3
        );
    }
}

#[tokio::test]
async fn an_incomplete_or_endless_head_does_not_change_the_status() {
    for (code, error) in [(200, None), (500, Some(ErrorKind::HttpStatus))] {
        let head = |rest: &str| Reply::new(format!("HTTP/1.1 {code} Whatever\r\n{rest}"));
        for reply in [
            head("").then_close(),
            head("").then_stall(),
            head("x-").then_close(),
            head("x-").then_stall(),
            head("content-length: 1, 2\r\n\r\n").then_stall(),
            head("content-length: 1, 2\r\n\r\n").then_close(),
            head("").then_repeat(b"x-more: and more\r\n"),
            head("x-long: ").then_repeat(b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
        ] {
            let server = Server::start(vec![reply]).await;
            let answer = send(&sender(), &server.url("/")).await;
            assert_eq!((answer.error, answer.status_code), (error, Some(code)), "{answer:?}");
            assert!(answer.duration < FAST, "{:?}", answer.duration);
        }
    }
}

/// The receiver reads only the head, responds, and closes or leaves the rest unread. 1 MiB does not
/// fit into any buffer.
#[tokio::test]
async fn a_response_during_the_write_decides() {
    for closes in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let payload = Bytes::from(vec![b'x'; 16 * 1024 * 1024]);
        let receiver = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_exact(&mut [0; 100]).await.unwrap();
            stream
                .write_all(
                    b"HTTP/1.1 413 Too Large\r\nretry-after: 3\r\ncontent-length: 2\r\n\r\nno",
                )
                .await
                .unwrap();
            // Dropping it with bytes unread resets the connection.
            (!closes).then_some(stream)
        };
        let sender = sender();
        let (answer, _stream) = tokio::join!(send_payload(&sender, &url, payload, AMPLE), receiver);
        assert_eq!(
            (answer.error, answer.status_code),
            (Some(ErrorKind::HttpStatus), Some(413)),
            "{answer:?}"
        );
        assert_eq!(
            (answer.response_excerpt.as_deref(), answer.retry_after),
            (Some("no"), Some(Duration::from_secs(3)))
        );
        assert!(answer.duration < FAST, "{:?}", answer.duration);
    }
}

/// The pool closes the connection one second before `Keep-Alive: timeout=N`.
#[tokio::test]
async fn a_connection_is_kept_no_longer_than_its_keep_alive() {
    let reply = |keep_alive: &str| Reply::with_body(200, &format!("{keep_alive}\r\n"), b"");
    let mut server = Server::start(vec![
        reply("keep-alive: timeout=1"),
        reply("Keep-Alive: timeout=5, max=99"),
        reply("keep-alive: timeout=2"),
    ])
    .await;
    let sender = sender();
    for connections in [1, 2, 2] {
        assert_delivered(&send(&sender, &server.url("/")).await, 200);
        assert_eq!(server.connections(), connections);
    }
    tokio::time::timeout(FAST, server.connection_ended())
        .await
        .expect("the one of timeout=1 is closed at once");
    tokio::time::timeout(FAST, server.connection_ended())
        .await
        .expect("the one of timeout=2 is closed after a second");
}

/// The target is sent byte for byte if RFC 3986 allows it, and nothing can end the request line.
#[tokio::test]
async fn a_url_arrives_as_it_was_written() {
    for (written, arrives) in [
        ("/it's?sig='a'&b=(1)*!$,;:@/?%27%2f%2F", "/it's?sig='a'&b=(1)*!$,;:@/?%27%2f%2F"),
        ("/ä|[x]?ö={y}^`\"<>%", "/%C3%A4%7C%5Bx%5D?%C3%B6=%7By%7D%5E%60%22%3C%3E%25"),
        ("/a/../b/%2e%2e/c?../d#e", "/c?../d"),
        ("?%0d%0aHost:%20evil", "/?%0d%0aHost:%20evil"),
    ] {
        let mut server = Server::start(vec![Reply::status(200)]).await;
        assert_delivered(&send(&sender(), &server.url(written)).await, 200);
        let head = server.received().await.head;
        assert_eq!(head.lines().next(), Some(format!("POST {arrives} HTTP/1.1").as_str()));
        assert_eq!(head.lines().nth(1), Some(format!("host: {}", server.address).as_str()));
    }
}

fn keeping(excerpts: Excerpts) -> HttpSender {
    HttpSender::new(SenderConfig { excerpts, ..config(true) }).unwrap()
}

/// With `Excerpts::All`, deliveries have an excerpt. They wait no longer for it than for the end of
/// the response.
#[tokio::test]
async fn deliveries_have_an_excerpt_if_configured() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nabc";
    for (reply, excerpt) in [
        (Reply::with_body(200, "", b"{\"error\": \"no\"}"), Some("{\"error\": \"no\"}".to_owned())),
        (Reply::with_body(200, "", "x".repeat(10_000).as_bytes()), Some("x".repeat(256))),
        (Reply::status(204), None),
        (Reply::new(head).then_stall(), Some("abc".to_owned())),
        (Reply::new(head).then_close(), Some("abc".to_owned())),
    ] {
        for (excerpts, expected) in [(Excerpts::All, excerpt), (Excerpts::Failures, None)] {
            let server = Server::start(vec![reply.clone(), Reply::status(200)]).await;
            let answer = send(&keeping(excerpts), &server.url("/")).await;
            assert_eq!((answer.error, &answer.response_excerpt), (None, &expected));
            assert!(answer.duration < FAST, "{:?}", answer.duration);
        }
    }
    let server =
        Server::start(vec![Reply::with_body(200, "", &[b'x'; 10_000]), Reply::status(200)]).await;
    let sender = keeping(Excerpts::All);
    for _ in 0..2 {
        assert_eq!(send(&sender, &server.url("/")).await.status_code, Some(200));
    }
    assert_eq!(server.connections(), 1, "the rest is read, too");
}
