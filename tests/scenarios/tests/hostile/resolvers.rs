//! Hostile resolvers: the sender opens no connection to a refused address that a name resolves to.
//! A listener on loopback, on both address families, counts connections.
//!
//! The resolvers are part of the test. The test contacts no outside resolver and no outside
//! address.

use std::{
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use harness::receiver::Receiver;
use shared::{
    clock::{Clock, SystemClock, Timestamp},
    config::{Config, Defaults},
    context::{Backends, DataDirMode},
    id::WebhookId,
    model::ErrorKind,
    sender::{
        AddressGuard, Answer, GuardSettings, HttpSender, Lookup, Request, Sender, SenderConfig,
        SystemLookup, lookup,
    },
};
use tokio::time::timeout;

use crate::listener::Listener;

const AMPLE: Duration = Duration::from_secs(20);

/// Private addresses by class, as a name's records may contain them.
const INSIDE: [(&str, &[&str]); 14] = [
    ("loopback", &["127.0.0.1", "127.0.0.2", "127.255.255.254", "::1"]),
    (
        "loopback within IPv6",
        &["::ffff:127.0.0.1", "::ffff:7f00:1", "::127.0.0.1", "::ffff:0:7f00:1"],
    ),
    ("unspecified", &["0.0.0.0", "::", "::ffff:0.0.0.0", "0.1.2.3"]),
    (
        "private",
        &[
            "10.0.0.1",
            "10.255.255.255",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "192.168.255.255",
        ],
    ),
    ("private IPv6", &["fc00::1", "fdff::1", "fec0::1", "::ffff:10.0.0.1", "::ffff:192.168.0.1"]),
    (
        "link-local",
        &[
            "169.254.169.254",
            "169.254.0.1",
            "fe80::1",
            "fe80::5efe:127.0.0.1",
            "::ffff:169.254.169.254",
        ],
    ),
    (
        "metadata",
        &["168.63.129.16", "fd00:ec2::254", "100.100.100.200", "169.254.170.2", "192.0.0.192"],
    ),
    ("carrier-grade NAT", &["100.64.0.1", "100.127.255.255", "::ffff:100.64.0.1"]),
    ("NAT64", &["64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::7f00:1", "64:ff9b::808:808"]),
    ("6to4 and Teredo", &["2002:7f00:1::1", "2002:a00:1::", "2001:0:7f00:1::", "2001::1"]),
    (
        "ISATAP",
        &["2606:4700::5efe:7f00:1", "2606:4700::200:5efe:a00:1", "2606:4700::5efe:a9fe:a9fe"],
    ),
    (
        "multicast and broadcast",
        &["224.0.0.1", "239.255.255.255", "255.255.255.255", "ff02::1", "ff0e::1"],
    ),
    (
        "documentation and benchmarking",
        &["192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.0.1", "2001:db8::1", "3fff::1"],
    ),
    (
        "reserved",
        &["240.0.0.1", "192.0.0.1", "192.88.99.1", "100::1", "4000::1", "1::1", "5f00::1"],
    ),
];

/// A resolver that returns these answers in order, and repeats the last one.
#[derive(Debug)]
struct InTurn {
    answers: Vec<Vec<IpAddr>>,
    asked: AtomicUsize,
    /// The delay before the first result.
    first_after: Duration,
}

impl InTurn {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        let parse =
            |answer: &&[&str]| answer.iter().map(|address| address.parse().unwrap()).collect();
        Arc::new(Self {
            answers: answers.iter().map(parse).collect(),
            asked: AtomicUsize::new(0),
            first_after: Duration::ZERO,
        })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Lookup for InTurn {
    async fn lookup(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        let turn = self.asked.fetch_add(1, Ordering::SeqCst);
        if turn == 0 {
            let start = Instant::now();
            while start.elapsed() < self.first_after {
                std::hint::spin_loop();
            }
            tokio::task::yield_now().await;
        }
        Ok(self.answers[turn.min(self.answers.len() - 1)].clone())
    }
}

fn sender(lookup: Arc<dyn Lookup>) -> HttpSender {
    guarded(GuardSettings::default(), lookup)
}

fn guarded(settings: GuardSettings, lookup: Arc<dyn Lookup>) -> HttpSender {
    let guard = AddressGuard::new(settings).unwrap();
    let mut config = SenderConfig::new(Vec::new(), Arc::new(guard));
    config.lookup = lookup;
    HttpSender::new(config).unwrap()
}

async fn send(sender: &HttpSender, url: &str, deadline: Duration) -> Answer {
    let webhook_id: WebhookId = "order_17_01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
    let request = Request {
        url,
        headers: &[],
        payload: Bytes::from_static(b"{}"),
        webhook_id: &webhook_id,
        secrets: None,
        correlation_id: "cor-1",
        event_type: None,
        attempt: 1,
        timestamp: Timestamp::from_millis(1_700_000_000_000),
    };
    sender.send(&request, deadline).await
}

/// Names in public zones that resolve to private addresses, as in wildcard zones. The test uses
/// each address alone, and all addresses of a class together.
#[tokio::test]
async fn no_name_of_a_private_address_gets_a_connection() {
    let _turn = crate::turn().await;
    let listener = Listener::start().await;
    for (class, addresses) in INSIDE {
        for answer in addresses.iter().map(std::slice::from_ref).chain([addresses]) {
            let lookup = InTurn::new(&[answer]);
            let sender = sender(Arc::clone(&lookup) as _);
            for url in [
                "http://127.0.0.1.wildcard.example:PORT/",
                "https://7f000001.rebind.example:PORT/",
                "http://a.example.:PORT/",
            ] {
                let url = url.replace("PORT", &listener.port.to_string());
                let sent = send(&sender, &url, AMPLE).await;
                assert_eq!(
                    sent.error,
                    Some(ErrorKind::RefusedAddress),
                    "{class}: {answer:?}: {sent:?}"
                );
                let message = sent.message.unwrap();
                assert!(
                    !answer.iter().any(|address| address.len() > 3 && message.contains(address)),
                    "an address is shown: {message}"
                );
            }
            assert_eq!(lookup.asked(), 3, "each attempt does one lookup");
        }
    }
    listener.assert_no_connection().await;
}

/// DNS rebinding: a public address first and then a private one. The sender checks each attempt's
/// lookup again. The first attempt's deadline passes during its lookup, so it opens no connection.
#[tokio::test]
async fn a_changed_answer_is_checked_again() {
    const DEADLINE: Duration = Duration::from_millis(50);
    let _turn = crate::turn().await;
    for inside in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
        let listener = Listener::start().await;
        let lookup = Arc::into_inner(InTurn::new(&[&["8.8.8.8"], &[inside]])).unwrap();
        let lookup = Arc::new(InTurn { first_after: 2 * DEADLINE, ..lookup });
        let sender = sender(Arc::clone(&lookup) as _);
        let url = format!("http://hooks.example:{}/", listener.port);
        assert_eq!(send(&sender, &url, DEADLINE).await.error, Some(ErrorKind::Timeout));
        for again in 2..=4 {
            assert_eq!(
                send(&sender, &url, AMPLE).await.error,
                Some(ErrorKind::RefusedAddress),
                "{inside}"
            );
            assert_eq!(lookup.asked(), again, "each attempt does one lookup");
        }
        listener.assert_no_connection().await;
    }
}

/// The zone of a silent name server.
const DEAD_ZONE: &str = ".dead.example";

/// The number of attempts, each at another name in that zone.
const DEAD_NAMES: usize = 200;

/// Resolves all names outside the dead zone. Lookups in the dead zone block their threads until
/// `let_go`, as in the system's resolver. `held` counts the blocked threads.
fn name_servers(held: &Arc<AtomicUsize>, let_go: &Arc<AtomicBool>) -> SystemLookup {
    let (held, let_go) = (Arc::clone(held), Arc::clone(let_go));
    SystemLookup::asking(move |host| {
        if host.ends_with(DEAD_ZONE) {
            held.fetch_add(1, Ordering::SeqCst);
            while !let_go.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
            }
            return Err(io::Error::other("temporary failure in name resolution"));
        }
        Ok(vec![IpAddr::from([127, 0, 0, 1])])
    })
}

