//! A pool of idle connections for the next request to the same origin.
//!
//! A connection is reused only if the server has probably not closed it:
//!
//! - It is younger than `Keep-Alive: timeout=N` minus one second, and younger than [`MAX_IDLE`], by
//!   the monotonic clock and by the wall clock. The monotonic clock stops while the machine sleeps.
//! - It has nothing to read, neither the close of the server nor an unexpected response.
//!
//! A close that the server sends at the time of the next request cannot be detected.

use std::{
    collections::{HashMap, VecDeque},
    mem::MaybeUninit,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Waker},
    time::{Duration, SystemTime},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::TcpStream,
    time::Instant,
};

use super::{MAX_IDLE, MAX_IDLE_PER_HOST, connect::Stream, origin::Origin};

/// The maximum number of idle connections. Another one closes the oldest. It is half of the 1,024
/// files that many systems allow a process to open.
pub const MAX_IDLE_IN_ALL: usize = 512;

/// How long before the server's timeout a connection is closed, so that a request reaches the
/// server before it closes the connection.
const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(1);

/// How often expired connections and those that the server has closed are removed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How long a connection is kept, from the server's `Keep-Alive`. `None` if it is not kept.
pub(super) fn keep_for(keep_alive: Option<Duration>) -> Option<Duration> {
    let until_close =
        keep_alive.map_or(MAX_IDLE, |timeout| timeout.saturating_sub(KEEP_ALIVE_MARGIN));
    Some(until_close.min(MAX_IDLE)).filter(|wait| !wait.is_zero())
}

/// A connection that the pool can keep.
pub(super) trait Connection: Send + 'static {
    /// Whether the connection has nothing to read, not even its end.
    fn is_quiet(&mut self) -> bool;
}

/// The time of both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    at: Instant,
    wall: SystemTime,
}

impl Now {
    pub(super) fn read() -> Self {
        Self { at: Instant::now(), wall: SystemTime::now() }
    }
}

struct Idle<C> {
    connection: C,
    since: Now,
    keep_for: Duration,
}

impl<C: Connection> Idle<C> {
    fn is_expired(&self, now: Now) -> bool {
        // Ignores a wall clock that was set back.
        let by_wall = now.wall.duration_since(self.since.wall).unwrap_or_default();
        now.at.duration_since(self.since.at).max(by_wall) >= self.keep_for
    }

    fn is_usable(&mut self, now: Now) -> bool {
        !self.is_expired(now) && self.connection.is_quiet()
    }
}

/// The idle connections of a process.
pub(super) struct Pool<C = Stream> {
    lists: Arc<Mutex<Lists<C>>>,
}

struct Lists<C> {
    /// The newest is at the back and is reused first.
    by_origin: HashMap<Origin, VecDeque<Idle<C>>>,
    count: usize,
    is_swept: bool,
}

impl<C: Connection> Pool<C> {
    pub(super) fn new() -> Self {
        let lists = Lists { by_origin: HashMap::new(), count: 0, is_swept: false };
        Self { lists: Arc::new(Mutex::new(lists)) }
    }

    /// Takes an idle connection to `origin` that the server has probably not closed.
    pub(super) fn take(&self, origin: &Origin, now: Now) -> Option<C> {
        loop {
            let mut idle = lock(&self.lists).take_latest(origin)?;
            if idle.is_usable(now) {
                return Some(idle.connection);
            }
        }
    }

    /// Adds a connection, and closes the oldest if there are too many. Requires a tokio runtime.
    pub(super) fn keep(&self, origin: Origin, connection: C, keep_for: Duration, now: Now) {
        let mut lists = lock(&self.lists);
        lists.put(origin, Idle { connection, since: now, keep_for });
        if !lists.is_swept {
            lists.is_swept = true;
            tokio::spawn(sweep(Arc::downgrade(&self.lists)));
        }
    }
}

fn lock<C>(lists: &Mutex<Lists<C>>) -> MutexGuard<'_, Lists<C>> {
    lists.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes unusable connections at intervals, until none is left.
async fn sweep<C: Connection>(lists: Weak<Mutex<Lists<C>>>) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        let Some(lists) = lists.upgrade() else { return };
        let mut lists = lock(&lists);
        lists.retain_usable(Now::read());
        if lists.count == 0 {
            lists.is_swept = false;
            return;
        }
    }
}

impl<C: Connection> Lists<C> {
    fn take_latest(&mut self, origin: &Origin) -> Option<Idle<C>> {
        let kept = self.by_origin.get_mut(origin)?;
        let idle = kept.pop_back();
        if kept.is_empty() {
            self.by_origin.remove(origin);
        }
        self.count -= usize::from(idle.is_some());
        idle
    }

    fn put(&mut self, origin: Origin, idle: Idle<C>) {
        if self.count >= MAX_IDLE_IN_ALL {
            let oldest = self
                .by_origin
                .iter()
                .min_by_key(|(_, kept)| kept.front().map(|idle| idle.since.at));
            if let Some(origin) = oldest.map(|(origin, _)| origin.clone()) {
                self.close_oldest(&origin);
            }
        }
        if self.by_origin.get(&origin).is_some_and(|kept| kept.len() >= MAX_IDLE_PER_HOST) {
            self.close_oldest(&origin);
        }
        self.by_origin.entry(origin).or_default().push_back(idle);
        self.count += 1;
    }

    fn close_oldest(&mut self, origin: &Origin) {
        let Some(kept) = self.by_origin.get_mut(origin) else { return };
        self.count -= usize::from(kept.pop_front().is_some());
        if kept.is_empty() {
            self.by_origin.remove(origin);
        }
    }

    fn retain_usable(&mut self, now: Now) {
        self.by_origin.retain(|_, kept| {
            kept.retain_mut(|idle| idle.is_usable(now));
            !kept.is_empty()
        });
        self.count = self.by_origin.values().map(VecDeque::len).sum();
    }
}

