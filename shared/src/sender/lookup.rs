//! Resolves host names with the system's resolver.
//!
//! The system call (`getaddrinfo`) uses the configuration of the machine: `/etc/hosts`, search
//! domains, `nsswitch.conf`, and later changes of these. But it blocks, it cannot be cancelled, and
//! an unresponsive name server blocks it for 10 to 30 s.
//!
//! # Contract
//!
//! - **Own threads.** The calls run on at most [`MAX_LOOKUPS`] threads of their own, so that they
//!   block nothing else.
//! - **Shared calls.** Concurrent lookups of a name share one call.
//! - **Time limit.** A lookup that exceeds [`LOOKUP_TIMEOUT`] returns
//!   [`TimedOut`](io::ErrorKind::TimedOut). The system call continues. Until it returns, further
//!   lookups of the name fail immediately.
//! - **Unresponsive name servers.** Each zone (`example.com`, `example.co.uk`) has at most
//!   [`MAX_PER_ZONE`] concurrent calls. With fewer than 28 unresponsive zones ([`MAX_NEW`] /
//!   [`MAX_PER_ZONE`]), lookups in other zones start immediately.
//! - **Known names.** [`MAX_KNOWN`] calls are reserved for names that resolved within
//!   [`KNOWN_FOR`]. Other names cannot delay them, not even names of the same zone.
//! - **Refused lookups.** A lookup without a free call waits for up to [`QUEUE_WAIT`], or not at
//!   all if all calls that it waits for are older than that. Then it returns
//!   [`WouldBlock`](io::ErrorKind::WouldBlock), which does not depend on the name.
//! - **Cache.** A result is valid for [`RESULT_AGE`], and a failure for [`FAILURE_AGE`]. The cache
//!   has a fixed size.

use std::{
    collections::HashMap,
    fmt, io,
    net::{IpAddr, ToSocketAddrs},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

use super::resolve::Lookup;
use crate::{recent::Recent, threads::Threads};

/// The time limit of a lookup. It is less than [`super::CONNECT_TIMEOUT`], so that the error names
/// the cause.
pub const LOOKUP_TIMEOUT: Duration = Duration::from_secs(4);

/// How long a lookup waits for a free call, and the age at which a call counts as late.
pub const QUEUE_WAIT: Duration = Duration::from_secs(1);

/// The maximum number of concurrent system calls.
pub const MAX_LOOKUPS: usize = MAX_NEW + MAX_KNOWN;

/// The maximum number of concurrent calls for names that did not resolve recently.
pub const MAX_NEW: usize = 224;

/// The maximum number of concurrent calls for names that resolved recently.
pub const MAX_KNOWN: usize = 32;

/// The maximum number of concurrent calls for one zone, as a part of [`MAX_NEW`].
pub const MAX_PER_ZONE: usize = 8;

/// How long a name counts as known after it resolved.
pub const KNOWN_FOR: Duration = Duration::from_secs(600);

/// How long a result is valid. The system does not return a time to live.
pub const RESULT_AGE: Duration = Duration::from_secs(1);

/// How long a failure is valid.
pub const FAILURE_AGE: Duration = Duration::from_secs(5);

/// The number of names in the cache.
const REMEMBERED_NAMES: usize = 2048;

/// A result that several lookups share.
type LookupResult = Result<Vec<IpAddr>, Arc<io::Error>>;

/// The system call, or a replacement in tests. It blocks.
type ResolveFn = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// Resolves names with the system's resolver. Clones share threads and cache.
#[derive(Clone)]
pub struct SystemLookup {
    shared: Arc<Shared>,
}

struct Shared {
    ask: Box<ResolveFn>,
    threads: Threads,
    // Never locked across an await or a system call.
    names: Mutex<Names>,
    /// Notified when a call returns.
    call_ended: Notify,
}

struct Names {
    running: HashMap<String, Call>,
    cache: Recent<(Instant, LookupResult)>,
}

/// A running system call.
struct Call {
    zone: String,
    since: Instant,
    /// Whether the name resolved recently.
    is_known: bool,
    result: watch::Receiver<Option<LookupResult>>,
}

/// The state of a lookup.
enum Found {
    /// A cached result.
    Cached(LookupResult),
    /// A call runs since this time.
    Running(Instant, watch::Receiver<Option<LookupResult>>),
    /// All calls are in use. `all_late`: all of them are late, so waiting is not useful.
    Busy { all_late: bool },
}

impl SystemLookup {
    /// A lookup that uses the system call.
    pub fn new() -> Self {
        Self::asking(|host| Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect()))
    }

    /// A lookup that calls `ask` instead of the system. `ask` may block.
    pub fn asking(ask: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        let names = Names { running: HashMap::new(), cache: Recent::new(REMEMBERED_NAMES) };
        let threads = Threads::new("lookup", MAX_LOOKUPS);
        let shared = Shared {
            ask: Box::new(ask),
            threads,
            names: Mutex::new(names),
            call_ended: Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }
}

impl Default for SystemLookup {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for SystemLookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SystemLookup")
            .field("running", &self.shared.names().running.len())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Lookup for SystemLookup {
    async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let since = Instant::now();
        loop {
            let call_ended = self.shared.call_ended.notified();
            tokio::pin!(call_ended);
            // Registers before the check, so that it misses no notification.
            call_ended.as_mut().enable();
            let waited = since.elapsed();
            match self.shared.find(host)? {
                Found::Cached(result) => return result.map_err(shared_error),
                Found::Running(since, result) => return wait_for(since, result).await,
                Found::Busy { all_late } if all_late || waited >= QUEUE_WAIT => {
                    return Err(io::Error::new(
                        io::ErrorKind::WouldBlock,
                        "too many name lookups are in progress",
                    ));
                }
                Found::Busy { .. } => {
                    let _ = timeout(QUEUE_WAIT.saturating_sub(waited), call_ended).await;
                }
            }
        }
    }
}

/// Waits for the result of a call that began at `since`.
async fn wait_for(
    since: Instant,
    mut result: watch::Receiver<Option<LookupResult>>,
) -> io::Result<Vec<IpAddr>> {
    let left = LOOKUP_TIMEOUT.saturating_sub(since.elapsed());
    let received = timeout(left, result.wait_for(Option::is_some)).await;
    match received {
        Ok(Ok(result)) => result.clone().unwrap_or_else(|| Ok(Vec::new())).map_err(shared_error),
        Ok(Err(_)) => Err(io::Error::other("the lookup was aborted")),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Copies an error and keeps its OS error code, which distinguishes errors of this machine from
/// errors of the name.
fn shared_error(error: Arc<io::Error>) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error),
    }
}

