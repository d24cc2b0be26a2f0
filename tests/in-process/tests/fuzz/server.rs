//! A destination on loopback that answers with whatever bytes it is told to, and keeps the bytes
//! that it was sent; and a sender to it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use shared::{
    clock::Timestamp,
    id::WebhookId,
    sender::{
        AddressGuard, Answer, GuardSettings, HttpSender, Lookup, Request, Sender, SenderConfig,
    },
    signing::Secret,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};

/// An attempt's deadline. Whoever answers too little closes the connection at once, so it is never
/// reached.
const DEADLINE: Duration = Duration::from_secs(5);

/// The answer of one that has nothing else to say.
pub(crate) const DONE: &[u8] = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";

/// Says that every name is this machine's, and counts who asks.
#[derive(Debug, Default)]
struct Inside(AtomicUsize);

#[async_trait]
impl Lookup for Inside {
    async fn lookup(&self, _host: &str) -> io::Result<Vec<IpAddr>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(vec![Ipv4Addr::LOCALHOST.into()])
    }
}

/// A destination, and a sender that can reach it if its guard lets it.
pub(crate) struct Wire {
    runtime: Runtime,
    sender: HttpSender,
    id: WebhookId,
    lookups: Arc<Inside>,
    state: Arc<State>,
    /// Where it listens.
    pub(crate) port: u16,
}

#[derive(Default)]
struct State {
    answer: Mutex<Vec<u8>>,
    request: Mutex<Vec<u8>>,
    connections: AtomicUsize,
}

impl Wire {
    /// A sender with this guard, which signs.
    pub(crate) fn start(settings: GuardSettings) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (state, lookups) = (Arc::new(State::default()), Arc::new(Inside::default()));
        let guard = Arc::new(AddressGuard::new(settings).unwrap());
        let secrets = Secret::parse_list("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let config =
            SenderConfig { lookup: Arc::clone(&lookups) as _, ..SenderConfig::new(secrets, guard) };
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let port = listener.local_addr().unwrap().port();
        runtime.spawn(serve(listener, Arc::clone(&state)));
        let sender = HttpSender::new(config).unwrap();
        let id = "order-7_01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        Self { runtime, sender, id, lookups, state, port }
    }

    /// One attempt, which is answered by these bytes; then the connection is closed.
    pub(crate) fn send(&self, url: &str, headers: &[(String, String)], answer: &[u8]) -> Answer {
        answer.clone_into(&mut self.state.answer.lock().unwrap());
        let request = Request {
            url,
            headers,
            payload: Bytes::from_static(b"{\"n\": 1}"),
            webhook_id: &self.id,
            secrets: None,
            correlation_id: "cor-1",
            event_type: Some("order.created"),
            attempt: 3,
            timestamp: Timestamp::from_millis(1_800_000_000_000),
        };
        self.runtime.block_on(self.sender.send(&request, DEADLINE))
    }

    /// One attempt to here.
    pub(crate) fn send_here(&self, headers: &[(String, String)], answer: &[u8]) -> Answer {
        self.send(&format!("http://127.0.0.1:{}/hook", self.port), headers, answer)
    }

    /// Connections so far, and names that were looked up.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.state.connections.load(Ordering::SeqCst), self.lookups.0.load(Ordering::SeqCst))
    }

    /// What the latest request was, byte for byte.
    pub(crate) fn request(&self) -> Vec<u8> {
        self.state.request.lock().unwrap().clone()
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    while let Ok((connection, _)) = listener.accept().await {
        state.connections.fetch_add(1, Ordering::SeqCst);
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            // The other side may have had enough before it has read all.
            let _ = answer(connection, &state).await;
        });
    }
}

async fn answer(mut connection: TcpStream, state: &State) -> io::Result<()> {
    let mut request = Vec::new();
    // Every request has the same payload, so its end is known without reading its headers.
    while !request.ends_with(b"\r\n\r\n{\"n\": 1}") {
        if connection.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    *state.request.lock().unwrap() = request;
    let bytes = state.answer.lock().unwrap().clone();
    connection.write_all(&bytes).await?;
    connection.shutdown().await?;
    // Closing with bytes unread would reset the connection under its answer.
    while connection.read_buf(&mut Vec::new()).await? > 0 {}
    Ok(())
}
