use std::{net::SocketAddr, sync::Arc};

use axum::{body::Bytes, routing::get};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::tcp::OwnedReadHalf,
    sync::Notify,
    task::JoinHandle,
    time::timeout,
};

use super::*;

const BOUND: Duration = Duration::from_secs(20);

/// Long enough for an expected event. The tests wait no longer for an unexpected one.
const A_WHILE: Duration = Duration::from_millis(200);

/// A timeout that ends during a test, but not before a request that is sent at once has arrived.
const SHORT: Duration = Duration::from_millis(500);

const LONG: Duration = Duration::from_secs(600);

/// Limits with these timeouts for the first and for each later request.
fn limits(connections: usize, first_request: Duration, next_request: Duration) -> Limits {
    Limits { connections, first_request, next_request }
}

/// A server whose `/` responds at once and whose `/held` responds when the test lets it go.
struct Server {
    address: SocketAddr,
    held: Arc<Notify>,
    let_go: Arc<Notify>,
    stop: watch::Sender<bool>,
    running: JoinHandle<()>,
}

impl Server {
    async fn start(limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (held, let_go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let holding = (Arc::clone(&held), Arc::clone(&let_go));
        // A POST is answered once its body is received.
        let router =
            Router::new().route("/", get(async || "here").post(async |_: Bytes| "here")).route(
                "/held",
                get(async move || {
                    holding.0.notify_one();
                    holding.1.notified().await;
                    "late"
                }),
            );
        let (stop, stopped) = watch::channel(false);
        let running = tokio::spawn(serve(listener, router, limits, stopped));
        Self { address, held, let_go, stop, running }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn end(self) {
        self.stop.send(true).unwrap();
        timeout(BOUND, self.running).await.unwrap().unwrap();
    }
}

async fn ask(stream: &mut TcpStream, path: &str) {
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: here\r\n\r\n").as_bytes())
        .await
        .unwrap();
}

/// Reads until the response ends with this text.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        let mut buffer = [0; 1024];
        let count = stream.read(&mut buffer).await.unwrap();
        assert_ne!(count, 0, "closed after {text:?}");
        text += std::str::from_utf8(&buffer[..count]).unwrap();
    }
    text
}

/// Whether the server closes the connection within the bound, whatever it sends before.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    timeout(BOUND, stream.read_to_end(&mut rest)).await.is_ok()
}

#[tokio::test]
async fn a_connection_that_sends_no_request_is_closed() {
    let server = Server::start(limits(10, SHORT, SHORT)).await;
    let mut silent = server.connect().await;
    assert!(is_closed(&mut silent).await, "a silent connection");
    let mut partial = server.connect().await;
    partial.write_all(b"GET / HTTP/1.1\r\nhost:").await.unwrap();
    assert!(is_closed(&mut partial).await, "a connection that stops within its headers");

    let (mut reading, mut writing) = server.connect().await.into_split();
    let drip = async {
        // Fails once the connection is closed.
        while writing.write_all(b"G").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        std::future::pending::<()>().await;
    };
    let mut buffer = [0; 100];
    tokio::select! {
        ended = timeout(BOUND, reading.read(&mut buffer)) => assert!(ended.is_ok(),
            "a connection that sends a byte at a time"),
        () = drip => unreachable!("it never ends"),
    }

    let mut idle = server.connect().await;
    ask(&mut idle, "/").await;
    assert!(read_until(&mut idle, "here").await.starts_with("HTTP/1.1 200"));
    assert!(is_closed(&mut idle).await, "a connection without a next request");
    server.end().await;
}

/// The limit applies to headers. A response may take longer.
#[tokio::test]
async fn a_response_may_take_longer_than_headers() {
    let server = Server::start(limits(10, SHORT, SHORT)).await;
    let mut stream = server.connect().await;
    ask(&mut stream, "/held").await;
    server.held.notified().await;
    tokio::time::sleep(2 * SHORT).await;
    server.let_go.notify_one();
    assert!(
        timeout(BOUND, read_until(&mut stream, "late")).await.unwrap().starts_with("HTTP/1.1 200")
    );
    server.end().await;
}

