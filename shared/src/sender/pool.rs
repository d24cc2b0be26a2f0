//! Connections that are kept for the next request to the same origin.
//!
//! A kept connection is used again only while the server keeps it too, as far as that can be known:
//! not after the time that its `Keep-Alive: timeout=N` names, less a second, nor after
//! [`MAX_IDLE`], by the monotonic clock or by the one on the wall (the former stands still while a
//! machine sleeps); and not if the system has anything to read on it, which is the server's close,
//! or a response that nobody asked for. What cannot be known is a close that is under way at the
//! moment of the next request.

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

use super::{
    MAX_IDLE, MAX_IDLE_PER_HOST,
    connect::{Origin, Stream},
};

/// Unused connections kept in all. One more closes the oldest. Half of the 1,024 files that a
/// process may open on many systems.
pub const MAX_IDLE_IN_ALL: usize = 512;

/// How much sooner than the server says a connection is given up: the next request must reach it
/// before it closes.
const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(1);

/// How often connections are closed whose time is over, or that the server has closed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How long a connection may be kept, by what the server said; `None`: not at all.
pub(super) fn keep_for(keep_alive: Option<Duration>) -> Option<Duration> {
    let until_close =
        keep_alive.map_or(MAX_IDLE, |timeout| timeout.saturating_sub(KEEP_ALIVE_MARGIN));
    Some(until_close.min(MAX_IDLE)).filter(|wait| !wait.is_zero())
}

/// What can be kept.
pub(super) trait Connection: Send + 'static {
    /// Whether there is nothing to read on it, not even its end.
    fn is_quiet(&mut self) -> bool;
}

/// A time by both clocks.
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
        // A clock that was set back says nothing.
        let by_wall = now.wall.duration_since(self.since.wall).unwrap_or_default();
        now.at.duration_since(self.since.at).max(by_wall) >= self.keep_for
    }

    fn is_usable(&mut self, now: Now) -> bool {
        !self.is_expired(now) && self.connection.is_quiet()
    }
}

/// The kept connections of a process.
pub(super) struct Pool<C = Stream> {
    shelves: Arc<Mutex<Shelves<C>>>,
}

struct Shelves<C> {
    /// The latest at the back, which is the one that serves next.
    by_origin: HashMap<Origin, VecDeque<Idle<C>>>,
    count: usize,
    is_swept: bool,
}

impl<C: Connection> Pool<C> {
    pub(super) fn new() -> Self {
        let shelves = Shelves { by_origin: HashMap::new(), count: 0, is_swept: false };
        Self { shelves: Arc::new(Mutex::new(shelves)) }
    }

    /// A connection to `origin` that was open a moment ago.
    pub(super) fn take(&self, origin: &Origin, now: Now) -> Option<C> {
        loop {
            let mut idle = lock(&self.shelves).take_latest(origin)?;
            if idle.is_usable(now) {
                return Some(idle.connection);
            }
        }
    }

    /// Keeps a connection, and closes the oldest if there are too many. Call it within a tokio
    /// runtime.
    pub(super) fn keep(&self, origin: Origin, connection: C, keep_for: Duration, now: Now) {
        let mut shelves = lock(&self.shelves);
        shelves.put(origin, Idle { connection, since: now, keep_for });
        if !shelves.is_swept {
            shelves.is_swept = true;
            tokio::spawn(sweep(Arc::downgrade(&self.shelves)));
        }
    }
}

fn lock<C>(shelves: &Mutex<Shelves<C>>) -> MutexGuard<'_, Shelves<C>> {
    shelves.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes what is of no use any more, until nothing is left.
async fn sweep<C: Connection>(shelves: Weak<Mutex<Shelves<C>>>) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        let Some(shelves) = shelves.upgrade() else { return };
        let mut shelves = lock(&shelves);
        shelves.retain_usable(Now::read());
        if shelves.count == 0 {
            shelves.is_swept = false;
            return;
        }
    }
}

impl<C: Connection> Shelves<C> {
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
        // TLS has messages of its own (tickets for the next session), which are read here and are
        // not the server's response.
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

/// Asks the system itself: what the runtime knows of a socket is from when it last looked.
fn has_nothing_to_read(socket: &TcpStream) -> bool {
    let peeked = SockRef::from(socket).peek(&mut [MaybeUninit::uninit()]);
    peeked.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use url::Host;

    use super::*;
    use crate::sender::connect::Scheme;

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
    fn a_server_is_left_a_second_before_it_closes() {
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
        assert_eq!(lock(&pool.shelves).count, 0);
    }

    #[tokio::test]
    async fn the_latest_serves_first_and_only_its_own_origin() {
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
        assert!(lock(&pool.shelves).by_origin.is_empty());
    }

    #[tokio::test]
    async fn the_oldest_is_closed_when_there_are_too_many() {
        let (pool, now) = (Pool::new(), Now::read());
        let host = MAX_IDLE_PER_HOST as u32;
        (0..host + 2)
            .for_each(|number| pool.keep(origin("a"), Numbered(number, true), MAX_IDLE, now));
        assert_eq!(lock(&pool.shelves).count, MAX_IDLE_PER_HOST);
        for number in 0..MAX_IDLE_IN_ALL as u32 {
            pool.keep(
                origin(&number.to_string()),
                Numbered(number, true),
                MAX_IDLE,
                later(now, 1, 1),
            );
        }
        assert_eq!(lock(&pool.shelves).count, MAX_IDLE_IN_ALL);
        assert_eq!(taken(&pool, "a", now), None, "they were the oldest");
        assert_eq!(taken(&pool, "0", now), Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_of_no_use_is_closed_without_being_asked_for() {
        let pool = Pool::new();
        pool.keep(origin("a"), Numbered(1, true), Duration::from_secs(4), Now::read());
        pool.keep(origin("a"), Numbered(2, false), Duration::from_secs(4), Now::read());
        let count = || lock(&pool.shelves).count;
        assert_eq!(count(), 2);
        tokio::time::sleep(SWEEP_INTERVAL * 3 / 2).await;
        assert_eq!(count(), 1, "one was closed by the server");
        tokio::time::sleep(SWEEP_INTERVAL * 4).await;
        assert_eq!((count(), lock(&pool.shelves).is_swept), (0, false));
    }
}
