//! A webhook receiver, for tests and for the tool `webhook-receiver`.
//!
//! It responds to every POST as configured, counts requests, verifies signatures, and can keep, log
//! or save each request. [`Receiver::start`] starts one on a free port:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use harness::receiver::{Receiver, Reply};
//!
//! let fails_once = |attempt| if attempt == Some(1) { 503 } else { 200 };
//! let receiver = Receiver::builder()
//!     .script(move |request| Reply::status(fails_once(request.attempt())))
//!     .start()
//!     .await?;
//! let url = receiver.url("/orders");
//! // … have a webhook sent to `url` …
//! let requests = receiver.wait_for(2, Duration::from_secs(10)).await?;
//! assert_eq!(requests[0].body, requests[1].body);
//! # Ok(()) }
//! ```
//!
//! | module | contents |
//! |---|---|
//! | [`answer`] | a received request, its response, and the rules of the command line |
//! | [`count`] | lock-free counters, and `GET /status` |
//! | [`signature`] | the check of a signature |
//! | [`journal`] | the log lines and the saved payloads |
//! | [`rate_limited`] | the script of a receiver that takes so many requests a second |
//! | `serve` | the server |

pub mod answer;
pub mod count;
pub mod journal;
pub mod rate_limited;
mod serve;
pub mod signature;
#[cfg(test)]
mod tests;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use tokio::{net::TcpListener, sync::Notify, sync::watch, task::JoinHandle, time::Instant};

pub use self::{
    answer::{Behaviour, Received, Reply, Script},
    count::{SignatureCounts, Snapshot},
    journal::Journal,
    signature::{Secrets, SignatureStatus},
};
use self::{count::Counts, serve::State};

/// The maximum number of requests that a receiver keeps, which limits its memory. It counts
/// requests without a limit.
pub const MAX_KEPT_REQUESTS: usize = 200_000;

/// How long [`Receiver::stop`] waits for requests in progress.
const STOP_BOUND: Duration = Duration::from_secs(1);

/// A running receiver. Dropping it closes its port and all connections at once.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    state: Arc<State>,
    stopping: watch::Sender<bool>,
    server: JoinHandle<()>,
}

impl Receiver {
    /// Starts a receiver on a free port of 127.0.0.1. It responds 200 and keeps every request.
    pub async fn start() -> Result<Self, ReceiverError> {
        Self::builder().start().await
    }

    /// Builds a receiver with other settings.
    pub fn builder() -> ReceiverBuilder {
        ReceiverBuilder::default()
    }

    /// The address on which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path of this receiver.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{}", self.address, path.trim_start_matches('/'))
    }

    /// Replaces the script. Does not change the responses of earlier requests.
    pub fn answer_with(&self, script: impl Fn(&Received) -> Reply + Send + Sync + 'static) {
        *self.state.script.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(script);
    }

    /// Closes the connections of all requests whose response is still delayed.
    pub fn hang_up(&self) {
        let _ = self.state.hang_ups.send(());
    }

    /// All complete requests in the order of their arrival, with or without a response, up to
    /// [`MAX_KEPT_REQUESTS`]. Empty if the receiver keeps no requests.
    pub fn received(&self) -> Vec<Arc<Received>> {
        self.state.kept().clone()
    }

    /// Waits until at least `n` requests have arrived. Returns all requests.
    pub async fn wait_for(
        &self,
        n: usize,
        bound: Duration,
    ) -> Result<Vec<Arc<Received>>, ReceiverError> {
        self.wait_until(bound, |requests| requests.len() >= n)
            .await
            .map_err(|arrived| ReceiverError::Missing { expected: n, arrived, bound })
    }

    /// Waits until at least `n` requests with this webhook-id have arrived. Returns these requests.
    pub async fn wait_for_webhook(
        &self,
        id: &str,
        n: usize,
        bound: Duration,
    ) -> Result<Vec<Arc<Received>>, ReceiverError> {
        let count = |requests: &[Arc<Received>]| {
            requests.iter().filter(|r| r.webhook_id() == Some(id)).count()
        };
        let select = |all: Vec<Arc<Received>>| {
            all.into_iter().filter(|r| r.webhook_id() == Some(id)).collect()
        };
        self.wait_until(bound, |requests| count(requests) >= n).await.map(select).map_err(|_| {
            ReceiverError::Missing { expected: n, arrived: count(&self.received()), bound }
        })
    }

    async fn wait_until(
        &self,
        bound: Duration,
        is_enough: impl Fn(&[Arc<Received>]) -> bool,
    ) -> Result<Vec<Arc<Received>>, usize> {
        let deadline = Instant::now() + bound;
        loop {
            let arrival = self.state.arrived.notified();
            tokio::pin!(arrival);
            // Registers before the check, so that no arrival between the check and the wait is
            // missed.
            arrival.as_mut().enable();
            {
                let kept = self.state.kept();
                if is_enough(&kept) {
                    return Ok(kept.clone());
                }
            }
            if tokio::time::timeout_at(deadline, arrival).await.is_err() {
                let kept = self.state.kept();
                return if is_enough(&kept) { Ok(kept.clone()) } else { Err(kept.len()) };
            }
        }
    }

    /// The current counts.
    pub fn counts(&self) -> Snapshot {
        self.state.counts.snapshot()
    }

    /// Stops listening, waits up to a second for requests in progress, then closes all connections
    /// and flushes the journal.
    pub async fn stop(mut self) -> Snapshot {
        let _ = self.stopping.send(true);
        let _ = tokio::time::timeout(STOP_BOUND + Duration::from_secs(1), &mut self.server).await;
        let state = Arc::clone(&self.state);
        // The journal's thread may still be writing to a slow disk.
        let _ =
            tokio::task::spawn_blocking(move || state.journal.as_ref().map(Journal::close)).await;
        self.state.counts.snapshot()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The settings of a receiver. See [`Receiver::builder`].
#[must_use]
pub struct ReceiverBuilder {
    listen: SocketAddr,
    script: Script,
    behaviour: Option<Behaviour>,
    secrets: Secrets,
    keep: bool,
    journal: Option<Journal>,
}

impl std::fmt::Debug for ReceiverBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReceiverBuilder")
            .field("listen", &self.listen)
            .field("behaviour", &self.behaviour)
            .finish_non_exhaustive()
    }
}

