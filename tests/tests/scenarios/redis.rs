//! The local stack on a Redis server of its own: the whole life of webhooks, crashes of the stack, and outages of the server.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use posthaste_tests::{
    client::ApiClient,
    receiver::{Receiver, Reply},
    redis_server::RedisServer,
    stack::Launch,
};
use serde_json::json;
use shared::{clock::SystemClock, config::RedisUrl, queue::redis::RedisQueue, redis::Connection, store::redis::RedisStore};
use tokio::time::{Instant, sleep};

use crate::{
    crash::{assert_explained, crash_under_load},
    ledger,
};

const BOUND: Duration = Duration::from_secs(60);

const CRASHES: u32 = 3;

const CLIENTS: usize = 8;

/// A stack on the server, with short times. Nobody can know that nobody else is at work there, so leases run their course, and hidden
/// messages come back after six function timeouts of four thirds of a lease each: 8 s.
fn launch(server: &RedisServer) -> Launch {
    [
        ("STATUS_BACKEND", "redis"),
        ("QUEUE_BACKEND", "redis"),
        ("REDIS_HOST", "127.0.0.1"),
        ("REDIS_PORT", &server.port().to_string()),
        ("DELIVERY_TIMEOUT_MS", "600"),
        ("LEASE_MS", "1000"),
        ("RETRY_BASE_DELAY_MS", "50"),
        ("CIRCUIT_FAILURES", "0"),
        ("RUST_LOG", "warn"),
    ]
    .into_iter()
    .fold(Launch::fresh().unwrap(), |launch, (variable, value)| launch.set(variable, value))
}

/// Store and queue as the stack has them, to look for what is left.
fn backends(server: &RedisServer) -> (RedisStore, RedisQueue) {
    let connect = |database, part| Connection::new(&RedisUrl::parse(&server.url(database)).unwrap(), "posthaste", part).unwrap();
    let clock = Arc::new(SystemClock);
    (RedisStore::new(connect(2, "status"), Arc::clone(&clock) as _), RedisQueue::new(connect(1, "queue"), clock))
}

/// Every way that a webhook can take works on Redis: delivered at once, delivered at a retry, failed and redriven. Proved by one of each
/// against a receiver that changes its mind, and by health, which tells the two databases apart and finds nothing wrong.
#[tokio::test(flavor = "multi_thread")]
async fn delivery_retry_dead_letter_and_redrive() {
    let server = RedisServer::durable().unwrap();
    let receiver = Receiver::builder().script(|request| match (request.uri.path(), request.attempt()) {
        ("/at-once", _) | ("/retry", Some(2..)) | ("/redrive", Some(4..)) => Reply::status(200),
        _ => Reply::status(503),
    });
    let receiver = receiver.start().await.unwrap();
    let launch = launch(&server);
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let health: serde_json::Value = api.health().await.unwrap().expect(http::StatusCode::OK).unwrap();
    assert_eq!(health["store"], json!({"status": "healthy", "backend": "redis"}));
    assert_eq!((&health["status"], &health["queue"]["backend"]), (&json!("healthy"), &json!("redis")));
    let mut ids = Vec::new();
    for path in ["/at-once", "/retry", "/redrive"] {
        ids.push(api.test_webhook(&receiver.url(path), &json!({"path": path})).await.unwrap().webhook_id);
    }
    let statuses = ledger::settle(&api, &ids, BOUND).await.statuses;
    assert_eq!(statuses, [("delivered".to_owned(), 2), ("failed".to_owned(), 1)].into());
    let letter = api.dead_letter(&ids[2]).await.unwrap().unwrap();
    assert_eq!((letter.attempt_count, letter.payload), (3, Some(json!({"path": "/redrive"}))));
    api.redrive(&ids[2]).await.unwrap();
    assert_eq!(ledger::settle(&api, &ids, BOUND).await.statuses, [("delivered".to_owned(), 3)].into());
    for (id, attempts) in ids.iter().zip([1, 2, 4]) {
        assert_eq!(api.webhook(id).await.unwrap().attempt_count, attempts, "{id}");
    }
    let (store, queue) = backends(&server);
    ledger::close_on(&api, stack, &store, &queue).await;
}

/// `kill -9` of the stack under load loses nothing that was answered with a 202, and what comes twice is explained. Proved by crashes at
/// random moments; what the last one interrupted goes on once leases and visibility timeouts have run out. What was created and not yet
/// queued had no 202, and waits for the audit.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_stack_is_killed() {
    let server = RedisServer::start().unwrap();
    let receiver = Receiver::start().await.unwrap();
    let launch = launch(&server);
    let accepted = crash_under_load(&launch, &receiver, CRASHES).await;
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let ledger = ledger::settle(&api, &accepted, BOUND).await;
    assert_eq!(ledger.statuses, [("delivered".to_owned(), accepted.len())].into());
    assert_explained(&receiver, &accepted, &ledger);
    let (store, queue) = backends(&server);
    ledger::close_on(&api, stack, &store, &queue).await;
}

/// What the clients of an outage have seen.
#[derive(Debug, Default)]
struct Seen {
    accepted: AtomicUsize,
    refused: AtomicUsize,
    stopping: AtomicBool,
}

/// Posts until it is told to stop, through refusals: the ids of what was answered with a 202.
async fn post_through(api_url: String, receiver_url: String, seen: Arc<Seen>) -> Vec<String> {
    let api = ApiClient::new(&api_url, None).unwrap();
    let mut accepted = Vec::new();
    while !seen.stopping.load(Ordering::SeqCst) {
        match api.test_webhook(&receiver_url, &json!({})).await {
            Ok(answer) => {
                accepted.push(answer.webhook_id);
                seen.accepted.fetch_add(1, Ordering::SeqCst);
            }
            Err(error) => {
                assert!(error.status().is_some_and(|status| status == 503), "{error}");
                seen.refused.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
    accepted
}

async fn wait_for_more(what: &str, count: &AtomicUsize, more: usize) {
    let (started, before) = (Instant::now(), count.load(Ordering::SeqCst));
    while count.load(Ordering::SeqCst) < before + more {
        assert!(started.elapsed() < BOUND, "{what}: none within {BOUND:?}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// A server that hangs, or dies and comes back with what it has on disk, costs refusals and delays, and nothing that was answered with a
/// 202. Proved under load: refusals are 503, it goes on by itself once the server is back, and everything accepted is delivered.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_server_hangs_or_dies() {
    let mut server = RedisServer::durable().unwrap();
    let receiver = Receiver::start().await.unwrap();
    let launch = launch(&server);
    let stack = launch.start().unwrap();
    let seen = Arc::new(Seen::default());
    let post = || tokio::spawn(post_through(stack.url(), receiver.url("/x"), Arc::clone(&seen)));
    let clients: Vec<_> = (0..CLIENTS).map(|_| post()).collect();
    wait_for_more("before", &seen.accepted, 50).await;
    server.pause().unwrap();
    wait_for_more("refused while it hangs", &seen.refused, 1).await;
    server.resume().unwrap();
    wait_for_more("after it hung", &seen.accepted, 50).await;
    server.crash_and_restart().unwrap();
    wait_for_more("after it died", &seen.accepted, 50).await;
    seen.stopping.store(true, Ordering::SeqCst);
    let mut accepted = Vec::new();
    for client in clients {
        accepted.extend(client.await.unwrap());
    }
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let ledger = ledger::settle(&api, &accepted, BOUND).await;
    assert_eq!(ledger.statuses, [("delivered".to_owned(), accepted.len())].into());
    let (store, queue) = backends(&server);
    ledger::close_on(&api, stack, &store, &queue).await;
}
