//! A destination that records raw requests and responds with the bytes of a test.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;

/// The response to one request: bytes, and the action after them.
#[derive(Clone)]
pub(crate) struct Reply {
    bytes: Vec<u8>,
    then: Then,
}

#[derive(Clone)]
enum Then {
    /// Wait for the next request.
    Keep,
    /// Close the connection without notice.
    Close,
    /// Send nothing more, and keep the connection open.
    Stall,
    /// Repeat these bytes until the client closes the connection.
    Repeat(Vec<u8>),
}

impl Reply {
    pub(crate) fn status(code: u16) -> Self {
        Self::new(format!("HTTP/1.1 {code} Whatever\r\ncontent-length: 0\r\n\r\n"))
    }

    pub(crate) fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), then: Then::Keep }
    }

    pub(crate) fn with_body(code: u16, headers: &str, body: &[u8]) -> Self {
        let head =
            format!("HTTP/1.1 {code} Whatever\r\n{headers}content-length: {}\r\n\r\n", body.len());
        Self::new([head.as_bytes(), body].concat())
    }

    pub(crate) fn then_close(self) -> Self {
        Self { then: Then::Close, ..self }
    }

    pub(crate) fn then_stall(self) -> Self {
        Self { then: Then::Stall, ..self }
    }

    pub(crate) fn then_repeat(self, bytes: &[u8]) -> Self {
        Self { then: Then::Repeat(bytes.to_vec()), ..self }
    }
}

/// A received request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Received {
    /// The request line and the headers.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Received {
    /// The value of a header that must occur exactly once.
    pub(crate) fn header(&self, name: &str) -> &str {
        let mut values = self
            .head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .filter(|(key, _)| *key == name);
        let (_, value) = values.next().unwrap_or_else(|| panic!("no {name} in {}", self.head));
        assert!(values.next().is_none(), "{name} twice in {}", self.head);
        value
    }
}

/// Listens on a free port of loopback. It ends with the runtime of the test.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: mpsc::UnboundedReceiver<Received>,
    /// One message per closed connection: the number of written bytes.
    ended: mpsc::UnboundedReceiver<usize>,
}

impl Server {
    /// Responds to the requests in order with `replies`, on any connection, and then stalls.
    pub(crate) async fn start(replies: Vec<Reply>) -> Self {
        Self::listen(replies, None).await
    }

    /// Like `start`, with TLS.
    pub(crate) async fn start_tls(replies: Vec<Reply>, config: ServerConfig) -> Self {
        Self::listen(replies, Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn listen(replies: Vec<Reply>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (request_sender, requests) = mpsc::unbounded_channel();
        let (ended_sender, ended) = mpsc::unbounded_channel();
        let replies = Arc::new(std::sync::Mutex::new(replies.into_iter()));
        let counter = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                let (tls, replies) = (tls.clone(), Arc::clone(&replies));
                let (requests, ended) = (request_sender.clone(), ended_sender.clone());
                tokio::spawn(async move {
                    let next = || replies.lock().unwrap().next();
                    let written = match tls {
                        None => serve(stream, &requests, next).await,
                        Some(tls) => match tls.accept(stream).into_fallible().await {
                            Ok(stream) => serve(stream, &requests, next).await,
                            Err((_, mut stream)) => {
                                // Closed with something unread, the connection would be reset, and
                                // the alert lost.
                                stream.read_to_end(&mut Vec::new()).await.ok();
                                0
                            }
                        },
                    };
                    ended.send(written).ok();
                });
            }
        });
        Self { address, connections, requests, ended }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The number of accepted connections.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Waits for the next request.
    pub(crate) async fn received(&mut self) -> Received {
        self.requests.recv().await.unwrap()
    }

    /// Whether no further request has arrived.
    pub(crate) fn is_quiet(&self) -> bool {
        self.requests.is_empty()
    }

    /// Waits until a connection has closed and the client could notice it. Returns the number of
    /// written bytes.
    pub(crate) async fn connection_ended(&mut self) -> usize {
        let written = self.ended.recv().await.unwrap();
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        written
    }
}

/// Serves one connection until either side closes it. Returns the number of written bytes.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    requests: &mpsc::UnboundedSender<Received>,
    next: impl Fn() -> Option<Reply>,
) -> usize {
    let mut written = 0;
    while let Some(received) = read_request(&mut stream).await {
        requests.send(received).ok();
        let reply = next().unwrap_or(Reply { bytes: Vec::new(), then: Then::Stall });
        if stream.write_all(&reply.bytes).await.is_err() {
            break;
        }
        stream.flush().await.ok();
        written += reply.bytes.len();
        match reply.then {
            Then::Keep => {}
            Then::Close => {
                stream.shutdown().await.ok();
                break;
            }
            Then::Stall => {
                // Until the client closes.
                stream.read_to_end(&mut Vec::new()).await.ok();
                break;
            }
            Then::Repeat(bytes) => {
                while stream.write_all(&bytes).await.is_ok() {
                    written += bytes.len();
                }
                break;
            }
        }
    }
    written
}

/// Reads one request of a known length. `None` if the client has closed the connection.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<Received> {
    let mut bytes = Vec::new();
    let (head, length) = loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(bytes.drain(..end + 4).collect()).unwrap();
            let length =
                head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let length: usize = length.parse().unwrap();
            break (head, length);
        }
    };
    while bytes.len() < length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    assert_eq!(bytes.len(), length, "more than one request at once");
    Some(Received { head, body: bytes })
}
