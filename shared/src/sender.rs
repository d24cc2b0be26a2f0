//! Makes one attempt: one POST, signed, bounded in time and size, to a place where Posthaste may
//! connect.
//!
//! | part | what it does |
//! |---|---|
//! | [`guard`] | says where Posthaste may connect; pure, also asked by the API |
//! | `address` | which addresses are public: IANA's tables |
//! | `resolve` | resolves names and hands on only addresses that the guard allows |
//! | [`lookup`] | asks the system for a name's addresses, on threads of its own, bounded |
//! | `pool` | keeps connections for the next request |
//! | `target` | what a URL looks like on the wire |
//! | `headers` | ours, the caller's, and which the caller may not set |
//! | `connect` | makes a connection: look-up, TCP, tunnel, TLS |
//! | `dial` | opens a TCP connection to one of several addresses |
//! | `proxy` | opens a tunnel through the egress proxy |
//! | `trust` | judges a server's certificate |
//! | `curves` | verifies what ring cannot: P-521, ECDSA with SHA-512 |
//! | `pem` | reads certificates and keys |
//! | `deadline` | keeps an attempt within its time, also after the process was stopped |
//! | `exchange` | HTTP/1.1: writes the request, reads the response; a status that was received decides |
//! | `head`, `body` | a response's status line, header lines and framing |
//! | `answer` | what a response comes to |
//! | `failure`, `tls_failure` | name what went wrong |
//!
//! TLS is rustls on ring with the web's root certificates compiled in: one stack, and nothing is
//! read from the machine at start.

mod address;
mod answer;
mod body;
mod connect;
mod curves;
mod deadline;
mod dial;
mod exchange;
mod failure;
pub mod guard;
mod head;
mod headers;
pub mod lookup;
pub(crate) mod pem;
mod pool;
mod proxy;
mod resolve;
mod target;
mod tls_failure;
mod trust;

use std::{fmt, io, net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use rustls::{pki_types::CertificateDer, sign::CertifiedKey};
use tokio::time::Instant;

pub use self::{
    answer::{MAX_DRAIN, MAX_EXCERPT_WAIT, MAX_RESPONSE_BYTES},
    guard::{
        AddressGuard, GuardSettings, InvalidHostGlob, MAX_URL_BYTES, RefusedUrl, destination_key,
    },
    headers::{HeaderError, check_header},
    lookup::SystemLookup,
    pem::InvalidPem,
    pool::MAX_IDLE_IN_ALL,
    resolve::{Lookup, MAX_ADDRESSES, NoLookup, Resolver, Unresolved},
};
use self::{
    connect::{Connector, Origin, Stream},
    deadline::Deadline,
    exchange::Response,
    pool::{Now, Pool},
};
pub use crate::config::Excerpts;
use crate::{
    clock::Timestamp, config::ProxyUrl, id::WebhookId, model::ErrorKind, signing::Secret,
    tls::InvalidTls,
};

/// How long name look-up, TCP connection and TLS handshake may take together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection is kept for the next request if the server does not say how long it keeps
/// it. Servers that do not say it (nginx, proxies, load balancers) close theirs after 60 s or more.
pub const MAX_IDLE: Duration = Duration::from_secs(50);

/// Unused connections kept for one destination.
pub const MAX_IDLE_PER_HOST: usize = 16;

/// What one attempt sends.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Where to, as the caller of the API wrote it.
    pub url: &'a str,
    /// The caller's own headers. Those that [`check_header`] refuses are not sent.
    pub headers: &'a [(String, String)],
    /// The body, sent byte for byte.
    pub payload: Bytes,
    /// `webhook-id`: the same on every attempt, resend and redrive.
    pub webhook_id: &'a WebhookId,
    /// `x-correlation-id`.
    pub correlation_id: &'a str,
    /// `x-webhook-event`, where there is one.
    pub event_type: Option<&'a str>,
    /// `x-webhook-attempt`: the attempt's number, from 1.
    pub attempt: u32,
    /// `webhook-timestamp`: when this attempt started.
    pub timestamp: Timestamp,
}

/// What came of one attempt. A status code, once received, decides, whatever happens to the body
/// afterwards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// `None`: the destination answered 2xx. Otherwise why not; one of `HttpStatus`, `Network`,
    /// `Timeout`, `Tls` and `RefusedAddress`.
    pub error: Option<ErrorKind>,
    /// The status code, if one was received.
    pub status_code: Option<u16>,
    /// How long `Retry-After` asks to wait, from now. Not capped: the retry policy does that.
    pub retry_after: Option<Duration>,
    /// For a person, where there is an error; at most [`crate::model::MAX_ERROR_BYTES`]. Holds no
    /// address that neither the caller nor a redirect wrote, no secret, and nothing of a URL but
    /// the origin of a redirect.
    pub message: Option<String>,
    /// The beginning of the body if there was one, and if the attempt failed or [`Excerpts::All`]
    /// are kept; at most [`crate::model::MAX_EXCERPT_BYTES`]. What is not UTF-8 is replaced.
    pub response_excerpt: Option<String>,
    /// How long the attempt took, reading included.
    pub duration: Duration,
    /// This machine could not even try: it is out of files, ports or memory, or its egress proxy
    /// cannot be used. Says nothing of the destination.
    pub is_our_fault: bool,
}

