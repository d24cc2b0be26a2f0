//! Makes one delivery attempt: a signed POST request to an allowed destination, with limits on its
//! duration and its size.
//!
//! # Guarantees
//!
//! - **Destinations.** The [`guard`] checks the URL before the attempt, and every IP address before
//!   a connection to it.
//! - **At most once.** An attempt sends its request at most once.
//! - **Deadline.** After the deadline no byte of the request is passed to the operating system,
//!   even if the process was suspended in the meantime.
//! - **The status decides.** Once a status line was received, nothing in the rest of the response
//!   changes the outcome.
//! - **Limits.** Each part of a response has a maximum size and a maximum time.
//! - **Messages.** An error message contains no secret, no internal address, and no part of a URL
//!   except the origin of a redirect.
//!
//! # Modules
//!
//! | module | purpose |
//! |---|---|
//! | [`guard`] | decides which URLs and addresses are allowed; the API uses it too |
//! | `address` | public and non-public addresses, from IANA's registries |
//! | `resolve` | resolves host names to allowed addresses |
//! | [`lookup`] | calls the system's resolver on threads of its own, with limits |
//! | `pool` | keeps connections for the next request |
//! | `target` | the request target and the `host` header |
//! | `headers` | the headers of Posthaste and of the caller |
//! | `connect` | opens a connection: lookup, TCP, proxy tunnel, TLS |
//! | `dial` | opens a TCP connection to one of several addresses |
//! | `proxy` | opens a tunnel through the egress proxy |
//! | `trust` | verifies the certificate of a server |
//! | `curves` | signature algorithms that ring lacks: P-521, ECDSA with SHA-512 |
//! | `pem` | reads certificates and keys |
//! | `deadline` | the deadline of an attempt |
//! | `exchange` | HTTP/1.1: writes the request and reads the response |
//! | `head`, `body` | the status line, the header lines, and the framing of a response |
//! | `answer` | turns a response into an [`Answer`] |
//! | `failure`, `tls_failure` | turn errors into a kind and a message |
//!
//! TLS is rustls with ring. The root certificates of the web are compiled in, so the sender reads
//! no files of the machine.

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
mod origin;
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
    answer::{MAX_DRAIN, MAX_EXCERPT_WAIT},
    exchange::MAX_RESPONSE_BYTES,
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
    connect::{Connector, Stream},
    deadline::Deadline,
    exchange::Response,
    origin::Origin,
    pool::{Now, Pool},
};
pub use crate::config::Excerpts;
use crate::{
    clock::Timestamp, config::ProxyUrl, id::WebhookId, model::ErrorKind, signing::Secret,
    tls::InvalidTls,
};

/// The time limit for name lookup, TCP connection, and TLS handshake together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an idle connection is kept if the server does not specify a time. Servers that do not
/// specify one (nginx, proxies, load balancers) close idle connections after 60 s or more.
pub const MAX_IDLE: Duration = Duration::from_secs(50);

/// The maximum number of idle connections to one destination.
pub const MAX_IDLE_PER_HOST: usize = 16;

/// The request of one attempt.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The destination URL, as the caller of the API wrote it.
    pub url: &'a str,
    /// The headers of the caller. Headers that [`check_header`] refuses are not sent.
    pub headers: &'a [(String, String)],
    /// The body, sent byte for byte.
    pub payload: Bytes,
    /// The webhook. `webhook-id` is its id, or the id of its message. It is the same for every
    /// attempt, resend, and redrive, and at every endpoint.
    pub webhook_id: &'a WebhookId,
    /// The secrets of a delivery's endpoint, each of which signs. `None`: those of the
    /// [`SenderConfig`] sign.
    pub secrets: Option<&'a [Secret]>,
    /// `x-correlation-id`.
    pub correlation_id: &'a str,
    /// `x-webhook-event`, if the webhook has an event type.
    pub event_type: Option<&'a str>,
    /// `x-webhook-attempt`: the number of the attempt, starting at 1.
    pub attempt: u32,
    /// `webhook-timestamp`: when this attempt started.
    pub timestamp: Timestamp,
}

/// The result of one attempt. A received status code decides, regardless of errors in the rest of
/// the response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// `None` if the destination responded with 2xx. Otherwise `HttpStatus`, `Network`, `Timeout`,
    /// `Tls`, or `RefusedAddress`.
    pub error: Option<ErrorKind>,
    /// The status code, if one was received.
    pub status_code: Option<u16>,
    /// The wait that `Retry-After` requests, from now. The retry policy caps it.
    pub retry_after: Option<Duration>,
    /// The error message, at most [`crate::model::MAX_ERROR_BYTES`] long. It contains no secret, no
    /// address that the resolver returned, and no part of a URL except the origin of a redirect.
    pub message: Option<String>,
    /// The first [`crate::model::MAX_EXCERPT_BYTES`] of the body, for failed attempts or with
    /// [`Excerpts::All`]. Invalid UTF-8 is replaced.
    pub response_excerpt: Option<String>,
    /// The duration of the attempt, including the response body.
    pub duration: Duration,
    /// The attempt failed for a reason on this side: the machine has run out of files, ports, or
    /// memory, or the egress proxy is not usable. It does not count against the destination.
    /// Nothing was sent, unless memory ran out during the exchange.
    pub is_our_fault: bool,
}

/// Makes attempts, and resolves names in the same way as for attempts.
#[async_trait]
pub trait Sender: Lookup {
    /// Makes one attempt and returns within `deadline`. After the deadline it passes no byte of the
    /// request to the operating system.
    ///
    /// It sends the request at most once. A failed attempt is an [`Answer`], too.
    async fn send(&self, request: &Request<'_>, deadline: Duration) -> Answer;
}

/// The configuration of an [`HttpSender`].
#[derive(Clone, Debug)]
pub struct SenderConfig {
    /// The signing secrets. Each one signs every request that has none of its own. If empty, those
    /// requests are not signed.
    pub secrets: Vec<Secret>,
    /// Decides which URLs and addresses are allowed.
    pub guard: Arc<AddressGuard>,
    /// Resolves names.
    pub lookup: Arc<dyn Lookup>,
    /// Certificates that are trusted in addition to the web's roots, as CAs and as server
    /// certificates.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// The client certificate and its key, for servers that request one.
    pub identity: Option<Arc<CertifiedKey>>,
    /// The egress proxy, if one is configured.
    pub proxy: Option<ProxyUrl>,
    /// `RESPONSE_EXCERPTS`.
    pub excerpts: Excerpts,
}

impl SenderConfig {
    /// A configuration with the system's resolver, no additional certificates, no proxy, and
    /// excerpts of failures.
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

/// Why creating a sender failed.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSender {
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] InvalidTls),
}

/// Sends requests with HTTP/1.1 and a connection pool. A process needs only one.
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
        // The settings may have changed since the API accepted the URL.
        let url = match self.guard.check_url(request.url) {
            Ok(url) => url,
            Err(refused) => {
                return failure::refused_url(refused);
            }
        };
        let Some(origin) = Origin::of(&url) else {
            return failure::refused_url(RefusedUrl::Scheme);
        };
        let secrets = request.secrets.unwrap_or(&self.secrets);
        let head = headers::request_head(request, &url, secrets);
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