impl Shared {
    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks up the cache and the running calls. Starts a call if necessary and possible.
    fn find(self: &Arc<Self>, host: &str) -> io::Result<Found> {
        let now = Instant::now();
        let mut names = self.names();
        if let Some(call) = names.running.get(host) {
            return Ok(Found::Running(call.since, call.result.clone()));
        }
        let mut is_known = false;
        if let Some((at, result)) = names.cache.get(host) {
            let age = now.saturating_duration_since(*at);
            if age < if result.is_ok() { RESULT_AGE } else { FAILURE_AGE } {
                return Ok(Found::Cached(result.clone()));
            }
            is_known = result.is_ok() && age < KNOWN_FOR;
        }
        let zone = zone(host);
        if let Some(all_late) = names.blocked_by(&zone, is_known, now) {
            return Ok(Found::Busy { all_late });
        }
        let (sender, result) = watch::channel(None);
        names
            .running
            .insert(host.to_owned(), Call { zone, since: now, is_known, result: result.clone() });
        drop(names);
        self.begin(host.to_owned(), sender)?;
        Ok(Found::Running(now, result))
    }

    fn begin(
        self: &Arc<Self>,
        host: String,
        sender: watch::Sender<Option<LookupResult>>,
    ) -> io::Result<()> {
        let (shared, name) = (Arc::clone(self), host.clone());
        let call = move || {
            // Dropped even if the call panics.
            let mut ended = Ended { shared, host, result: None };
            let result = (ended.shared.ask)(&ended.host).map_err(Arc::new);
            ended.result = Some(result.clone());
            drop(ended);
            // The waiting lookups may have been dropped.
            let _ = sender.send(Some(result));
        };
        self.threads.start(Box::new(call)).map_err(|error| {
            drop(Ended { shared: Arc::clone(self), host: name, result: None });
            io::Error::new(io::ErrorKind::WouldBlock, error)
        })
    }
}

/// Ends a call when it is dropped, and caches the result.
struct Ended {
    shared: Arc<Shared>,
    host: String,
    result: Option<LookupResult>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        let mut names = self.shared.names();
        names.running.remove(&self.host);
        // An OS error such as too many open files is not cached, so that the next lookup tries
        // again.
        if let Some(result) = self
            .result
            .take()
            .filter(|result| result.as_ref().err().and_then(|e| e.raw_os_error()).is_none())
        {
            names.cache.insert(&self.host, (Instant::now(), result));
        }
        drop(names);
        self.shared.call_ended.notify_waiters();
    }
}

impl Names {
    /// `None` if a call can start. Otherwise whether all calls that block it are late.
    fn blocked_by(&self, zone: &str, is_known: bool, now: Instant) -> Option<bool> {
        let (mut alike, mut alike_late, mut in_zone, mut in_zone_late) = (0, 0, 0, 0);
        for call in self.running.values().filter(|call| call.is_known == is_known) {
            let is_late = usize::from(now.saturating_duration_since(call.since) >= QUEUE_WAIT);
            alike += 1;
            alike_late += is_late;
            if call.zone == zone {
                in_zone += 1;
                in_zone_late += is_late;
            }
        }
        if !is_known && in_zone >= MAX_PER_ZONE {
            return Some(in_zone_late == in_zone);
        }
        (alike >= if is_known { MAX_KNOWN } else { MAX_NEW }).then_some(alike_late == alike)
    }
}

/// The domain that usually has its own name servers: the last two labels, or three for domains such
/// as `co.uk`.
fn zone(host: &str) -> String {
    let host = host.strip_suffix('.').unwrap_or(host);
    let mut labels: Vec<&str> = host.rsplitn(4, '.').take(3).collect();
    let is_of_a_country = labels.len() == 3 && labels[0].len() == 2 && labels[1].len() <= 3;
    labels.truncate(if is_of_a_country { 3 } else { 2 });
    labels.reverse();
    labels.join(".").to_ascii_lowercase()
}

#[cfg(test)]
mod tests;