/// The timeout of the first request is shorter than that of later ones.
#[tokio::test]
async fn the_first_request_has_a_shorter_timeout() {
    let server = Server::start(limits(10, SHORT, LONG)).await;
    let mut known = server.connect().await;
    ask(&mut known, "/").await;
    timeout(BOUND, read_until(&mut known, "here")).await.unwrap();
    let mut silent = server.connect().await;
    let mut partial = server.connect().await;
    partial.write_all(b"GET / HTTP/1.1\r\nhost:").await.unwrap();
    assert!(is_closed(&mut silent).await && is_closed(&mut partial).await);
    ask(&mut known, "/").await;
    timeout(BOUND, read_until(&mut known, "here")).await.unwrap();
    drop(known);
    server.end().await;
}

#[tokio::test]
async fn a_new_connection_replaces_the_one_that_has_waited_longest() {
    let server = Server::start(limits(3, LONG, LONG)).await;
    let mut idle = server.connect().await;
    ask(&mut idle, "/").await;
    timeout(BOUND, read_until(&mut idle, "here")).await.unwrap();
    let mut silent = server.connect().await;
    let mut busy = server.connect().await;
    ask(&mut busy, "/held").await;
    server.held.notified().await;
    // A connection without a request is closed first, even if it is newer.
    let mut third = server.connect().await;
    ask(&mut third, "/").await;
    timeout(BOUND, read_until(&mut third, "here")).await.unwrap();
    assert!(is_closed(&mut silent).await);
    ask(&mut idle, "/").await;
    timeout(BOUND, read_until(&mut idle, "here")).await.unwrap();
    // Of the idle connections, the third has waited longest.
    let mut fourth = server.connect().await;
    ask(&mut fourth, "/").await;
    timeout(BOUND, read_until(&mut fourth, "here")).await.unwrap();
    assert!(is_closed(&mut third).await);
    server.let_go.notify_one();
    assert!(
        timeout(BOUND, read_until(&mut busy, "late")).await.unwrap().starts_with("HTTP/1.1 200"),
        "a busy connection is never closed"
    );
    server.end().await;
}

#[tokio::test]
async fn many_silent_connections_do_not_lock_out_others() {
    let server = Server::start(limits(50, LONG, LONG)).await;
    let mut silent = Vec::new();
    for _ in 0..120 {
        silent.push(server.connect().await);
    }
    let mut partial = server.connect().await;
    partial.write_all(b"GET / HTTP/1.1\r\nhost:").await.unwrap();
    let mut caller = server.connect().await;
    ask(&mut caller, "/").await;
    assert!(
        timeout(BOUND, read_until(&mut caller, "here")).await.unwrap().starts_with("HTTP/1.1 200")
    );
    drop((silent, partial, caller));
    server.end().await;
}

#[tokio::test]
async fn a_new_connection_waits_while_all_others_are_busy() {
    let server = Server::start(limits(2, LONG, LONG)).await;
    let (mut first, mut second) = (server.connect().await, server.connect().await);
    for stream in [&mut first, &mut second] {
        ask(stream, "/held").await;
        timeout(BOUND, server.held.notified()).await.unwrap();
    }
    let mut third = server.connect().await;
    ask(&mut third, "/").await;
    assert!(timeout(A_WHILE, third.readable()).await.is_err(), "the limit is reached");
    server.let_go.notify_one();
    assert!(
        timeout(BOUND, read_until(&mut third, "here")).await.unwrap().starts_with("HTTP/1.1 200")
    );
    server.let_go.notify_one();
    drop((first, second));
    server.end().await;
}

/// A body is cut off once its grace period is over.
#[tokio::test]
async fn slow_bodies_make_room_too() {
    let server = Server::start(limits(2, LONG, LONG)).await;
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut stream = server.connect().await;
        stream
            .write_all(b"POST / HTTP/1.1\r\nhost: here\r\ncontent-length: 2\r\n\r\n1")
            .await
            .unwrap();
        slow.push(stream);
    }
    let mut caller = server.connect().await;
    ask(&mut caller, "/").await;
    assert!(
        timeout(BOUND, read_until(&mut caller, "here")).await.unwrap().starts_with("HTTP/1.1 200")
    );
    drop((slow, caller));
    server.end().await;
}

