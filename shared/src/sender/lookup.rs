//! Asks the system's resolver for the addresses of a name.
//!
//! The system's call (`getaddrinfo`) knows all that the machine's owner has set up: `/etc/hosts`,
//! search domains, `nsswitch.conf`, and changes of these while the process runs. But it blocks, it
//! cannot be ended, and a name server that does not answer holds it for 10 to 30 s.
//!
//! # Contract
//!
//! - **Apart.** The calls have threads of their own, [`MAX_LOOKUPS`] at most. Nothing else waits
//!   for them.
//! - **Once.** Look-ups of a name while one of it is under way share that one.
//! - **Bounded.** A look-up ends within [`LOOKUP_TIMEOUT`] with
//!   [`TimedOut`](io::ErrorKind::TimedOut). The system's call goes on. Until it returns, further
//!   look-ups of the name end at once.
//! - **Dead name servers.** Names of one zone (`example.com`, `example.co.uk`) have
//!   [`MAX_PER_ZONE`] calls at a time. So with fewer than [`MAX_NEW`] / [`MAX_PER_ZONE`] dead
//!   zones, 28, a name of another zone is always asked for at once.
//! - **Names that answer.** [`MAX_KNOWN`] of the calls are kept for names that resolved within
//!   [`KNOWN_FOR`]. No number of other names holds these up, in whichever zone they are.
//! - **Never started.** A look-up that finds no room waits for [`QUEUE_WAIT`], or not at all if
//!   every call that it would wait for is older than that. Then it ends with
//!   [`WouldBlock`](io::ErrorKind::WouldBlock), which says nothing of the name.
//! - **Memory.** An answer counts for [`ANSWER_AGE`], and a failure for [`FAILURE_AGE`]. What is
//!   remembered has a fixed size.

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

/// How long a look-up may take. Less than [`super::CONNECT_TIMEOUT`], so that the error names the
/// cause.
pub const LOOKUP_TIMEOUT: Duration = Duration::from_secs(4);

/// How long a look-up waits for room, and from when on a call counts as one that may not return.
pub const QUEUE_WAIT: Duration = Duration::from_secs(1);

/// Calls of the system at a time.
pub const MAX_LOOKUPS: usize = MAX_NEW + MAX_KNOWN;

/// Calls at a time for names that did not resolve lately.
pub const MAX_NEW: usize = 224;

/// Calls at a time for names that did.
pub const MAX_KNOWN: usize = 32;

/// Of [`MAX_NEW`], those for names of one zone.
pub const MAX_PER_ZONE: usize = 8;

/// How long a name that resolved counts as one that does.
pub const KNOWN_FOR: Duration = Duration::from_secs(600);

/// How long an answer counts. The system does not tell for how long it may be kept.
pub const ANSWER_AGE: Duration = Duration::from_secs(1);

/// How long a failure counts.
pub const FAILURE_AGE: Duration = Duration::from_secs(5);

/// Names whose last answer is remembered.
const REMEMBERED_NAMES: usize = 2048;

/// An answer that several look-ups share.
type Answer = Result<Vec<IpAddr>, Arc<io::Error>>;

/// The system's call, or what stands in for it. Blocks.
type Ask = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// Asks the system's resolver; see the module. Clones share threads and memory.
#[derive(Clone)]
pub struct SystemLookup {
    shared: Arc<Shared>,
}

struct Shared {
    ask: Box<Ask>,
    threads: Threads,
    // Held for a look at it, never across an await or a call of the system.
    names: Mutex<Names>,
    /// Told when a call has returned.
    returned: Notify,
}

struct Names {
    under_way: HashMap<String, Call>,
    answers: Recent<(Instant, Answer)>,
}

/// One call of the system.
struct Call {
    zone: String,
    since: Instant,
    /// Whether its name resolved lately.
    is_known: bool,
    answer: watch::Receiver<Option<Answer>>,
}

/// What a look-up comes to.
enum Found {
    Answer(Answer),
    /// A call is under way since then.
    UnderWay(Instant, watch::Receiver<Option<Answer>>),
    /// There is no room. Whether there will soon be is not known, unless every call in the way is
    /// late.
    NoRoom {
        all_late: bool,
    },
}

