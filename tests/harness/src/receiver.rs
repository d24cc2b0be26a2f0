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
//! | `serve` | the server |

pub mod answer;
pub mod count;
pub mod journal;
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

/// Requests kept at most, so that a forgotten receiver does not eat the machine; the counters go
/// on.
pub const MAX_KEPT_REQUESTS: usize = 200_000;

/// How long [`Receiver::stop`] waits for requests that are being answered.
const STOP_BOUND: Duration = Duration::from_secs(1);

/// A running receiver. Dropping it ends it at once, open connections too: from then on its port
/// refuses.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    state: Arc<State>,
    stopping: watch::Sender<bool>,
    server: JoinHandle<()>,
}

impl Receiver {
    /// One at a free port of 127.0.0.1 that answers 200 and keeps every request.
    pub async fn start() -> Result<Self, ReceiverError> {
        Self::builder().start().await
    }

    /// One that differs from [`start`](Self::start) in something.
    pub fn builder() -> ReceiverBuilder {
        ReceiverBuilder::default()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path at this receiver.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{}", self.address, path.trim_start_matches('/'))
    }

    /// Answers from now on by another script. Requests whose answer is already decided keep it.
    pub fn answer_with(&self, script: impl Fn(&Received) -> Reply + Send + Sync + 'static) {
        *self.state.script.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(script);
    }

    /// Every request so far, in the order in which they were complete, whether or not they have
    /// been answered yet.
    ///
    /// Empty if it was told not to keep them; at most [`MAX_KEPT_REQUESTS`].
    pub fn received(&self) -> Vec<Arc<Received>> {
        self.state.kept().clone()
    }

    /// Waits until at least `n` requests have come, and gives all of them.
    pub async fn wait_for(
        &self,
        n: usize,
        bound: Duration,
    ) -> Result<Vec<Arc<Received>>, ReceiverError> {
        self.wait_until(bound, |requests| requests.len() >= n)
            .await
            .map_err(|came| ReceiverError::Missing { wanted: n, came, bound })
    }

    /// Waits until at least `n` requests with this webhook-id have come, and gives these.
    pub async fn wait_for_webhook(
        &self,
        id: &str,
        n: usize,
        bound: Duration,
    ) -> Result<Vec<Arc<Received>>, ReceiverError> {
        let of_it = |requests: &[Arc<Received>]| {
            requests.iter().filter(|r| r.webhook_id() == Some(id)).count()
        };
        let came = |all: Vec<Arc<Received>>| {
            all.into_iter().filter(|r| r.webhook_id() == Some(id)).collect()
        };
        self.wait_until(bound, |requests| of_it(requests) >= n)
            .await
            .map(came)
            .map_err(|_| ReceiverError::Missing { wanted: n, came: of_it(&self.received()), bound })
    }

    async fn wait_until(
        &self,
        bound: Duration,
        enough: impl Fn(&[Arc<Received>]) -> bool,
    ) -> Result<Vec<Arc<Received>>, usize> {
        let deadline = Instant::now() + bound;
        loop {
            let arrival = self.state.arrived.notified();
            tokio::pin!(arrival);
            // Registered before the look, so that an arrival between the look and the wait is not
            // missed.
            arrival.as_mut().enable();
            {
                let kept = self.state.kept();
                if enough(&kept) {
                    return Ok(kept.clone());
                }
            }
            if tokio::time::timeout_at(deadline, arrival).await.is_err() {
                let kept = self.state.kept();
                return if enough(&kept) { Ok(kept.clone()) } else { Err(kept.len()) };
            }
        }
    }

    /// What has come so far.
    pub fn counts(&self) -> Snapshot {
        self.state.counts.snapshot()
    }

    /// Stops listening, lets requests that are being answered finish for up to a second, then
    /// closes every connection and flushes the journal.
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

/// How a receiver is to behave. See [`Receiver::builder`].
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
    /// Listens here instead of at a free port of 127.0.0.1.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = address;
        self
    }

    /// Answers each request as this closure says. It must not block; a pause goes into the
    /// [`Reply`].
    pub fn script(mut self, script: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        self.script = Arc::new(script);
        self.behaviour = None;
        self
    }

    /// Answers by the rules of the command line, the special paths included.
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

    /// Whether requests are kept for [`Receiver::received`]; they are unless told otherwise.
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
            journal: self.journal,
        });
        let server = tokio::spawn(serve::serve(listener, Arc::clone(&state), stop));
        Ok(Receiver { address, state, stopping, server })
    }
}

/// What can go wrong with a receiver.
#[derive(Debug, thiserror::Error)]
pub enum ReceiverError {
    /// The address is taken, or not of this machine.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where it was to listen.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Fewer requests came than were waited for.
    #[error("{came} of {wanted} requests came within {bound:?}")]
    Missing {
        /// Requests waited for.
        wanted: usize,
        /// Requests that came.
        came: usize,
        /// How long was waited.
        bound: Duration,
    },
}
