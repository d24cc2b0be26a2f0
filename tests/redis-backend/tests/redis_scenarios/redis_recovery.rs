//! A process on Redis that is gone, or does not run: another one goes on with what it held, long
//! before leases and visibility timeouts end.

use std::time::Duration;

use harness::{
    client::ApiClient,
    ledger,
    receiver::{Receiver, Reply},
    redis_server::{RedisCluster, RedisServer},
    stack::Stack,
};
use redis::cmd;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::redis::{BOUND, Parts};

/// A message that nobody takes over is hidden for 360 s, and a lease is 45 s.
const TAKE_OVER_BOUND: Duration = Duration::from_secs(40);

/// Attempts that are under way when it happens.
const IN_FLIGHT: usize = 5;

/// The usual times, not the short ones of other scenarios.
fn parts(status: &str, queue: &str) -> Parts {
    Parts::on(Some(status), Some(queue))
        .set("DELIVERY_TIMEOUT_MS", "30000")
        .set("LEASE_MS", "45000")
}

async fn wait_until(what: &str, bound: Duration, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < bound, "{what}: not within {bound:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Attempts that hang, made by the only stack there is; the receiver answers at once from then on.
/// The heartbeats are on one of these servers.
async fn in_flight(
    receiver: &Receiver,
    stack: &Stack,
    servers: &[RedisServer],
    database: u32,
) -> Vec<String> {
    let count = |server: &RedisServer| {
        server.command::<u64>(database, cmd("ZCARD").arg("{posthaste-status}:processes"))
    };
    let has_beaten =
        || servers.iter().any(|server| count(server).is_ok_and(|processes| processes > 0));
    wait_until("the stack's first heartbeat", BOUND, has_beaten).await;
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let mut ids = Vec::new();
    for _ in 0..IN_FLIGHT {
        ids.push(api.test_webhook(&receiver.url("/x"), &json!({})).await.unwrap().webhook_id);
    }
    receiver.wait_for(IN_FLIGHT, BOUND).await.unwrap();
    receiver.answer_with(|_| Reply::status(200));
    ids
}

async fn receiver_that_hangs() -> Receiver {
    Receiver::builder()
        .script(|_| Reply::status(200).after(Duration::from_secs(3600)))
        .start()
        .await
        .unwrap()
}

/// Each was interrupted once and is delivered.
async fn assert_delivered_after_one_interruption(api: &ApiClient, ids: &[String], bound: Duration) {
    let ledger = ledger::settle(api, ids, bound).await;
    assert_eq!(ledger.statuses, [("delivered".to_owned(), ids.len())].into());
    for id in ids {
        let outcomes: Vec<String> = api
            .webhook(id)
            .await
            .unwrap()
            .attempts
            .into_iter()
            .map(|attempt| attempt.outcome)
            .collect();
        assert_eq!(outcomes, ["interrupted", "delivered"]);
    }
}

/// `kill -9` of a stack with attempts in flight: another stack makes them again within seconds.
/// Proved with the usual lease and the time that it took.
#[tokio::test(flavor = "multi_thread")]
async fn another_stack_goes_on_with_what_a_killed_one_held() {
    let servers = [RedisServer::start().unwrap()];
    let (first, second) = (
        parts(&servers[0].url(2), &servers[0].url(1)),
        parts(&servers[0].url(2), &servers[0].url(1)),
    );
    let receiver = receiver_that_hangs().await;
    let stack = first.launch.start().unwrap();
    let ids = in_flight(&receiver, &stack, &servers, 2).await;
    let other = second.launch.start().unwrap();
    stack.crash().unwrap();
    let killed_at = Instant::now();
    let api = ApiClient::new(&other.url(), None).unwrap();
    assert_delivered_after_one_interruption(&api, &ids, TAKE_OVER_BOUND).await;
    println!(
        "in flight when its stack was killed, and delivered by another one within {:?}",
        killed_at.elapsed()
    );
    second.close(&api, other).await;
}

/// The same on a cluster, where the heartbeats, the claims and the messages are on different nodes,
/// by the stack that is started again.
#[tokio::test(flavor = "multi_thread")]
async fn a_stack_that_is_started_again_goes_on_with_what_it_held_on_a_cluster() {
    let cluster = RedisCluster::start().unwrap();
    let parts = parts(&cluster.url(), &cluster.url());
    let receiver = receiver_that_hangs().await;
    let stack = parts.launch.start().unwrap();
    let ids = in_flight(&receiver, &stack, cluster.nodes(), 0).await;
    stack.crash().unwrap();
    let stack = parts.launch.start().unwrap();
    let started_at = Instant::now();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    assert_delivered_after_one_interruption(&api, &ids, TAKE_OVER_BOUND).await;
    println!(
        "in flight when the stack was killed, and delivered within {:?} of its restart",
        started_at.elapsed()
    );
    parts.close(&api, stack).await;
}

/// A stack that is stopped (SIGSTOP) looks dead: another one goes on with what it held. When it
/// runs again it stops the attempts that it had made, and is as well as before.
#[tokio::test(flavor = "multi_thread")]
async fn another_stack_goes_on_while_one_does_not_run() {
    let servers = [RedisServer::start().unwrap()];
    let (first, second) = (
        parts(&servers[0].url(2), &servers[0].url(1)),
        parts(&servers[0].url(2), &servers[0].url(1)),
    );
    let receiver = receiver_that_hangs().await;
    let stack = first.launch.start().unwrap();
    let ids = in_flight(&receiver, &stack, &servers, 2).await;
    let other = second.launch.start().unwrap();
    stack.pause().unwrap();
    let api = ApiClient::new(&other.url(), None).unwrap();
    assert_delivered_after_one_interruption(&api, &ids, TAKE_OVER_BOUND).await;
    stack.resume().unwrap();
    wait_until("it has seen that it was taken for dead", BOUND, || {
        first.launch.log().contains("No heartbeat reached Redis")
    })
    .await;
    let resumed = ApiClient::new(&stack.url(), None).unwrap();
    let id = resumed.test_webhook(&receiver.url("/x"), &json!({})).await.unwrap().webhook_id;
    ledger::settle(&resumed, &[id], BOUND).await;
    stack.stop().unwrap();
    assert_delivered_after_one_interruption(&api, &ids, BOUND).await;
    second.close(&api, other).await;
}

/// A process that cannot tell that it is alive stops its attempts before another one may make them
/// again, and long before their deadline. Proved by attempts that hang while the server hangs: they
/// are recorded as interrupted, not as a timeout of the destination.
#[tokio::test(flavor = "multi_thread")]
async fn attempts_stop_when_the_heartbeat_does_not_reach_redis() {
    let servers = [RedisServer::start().unwrap()];
    let parts = parts(&servers[0].url(2), &servers[0].url(1));
    let receiver = receiver_that_hangs().await;
    let stack = parts.launch.start().unwrap();
    let ids = in_flight(&receiver, &stack, &servers, 2).await;
    servers[0].pause().unwrap();
    wait_until("its attempts are stopped", BOUND, || {
        parts.launch.log().contains("because this process lost its heartbeat")
    })
    .await;
    servers[0].resume().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    assert_delivered_after_one_interruption(&api, &ids, BOUND).await;
    parts.close(&api, stack).await;
}
