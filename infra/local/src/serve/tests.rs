use std::net::SocketAddr;

use axum::routing::get;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
    task::JoinHandle,
    time::timeout,
};

use super::*;

const BOUND: Duration = Duration::from_secs(20);

/// Long enough for what comes to have come; what does not come is waited for no longer.
const A_WHILE: Duration = Duration::from_millis(200);

const LONG: Duration = Duration::from_secs(600);

/// A server whose `/` answers at once and whose `/held` answers when it is let go.
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
        let router = Router::new().route("/", get(async || "here")).route(
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
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: here\r\n\r\n").as_bytes()).await.unwrap();
}

/// What comes until the answer ends with this text.
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

/// Whether the server closes it within the bound, whatever it says before.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    timeout(BOUND, stream.read_to_end(&mut rest)).await.is_ok()
}

#[tokio::test]
async fn a_connection_that_sends_no_request_is_closed() {
    let server = Server::start(Limits { connections: 10, headers: Duration::from_millis(50) }).await;
    let mut silent = server.connect().await;
    assert!(is_closed(&mut silent).await, "one that sends nothing");
    let mut partial = server.connect().await;
    partial.write_all(b"GET / HTTP/1.1\r\nhost:").await.unwrap();
    assert!(is_closed(&mut partial).await, "one that stops amid its headers");

    let (mut reading, mut writing) = server.connect().await.into_split();
    let drip = async {
        // Ends with an error once the connection is closed.
        while writing.write_all(b"G").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        std::future::pending::<()>().await;
    };
    let mut buffer = [0; 100];
    tokio::select! {
        ended = timeout(BOUND, reading.read(&mut buffer)) => assert!(ended.is_ok(), "one that sends a byte now and then"),
        () = drip => unreachable!("it never ends"),
    }

    let mut idle = server.connect().await;
    ask(&mut idle, "/").await;
    assert!(read_until(&mut idle, "here").await.starts_with("HTTP/1.1 200"));
    assert!(is_closed(&mut idle).await, "one whose next request does not come");
    server.end().await;
}

/// The limit is on headers: an answer may take longer.
#[tokio::test]
async fn an_answer_may_take_longer_than_headers() {
    let server = Server::start(Limits { connections: 10, headers: Duration::from_millis(50) }).await;
    let mut stream = server.connect().await;
    ask(&mut stream, "/held").await;
    server.held.notified().await;
    tokio::time::sleep(A_WHILE).await;
    server.let_go.notify_one();
    assert!(timeout(BOUND, read_until(&mut stream, "late")).await.unwrap().starts_with("HTTP/1.1 200"));
    server.end().await;
}

#[tokio::test]
async fn what_exceeds_the_connections_waits_for_one_to_end() {
    let server = Server::start(Limits { connections: 2, headers: LONG }).await;
    let (mut first, mut second, mut third) = (server.connect().await, server.connect().await, server.connect().await);
    for stream in [&mut first, &mut second] {
        ask(stream, "/").await;
        timeout(BOUND, read_until(stream, "here")).await.unwrap();
    }
    ask(&mut third, "/").await;
    assert!(timeout(A_WHILE, third.readable()).await.is_err(), "there is no place for it");
    drop(first);
    assert!(timeout(BOUND, read_until(&mut third, "here")).await.unwrap().starts_with("HTTP/1.1 200"));
    server.end().await;
}

#[tokio::test]
async fn told_to_stop_it_sends_what_is_under_way() {
    let server = Server::start(Limits { connections: 10, headers: LONG }).await;
    let (mut idle, mut silent, mut busy) = (server.connect().await, server.connect().await, server.connect().await);
    ask(&mut idle, "/").await;
    timeout(BOUND, read_until(&mut idle, "here")).await.unwrap();
    ask(&mut busy, "/held").await;
    server.held.notified().await;
    server.stop.send(true).unwrap();
    assert!(is_closed(&mut idle).await && is_closed(&mut silent).await);
    assert!(!server.running.is_finished(), "an answer is under way");
    server.let_go.notify_one();
    assert!(timeout(BOUND, read_until(&mut busy, "late")).await.unwrap().starts_with("HTTP/1.1 200"));
    timeout(BOUND, server.running).await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err(), "nobody listens");
}
