//! Tests with a replacement for the system call that blocks a real thread, like an unresponsive
//! name server.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    task::Poll,
};

use futures_util::{FutureExt, future::join_all};

use super::*;

/// The limit for a call that returns at once. It is long, since the machine can be busy. Whether
/// the lookup waits before its call does not depend on it.
const SOON: Duration = Duration::from_secs(20);

/// Lookups of names that end in `.dead` or begin with `dead-…` block until they are released.
struct Servers {
    lookup: SystemLookup,
    asked: Arc<AtomicUsize>,
    blocked: Arc<AtomicUsize>,
    let_go: Option<watch::Sender<bool>>,
}

impl Servers {
    fn start() -> Self {
        let (asked, blocked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (let_go, held) = watch::channel(false);
        let ask = {
            let (asked, blocked) = (Arc::clone(&asked), Arc::clone(&blocked));
            move |host: &str| {
                asked.fetch_add(1, Ordering::SeqCst);
                if host.contains("dead") {
                    blocked.fetch_add(1, Ordering::SeqCst);
                    let mut held = held.clone();
                    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
                    let _ = runtime.block_on(held.wait_for(|go| *go));
                    return Err(io::Error::other("temporary failure in name resolution"));
                }
                if host.starts_with("none") {
                    return Err(io::Error::other("no such name"));
                }
                Ok(vec![IpAddr::from([127, 0, 0, 1])])
            }
        };
        Self { lookup: SystemLookup::asking(ask), asked, blocked, let_go: Some(let_go) }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Starts lookups of these names.
    fn begin(&self, hosts: impl Iterator<Item = String>) {
        for host in hosts {
            let lookup = self.lookup.clone();
            tokio::spawn(async move { lookup.lookup(&host).await });
        }
    }

    async fn blocked(&self, count: usize) {
        let reached = async {
            while self.blocked.load(Ordering::SeqCst) < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(20), reached).await.expect("so many calls are under way");
    }

    async fn kind(&self, host: &str) -> Result<usize, io::ErrorKind> {
        self.lookup.lookup(host).await.map(|found| found.len()).map_err(|error| error.kind())
    }

    /// The same of a lookup that has to start its call without a wait: in its first poll.
    async fn kind_at_once(&self, host: &str) -> Result<usize, io::ErrorKind> {
        let mut lookup = Box::pin(self.kind(host));
        let first = futures_util::poll!(&mut lookup);
        let is_fresh = |(at, _): &(Instant, LookupResult)| at.elapsed() < FAILURE_AGE;
        let has_started = {
            let names = self.lookup.shared.names();
            names.running.contains_key(host) || names.cache.get(host).is_some_and(is_fresh)
        };
        assert!(has_started, "{host} waits for a free call: {first:?}");
        match first {
            Poll::Ready(found) => found,
            Poll::Pending => timeout(SOON, lookup).await.expect("its call returns at once"),
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // Otherwise the threads would never end.
        self.let_go.take().unwrap().send_replace(true);
    }
}

#[tokio::test]
async fn an_unresponsive_zone_delays_no_other() {
    let servers = Servers::start();
    servers.begin((0..500).map(|n| format!("n{n}.dead.example")));
    servers.blocked(MAX_PER_ZONE).await;
    for host in ["hooks.example.com", "other.test", "localhost"] {
        assert_eq!(servers.kind_at_once(host).await, Ok(1), "{host}");
    }
    assert_eq!(servers.blocked.load(Ordering::SeqCst), MAX_PER_ZONE, "and no thread more");
}

#[tokio::test]
async fn a_lookup_without_a_free_call_returns_would_block() {
    let servers = Servers::start();
    servers.begin((0..MAX_PER_ZONE).map(|n| format!("n{n}.dead.example")));
    servers.blocked(MAX_PER_ZONE).await;
    let first = Instant::now();
    assert_eq!(servers.kind("fresh.dead.example").await, Err(io::ErrorKind::WouldBlock));
    // A second, and not the time limit of a lookup.
    assert!(first.elapsed() < LOOKUP_TIMEOUT, "it waits for {:?}", first.elapsed());
    let asked = servers.asked();
    // All blocking calls are older than a second now.
    let again = servers.kind("other.dead.example").now_or_never().expect("it does not wait");
    assert_eq!((again, servers.asked()), (Err(io::ErrorKind::WouldBlock), asked));
}

#[tokio::test]
async fn known_names_have_reserved_calls() {
    let servers = Servers::start();
    assert_eq!(servers.kind("well.example.com").await, Ok(1));
    servers.begin((0..MAX_NEW).map(|n| format!("n{n}.dead{}.example", n / MAX_PER_ZONE)));
    servers.begin((0..MAX_NEW * 2).map(|n| format!("x{n}.dead{}.test", n / MAX_PER_ZONE)));
    servers.blocked(MAX_NEW).await;
    servers.expire_cache();
    let asked = servers.asked();
    let found = servers.kind_at_once("well.example.com").await;
    assert_eq!((found, servers.asked()), (Ok(1), asked + 1));
    assert_eq!(
        servers.kind("new.example.net").await,
        Err(io::ErrorKind::WouldBlock),
        "there is no room for others"
    );
    assert_eq!(servers.blocked.load(Ordering::SeqCst), MAX_NEW);
}

impl Servers {
    /// Ages all results past their validity, but not past the time for which a name is known.
    fn expire_cache(&self) {
        let mut names = self.lookup.shared.names();
        let (_, answer) = names.cache.get("well.example.com").unwrap().clone();
        let before = Instant::now().checked_sub(2 * FAILURE_AGE).unwrap();
        names.cache.insert("well.example.com", (before, answer));
    }
}

#[tokio::test]
async fn lookups_of_one_name_share_a_call_and_time_out() {
    let servers = Servers::start();
    let began = Instant::now();
    let all = join_all((0..50).map(|_| servers.kind("dead.example.com"))).await;
    assert!(all.iter().all(|found| *found == Err(io::ErrorKind::TimedOut)), "{all:?}");
    assert!(began.elapsed() < 3 * LOOKUP_TIMEOUT);
    assert_eq!(servers.asked(), 1);
    // Its call is still under way. Another one would block until the time limit of a lookup.
    let again = timeout(LOOKUP_TIMEOUT * 3 / 4, servers.kind("dead.example.com")).await;
    assert_eq!((again, servers.asked()), (Ok(Err(io::ErrorKind::TimedOut)), 1));
}

#[tokio::test]
async fn results_and_failures_are_cached_for_a_while() {
    let servers = Servers::start();
    for _ in 0..5 {
        assert_eq!(servers.kind("none.example.com").await, Err(io::ErrorKind::Other));
    }
    assert_eq!(servers.asked(), 1);
    assert_eq!(servers.kind("well.example.com").await, Ok(1));
    servers.expire_cache();
    assert_eq!(servers.kind("well.example.com").await, Ok(1));
    assert_eq!(servers.asked(), 3, "an answer does not count for long");
}

#[tokio::test]
async fn a_panicking_call_frees_its_place() {
    let lookup = SystemLookup::asking(|_| panic!("as the test says"));
    assert!(lookup.lookup("any.example").await.is_err());
    assert!(lookup.shared.names().running.is_empty());
}

/// An error of this machine is not cached for the name.
#[tokio::test]
async fn an_os_error_is_not_cached() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let lookup = SystemLookup::asking(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        Err(io::Error::from_raw_os_error(24))
    });
    for _ in 0..2 {
        assert_eq!(lookup.lookup("any.example").await.unwrap_err().raw_os_error(), Some(24));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[test]
fn zones() {
    for (host, expected) in [
        ("localhost", "localhost"),
        ("a.localhost", "a.localhost"),
        ("example.com", "example.com"),
        ("A.b.Example.com.", "example.com"),
        ("a.b.example.co.uk", "example.co.uk"),
        ("example.co.uk", "example.co.uk"),
        ("x.receiver.io", "receiver.io"),
    ] {
        assert_eq!(zone(host), expected, "{host}");
    }
}

/// Uses the hosts file of this machine, and no name server.
#[tokio::test]
async fn the_system_knows_localhost() {
    let found = SystemLookup::new().lookup("localhost").await.unwrap();
    assert!(!found.is_empty() && found.iter().all(IpAddr::is_loopback), "{found:?}");
    assert_eq!(
        SystemLookup::new().lookup("::1").await.unwrap(),
        ["::1".parse::<IpAddr>().unwrap()]
    );
}