/// Releases the threads when it is dropped, because the runtime waits for them even if a test
/// fails.
struct LetGo(Arc<AtomicBool>);

impl Drop for LetGo {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A silent name server blocks only threads that neither the store nor lookups of other names need.
/// tokio has one blocking thread here, which a single lookup would block.
#[test]
fn a_silent_name_server_blocks_neither_the_store_nor_other_names() {
    let _turn = crate::turn_blocking();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(1)
        .enable_all()
        .build();
    let (held, let_go) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let answers = runtime.unwrap().block_on(beside_a_dead_zone(&held, &let_go));
    let timed_out =
        answers.iter().filter(|answer| answer.error == Some(ErrorKind::Timeout)).count();
    let not_asked = answers.iter().filter(|answer| answer.is_our_fault).count();
    assert_eq!(
        (timed_out, not_asked),
        (lookup::MAX_PER_ZONE, DEAD_NAMES - lookup::MAX_PER_ZONE),
        "{answers:?}"
    );
    assert_eq!(held.load(Ordering::SeqCst), lookup::MAX_PER_ZONE, "a rejected lookup was started");
}

/// The results of the attempts in the dead zone.
async fn beside_a_dead_zone(held: &Arc<AtomicUsize>, let_go: &Arc<AtomicBool>) -> Vec<Answer> {
    let _let_go = LetGo(Arc::clone(let_go));
    let folder = tempfile::tempdir().unwrap();
    let embedded = |name: &str| {
        matches!(name, "STATUS_BACKEND" | "QUEUE_BACKEND").then(|| "sqlite".to_owned())
    };
    let mut config = Config::from_source(Defaults::LOCAL, embedded).unwrap();
    folder.path().clone_into(&mut config.data_dir);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let store = Backends::open(&config, &clock, DataDirMode::Shared).unwrap().store().clone();
    let receiver = Receiver::start().await.unwrap();
    let lookup = Arc::new(name_servers(held, let_go));
    let sender = Arc::new(guarded(
        GuardSettings { allow_private: true, ..GuardSettings::default() },
        lookup,
    ));

    let dead = join_all((0..DEAD_NAMES).map(|n| {
        let (sender, url) = (Arc::clone(&sender), format!("http://n{n}{DEAD_ZONE}/"));
        tokio::spawn(async move { send(&sender, &url, AMPLE).await })
    }));
    let all_held = async {
        while held.load(Ordering::SeqCst) < lookup::MAX_PER_ZONE {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(AMPLE, all_held).await.expect("the names are looked up");

    let webhook_id: WebhookId = "order_17_01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
    let read = timeout(AMPLE, store.get(&webhook_id)).await.expect("the store reads");
    assert!(read.unwrap().is_none());
    let url = format!("http://well.example.net:{}/", receiver.address().port());
    let answer =
        timeout(AMPLE, send(&sender, &url, AMPLE)).await.expect("another name is looked up");
    assert_eq!(answer.status_code, Some(200), "{answer:?}");

    timeout(AMPLE, dead)
        .await
        .expect("the attempts end by themselves")
        .into_iter()
        .map(Result::unwrap)
        .collect()
}