/// Makes attempts, and resolves names as it does for them.
#[async_trait]
pub trait Sender: Lookup {
    /// Makes one attempt, and returns within `deadline`. After it no byte of the request is handed
    /// to the system to be sent.
    ///
    /// The request is sent at most once, except over a kept connection that turns out to be closed
    /// before any byte was written to it. Not a 2xx is not an error of this function: it is an
    /// [`Answer`].
    async fn send(&self, request: &Request<'_>, deadline: Duration) -> Answer;
}

/// What an [`HttpSender`] is made of.
#[derive(Clone, Debug)]
pub struct SenderConfig {
    /// Each of them signs every request; none, and requests are not signed.
    pub secrets: Vec<Secret>,
    /// Says where it may connect.
    pub guard: Arc<AddressGuard>,
    /// Resolves names.
    pub lookup: Arc<dyn Lookup>,
    /// Certificates that are trusted besides the web's roots: as authorities, and each as itself.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// The certificate that servers are shown if they ask for one, and its key.
    pub identity: Option<Arc<CertifiedKey>>,
    /// The egress proxy, if connections go through one.
    pub proxy: Option<ProxyUrl>,
    /// `RESPONSE_EXCERPTS`.
    pub excerpts: Excerpts,
}

impl SenderConfig {
    /// With the system's resolver, no further certificates and no proxy. Excerpts are kept of
    /// failures.
    pub fn new(secrets: Vec<Secret>, guard: Arc<AddressGuard>) -> Self {
        Self {
            secrets,
            guard,
            lookup: Arc::new(SystemLookup::new()),
            extra_roots: Vec::new(),
            identity: None,
            proxy: None,
            excerpts: Excerpts::default(),
        }
    }
}

/// Why no sender could be made.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSender {
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] InvalidTls),
}

/// Sends over one pool of connections, HTTP/1.1. Made once for a process.
pub struct HttpSender {
    connector: Connector,
    pool: Pool,
    secrets: Vec<Secret>,
    guard: Arc<AddressGuard>,
    lookup: Arc<dyn Lookup>,
    excerpts: Excerpts,
}

impl HttpSender {
    /// A sender with an empty pool.
    pub fn new(config: SenderConfig) -> Result<Self, InvalidSender> {
        let connector = Connector::new(&config)?;
        let SenderConfig { secrets, guard, lookup, excerpts, .. } = config;
        Ok(Self { connector, pool: Pool::new(), secrets, guard, lookup, excerpts })
    }

    async fn attempt(&self, request: &Request<'_>, limit: Duration) -> Answer {
        let deadline = Deadline::after(limit);
        // Again, since the settings may have changed after the webhook was accepted.
        let url = match self.guard.check_url(request.url) {
            Ok(url) => url,
            Err(refused) => {
                return failure::failed(ErrorKind::RefusedAddress, &refused.to_string());
            }
        };
        let Some(origin) = Origin::of(&url) else {
            return failure::failed(ErrorKind::RefusedAddress, &RefusedUrl::Scheme.to_string());
        };
        let head = headers::request_head(request, &url, &self.secrets);
        let response = match deadline
            .run(self.exchange(&origin, head, request.payload.clone(), deadline))
            .await
        {
            Some(Ok(response)) => response,
            Some(Err(answer)) => return answer,
            None => return failure::timed_out(limit),
        };
        let (answer, kept) = answer::read(response, &url, self.excerpts, deadline).await;
        if let Some((connection, keep_for)) = kept {
            self.pool.keep(origin, connection, keep_for, Now::read());
        }
        answer
    }

    async fn exchange(
        &self,
        origin: &Origin,
        head: Vec<u8>,
        payload: Bytes,
        deadline: Deadline,
    ) -> Result<Response<Stream>, Answer> {
        let stream = match self.pool.take(origin, Now::read()) {
            Some(kept) => kept,
            None => self.connector.connect(origin).await?,
        };
        exchange::send(stream, head, payload, deadline)
            .await
            .map_err(|error| failure::of_no_status(&error))
    }
}

#[async_trait]
impl Lookup for HttpSender {
    async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        self.lookup.lookup(host).await
    }
}

#[async_trait]
impl Sender for HttpSender {
    async fn send(&self, request: &Request<'_>, deadline: Duration) -> Answer {
        let started = Instant::now();
        let answer = self.attempt(request, deadline).await;
        Answer { duration: started.elapsed(), ..answer }
    }
}

impl fmt::Debug for HttpSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpSender")
            .field("secrets", &self.secrets.len())
            .field("guard", &self.guard)
            .finish_non_exhaustive()
    }
}