impl Connection for Stream {
    fn is_quiet(&mut self) -> bool {
        // Reads TLS messages such as session tickets, which are not a response.
        if let Self::Tls(stream) = self {
            let (mut byte, mut context) = ([0], Context::from_waker(Waker::noop()));
            if Pin::new(&mut **stream)
                .poll_read(&mut context, &mut ReadBuf::new(&mut byte))
                .is_ready()
            {
                return false;
            }
        }
        let socket = match self {
            Self::Tcp(socket) => socket,
            Self::Tls(stream) => stream.get_ref().0,
        };
        has_nothing_to_read(socket)
    }
}

/// Asks the operating system, since the runtime's readiness can be outdated.
fn has_nothing_to_read(socket: &TcpStream) -> bool {
    let peeked = SockRef::from(socket).peek(&mut [MaybeUninit::uninit()]);
    peeked.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use url::Host;

    use super::*;
    use crate::sender::origin::Scheme;

    struct Numbered(u32, bool);

    impl Connection for Numbered {
        fn is_quiet(&mut self) -> bool {
            self.1
        }
    }

    fn origin(name: &str) -> Origin {
        Origin { scheme: Scheme::Https, host: Host::Domain(name.to_owned()), port: 443 }
    }

    fn later(now: Now, monotonic_s: u64, wall_s: u64) -> Now {
        Now {
            at: now.at + Duration::from_secs(monotonic_s),
            wall: now.wall + Duration::from_secs(wall_s),
        }
    }

    fn taken(pool: &Pool<Numbered>, name: &str, now: Now) -> Option<u32> {
        pool.take(&origin(name), now).map(|connection| connection.0)
    }

    #[test]
    fn a_connection_is_closed_a_second_before_the_server_does() {
        let kept = |seconds| keep_for(Some(Duration::from_secs(seconds)));
        assert_eq!(keep_for(None), Some(MAX_IDLE));
        assert_eq!((kept(0), kept(1)), (None, None));
        assert_eq!(kept(2), Some(Duration::from_secs(1)));
        assert_eq!(kept(5), Some(Duration::from_secs(4)));
        assert_eq!(kept(u64::MAX), Some(MAX_IDLE));
    }

    /// The machine slept for an hour: by the monotonic clock the connection is young, and the
    /// server has closed it.
    #[tokio::test]
    async fn either_clock_ends_a_connections_time() {
        let (pool, now, four) = (Pool::new(), Now::read(), Duration::from_secs(4));
        for (monotonic_s, wall_s, expected) in
            [(3, 3, Some(1)), (4, 0, None), (0, 4, None), (0, 3600, None)]
        {
            pool.keep(origin("a"), Numbered(1, true), four, now);
            assert_eq!(
                taken(&pool, "a", later(now, monotonic_s, wall_s)),
                expected,
                "{monotonic_s} s, {wall_s} s"
            );
        }
        pool.keep(origin("a"), Numbered(1, true), four, later(now, 0, 3600));
        assert_eq!(taken(&pool, "a", now), Some(1), "a clock that was set back says nothing");
        assert_eq!(lock(&pool.lists).count, 0);
    }

    #[tokio::test]
    async fn the_newest_is_reused_first_and_for_its_origin_only() {
        let (pool, now) = (Pool::new(), Now::read());
        for (number, name, is_quiet) in
            [(1, "a", true), (2, "a", true), (3, "a", false), (4, "b", true)]
        {
            pool.keep(origin(name), Numbered(number, is_quiet), MAX_IDLE, now);
        }
        assert_eq!(taken(&pool, "a", now), Some(2), "3 was closed by the server");
        assert_eq!((taken(&pool, "a", now), taken(&pool, "a", now)), (Some(1), None));
        let other_scheme = Origin { scheme: Scheme::Http, ..origin("b") };
        let other_port = Origin { port: 8443, ..origin("b") };
        assert!(pool.take(&other_scheme, now).is_none() && pool.take(&other_port, now).is_none());
        assert_eq!(taken(&pool, "b", now), Some(4));
        assert!(lock(&pool.lists).by_origin.is_empty());
    }

    #[tokio::test]
    async fn the_oldest_is_closed_when_there_are_too_many() {
        let (pool, now) = (Pool::new(), Now::read());
        let host = MAX_IDLE_PER_HOST as u32;
        (0..host + 2)
            .for_each(|number| pool.keep(origin("a"), Numbered(number, true), MAX_IDLE, now));
        assert_eq!(lock(&pool.lists).count, MAX_IDLE_PER_HOST);
        for number in 0..MAX_IDLE_IN_ALL as u32 {
            pool.keep(
                origin(&number.to_string()),
                Numbered(number, true),
                MAX_IDLE,
                later(now, 1, 1),
            );
        }
        assert_eq!(lock(&pool.lists).count, MAX_IDLE_IN_ALL);
        assert_eq!(taken(&pool, "a", now), None, "they were the oldest");
        assert_eq!(taken(&pool, "0", now), Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn unusable_connections_are_closed_in_the_background() {
        let pool = Pool::new();
        pool.keep(origin("a"), Numbered(1, true), Duration::from_secs(4), Now::read());
        pool.keep(origin("a"), Numbered(2, false), Duration::from_secs(4), Now::read());
        let count = || lock(&pool.lists).count;
        assert_eq!(count(), 2);
        tokio::time::sleep(SWEEP_INTERVAL * 3 / 2).await;
        assert_eq!(count(), 1, "one was closed by the server");
        tokio::time::sleep(SWEEP_INTERVAL * 4).await;
        assert_eq!((count(), lock(&pool.lists).is_swept), (0, false));
    }
}