/// Reads until the connection is closed.
async fn read_to_end(mut reading: OwnedReadHalf) -> String {
    let mut text = Vec::new();
    // The server may reset the connection if it has not read everything.
    let _ = timeout(BOUND, reading.read_to_end(&mut text)).await.unwrap();
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn endless_headers_are_refused_before_they_fill_memory() {
    let server = Server::start(limits(10, LONG, LONG)).await;
    for line in ["x: 123456789\r\n".to_owned(), "a".repeat(1000)] {
        let (reading, mut writing) = server.connect().await.into_split();
        writing.write_all(b"GET / HTTP/1.1\r\nhost: here\r\nx: ").await.unwrap();
        let send = async {
            let mut sent = 0;
            while writing.write_all(line.as_bytes()).await.is_ok() {
                sent += line.len();
                assert!(sent < 64 * 1024 * 1024, "it accepts them without a limit");
            }
        };
        let (answer, ()) = tokio::join!(read_to_end(reading), send);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    // Just too long. The server reads all of it before it responds.
    let (reading, mut writing) = server.connect().await.into_split();
    let head = format!("GET / HTTP/1.1\r\nhost: here\r\nx: {}\r\n\r\n", "a".repeat(MAX_HEAD_BYTES));
    writing.write_all(&head.as_bytes()[..MAX_HEAD_BYTES]).await.unwrap();
    assert!(read_to_end(reading).await.starts_with("HTTP/1.1 431 "));
    let mut fits = server.connect().await;
    let head =
        format!("GET / HTTP/1.1\r\nhost: here\r\nx: {}\r\n\r\n", "a".repeat(MAX_HEAD_BYTES - 100));
    fits.write_all(head.as_bytes()).await.unwrap();
    assert!(
        timeout(BOUND, read_until(&mut fits, "here")).await.unwrap().starts_with("HTTP/1.1 200")
    );
    drop(fits);
    server.end().await;
}

/// RFC 9112, section 9.6: a caller that has closed its sending side may still read.
#[tokio::test]
async fn a_caller_that_closes_its_sending_side_gets_the_response() {
    let server = Server::start(limits(10, LONG, LONG)).await;
    let mut caller = server.connect().await;
    ask(&mut caller, "/held").await;
    caller.shutdown().await.unwrap();
    server.held.notified().await;
    assert!(timeout(A_WHILE, caller.readable()).await.is_err(), "the request is not given up");
    server.let_go.notify_one();
    assert!(
        timeout(BOUND, read_until(&mut caller, "late")).await.unwrap().starts_with("HTTP/1.1 200")
    );
    assert!(is_closed(&mut caller).await);
    server.end().await;
}

#[tokio::test]
async fn on_stop_it_sends_the_responses_in_progress() {
    let server = Server::start(limits(10, LONG, LONG)).await;
    let (mut idle, mut silent, mut busy) =
        (server.connect().await, server.connect().await, server.connect().await);
    ask(&mut idle, "/").await;
    timeout(BOUND, read_until(&mut idle, "here")).await.unwrap();
    let mut partial = server.connect().await;
    partial.write_all(b"GET / HTTP/1.1\r\nhost:").await.unwrap();
    ask(&mut busy, "/held").await;
    server.held.notified().await;
    server.stop.send(true).unwrap();
    assert!(
        is_closed(&mut idle).await && is_closed(&mut silent).await && is_closed(&mut partial).await
    );
    assert!(!server.running.is_finished(), "a response is in progress");
    server.let_go.notify_one();
    assert!(
        timeout(BOUND, read_until(&mut busy, "late")).await.unwrap().starts_with("HTTP/1.1 200")
    );
    timeout(BOUND, server.running).await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err(), "the listener is closed");
}