impl SystemLookup {
    /// Asks the system.
    pub fn new() -> Self {
        Self::asking(|host| Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect()))
    }

    /// Asks `ask`, which may block, instead of the system.
    pub fn asking(ask: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        let names = Names { under_way: HashMap::new(), answers: Recent::new(REMEMBERED_NAMES) };
        let threads = Threads::new("lookup", MAX_LOOKUPS);
        let shared = Shared {
            ask: Box::new(ask),
            threads,
            names: Mutex::new(names),
            returned: Notify::new(),
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
            .field("under_way", &self.shared.names().under_way.len())
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
            let returned = self.shared.returned.notified();
            tokio::pin!(returned);
            // From here on it is told, so nothing is missed between the look and the wait.
            returned.as_mut().enable();
            let waited = since.elapsed();
            match self.shared.find(host)? {
                Found::Answer(answer) => return answer.map_err(shared_error),
                Found::UnderWay(since, answer) => return wait_for(since, answer).await,
                Found::NoRoom { all_late } if all_late || waited >= QUEUE_WAIT => {
                    return Err(io::Error::new(
                        io::ErrorKind::WouldBlock,
                        "too many look-ups of names are under way",
                    ));
                }
                Found::NoRoom { .. } => {
                    let _ = timeout(QUEUE_WAIT.saturating_sub(waited), returned).await;
                }
            }
        }
    }
}

/// Waits for the answer of a call that began at `since`.
async fn wait_for(
    since: Instant,
    mut answer: watch::Receiver<Option<Answer>>,
) -> io::Result<Vec<IpAddr>> {
    let left = LOOKUP_TIMEOUT.saturating_sub(since.elapsed());
    let answered = timeout(left, answer.wait_for(Option::is_some)).await;
    match answered {
        Ok(Ok(answer)) => answer.clone().unwrap_or_else(|| Ok(Vec::new())).map_err(shared_error),
        Ok(Err(_)) => Err(io::Error::other("the look-up was given up")),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Keeps the number of the system's error, by which one of this machine is told from one of the
/// name.
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

    /// What is known of the name; begins a call if nothing is and there is room.
    fn find(self: &Arc<Self>, host: &str) -> io::Result<Found> {
        let now = Instant::now();
        let mut names = self.names();
        if let Some(call) = names.under_way.get(host) {
            return Ok(Found::UnderWay(call.since, call.answer.clone()));
        }
        let mut is_known = false;
        if let Some((at, answer)) = names.answers.get(host) {
            let age = now.saturating_duration_since(*at);
            if age < if answer.is_ok() { ANSWER_AGE } else { FAILURE_AGE } {
                return Ok(Found::Answer(answer.clone()));
            }
            is_known = answer.is_ok() && age < KNOWN_FOR;
        }
        let zone = zone(host);
        if let Some(all_late) = names.in_the_way(&zone, is_known, now) {
            return Ok(Found::NoRoom { all_late });
        }
        let (told, answer) = watch::channel(None);
        names
            .under_way
            .insert(host.to_owned(), Call { zone, since: now, is_known, answer: answer.clone() });
        drop(names);
        self.begin(host.to_owned(), told)?;
        Ok(Found::UnderWay(now, answer))
    }

    fn begin(
        self: &Arc<Self>,
        host: String,
        told: watch::Sender<Option<Answer>>,
    ) -> io::Result<()> {
        let (shared, name) = (Arc::clone(self), host.clone());
        let call = move || {
            // Also if the call panics.
            let mut ended = Ended { shared, host, answer: None };
            let answer = (ended.shared.ask)(&ended.host).map_err(Arc::new);
            ended.answer = Some(answer.clone());
            drop(ended);
            // Those who waited may have gone.
            let _ = told.send(Some(answer));
        };
        self.threads.start(Box::new(call)).map_err(|error| {
            drop(Ended { shared: Arc::clone(self), host: name, answer: None });
            io::Error::new(io::ErrorKind::WouldBlock, error)
        })
    }
}

/// A call that is over when this is dropped; its answer is remembered.
struct Ended {
    shared: Arc<Shared>,
    host: String,
    answer: Option<Answer>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        let mut names = self.shared.names();
        names.under_way.remove(&self.host);
        // An error with a number is the system's own, such as too many open files: the next look-up
        // asks again.
        if let Some(answer) = self
            .answer
            .take()
            .filter(|answer| answer.as_ref().err().and_then(|e| e.raw_os_error()).is_none())
        {
            names.answers.insert(&self.host, (Instant::now(), answer));
        }
        drop(names);
        self.shared.returned.notify_waiters();
    }
}

impl Names {
    /// `None`: there is room for a call. Otherwise whether all the calls in its way are late.
    fn in_the_way(&self, zone: &str, is_known: bool, now: Instant) -> Option<bool> {
        let (mut alike, mut alike_late, mut in_zone, mut in_zone_late) = (0, 0, 0, 0);
        for call in self.under_way.values().filter(|call| call.is_known == is_known) {
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

/// What usually has name servers of its own: the last two labels, or three below a domain such as
/// `co.uk`.
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
