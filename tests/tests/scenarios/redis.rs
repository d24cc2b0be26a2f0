//! The local stack on a Redis server of its own: the whole life of webhooks, crashes of the stack, and outages of the server.

use std::{sync::Arc, time::Duration};

use posthaste_tests::{client::ApiClient, receiver::Receiver, redis_server::RedisServer, stack::Launch};
use serde_json::json;
use shared::{clock::SystemClock, config::RedisUrl, queue::redis::RedisQueue, redis::Connection, store::redis::RedisStore};

use crate::{
    crash::{assert_explained, crash_under_load},
    ledger, life,
    outage::{Clients, wait_for_more},
};

const BOUND: Duration = Duration::from_secs(60);

const CRASHES: u32 = 3;

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
    let launch = launch(&server);
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let health: serde_json::Value = api.health().await.unwrap().expect(http::StatusCode::OK).unwrap();
    assert_eq!(health["store"], json!({"status": "healthy", "backend": "redis"}));
    assert_eq!((&health["status"], &health["queue"]["backend"]), (&json!("healthy"), &json!("redis")));
    life::live(&api, BOUND).await;
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

/// A server that hangs, or dies and comes back with what it has on disk, costs refusals and delays, and nothing that was answered with a
/// 202. Proved under load: refusals are 503, it goes on by itself once the server is back, and everything accepted is delivered.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_server_hangs_or_dies() {
    let mut server = RedisServer::durable().unwrap();
    let receiver = Receiver::start().await.unwrap();
    let launch = launch(&server);
    let stack = launch.start().unwrap();
    let clients = Clients::start(&stack.url(), &receiver.url("/x"), &[503]);
    let seen = Arc::clone(&clients.seen);
    wait_for_more("before", &seen.accepted, 50).await;
    server.pause().unwrap();
    wait_for_more("refused while it hangs", &seen.refused, 1).await;
    server.resume().unwrap();
    wait_for_more("after it hung", &seen.accepted, 50).await;
    server.crash_and_restart().unwrap();
    wait_for_more("after it died", &seen.accepted, 50).await;
    let accepted = clients.stop().await;
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let ledger = ledger::settle(&api, &accepted, BOUND).await;
    assert_eq!(ledger.statuses, [("delivered".to_owned(), accepted.len())].into());
    let (store, queue) = backends(&server);
    ledger::close_on(&api, stack, &store, &queue).await;
}