impl Default for ReceiverBuilder {
    fn default() -> Self {
        let builder = Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            script: Arc::new(|_| Reply::status(200)),
            behaviour: None,
            secrets: Secrets::default(),
            keep: true,
            journal: None,
        };
        builder.behaviour(Behaviour::default())
    }
}

impl ReceiverBuilder {
    /// Listens on this address instead of a free port of 127.0.0.1.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = address;
        self
    }

    /// Responds to each request with the result of this closure. It must not block. Use
    /// [`Reply::after`] for a delay.
    pub fn script(mut self, script: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        self.script = Arc::new(script);
        self.behaviour = None;
        self
    }

    /// Responds by the rules of the command line, including the special paths.
    pub fn behaviour(mut self, behaviour: Behaviour) -> Self {
        self.script = Arc::new(move |request| behaviour.reply(request));
        self.behaviour = Some(behaviour);
        self
    }

    /// Verifies signatures with these secrets.
    pub fn secrets(mut self, secrets: Secrets) -> Self {
        self.secrets = secrets;
        self
    }

    /// Whether to keep requests for [`Receiver::received`]. The default is true.
    pub fn keep(mut self, keep: bool) -> Self {
        self.keep = keep;
        self
    }

    /// Logs or saves each request.
    pub fn journal(mut self, journal: Option<Journal>) -> Self {
        self.journal = journal;
        self
    }

    /// Starts it on the current runtime.
    pub async fn start(self) -> Result<Receiver, ReceiverError> {
        let bind = |source| ReceiverError::Listen { address: self.listen, source };
        let listener = TcpListener::bind(self.listen).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let (stopping, stop) = watch::channel(false);
        let state = Arc::new(State {
            script: RwLock::new(self.script),
            behaviour: self.behaviour,
            secrets: self.secrets,
            counts: Counts::default(),
            kept: self.keep.then(|| Mutex::new(Vec::new())),
            arrived: Notify::new(),
            hang_ups: watch::Sender::new(()),
            journal: self.journal,
        });
        let server = tokio::spawn(serve::serve(listener, Arc::clone(&state), stop));
        Ok(Receiver { address, state, stopping, server })
    }
}

/// Why a receiver failed.
#[derive(Debug, thiserror::Error)]
pub enum ReceiverError {
    /// The address is in use, or is not of this machine.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Fewer requests arrived than expected.
    #[error("{arrived} of {expected} requests arrived within {bound:?}")]
    Missing {
        /// The expected number of requests.
        expected: usize,
        /// The number of requests that arrived.
        arrived: usize,
        /// The time limit.
        bound: Duration,
    },
}
