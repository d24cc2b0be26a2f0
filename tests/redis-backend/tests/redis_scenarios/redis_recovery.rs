//! Recovery from a dead or paused process on Redis: another process resumes its webhooks long
//! before leases and visibility timeouts end.

use std::time::Duration;

use harness::{
    client::ApiClient,
    ledger,
    receiver::{Receiver, Reply},
    redis_server::{RedisCluster, RedisServer},
    stack::Stack,
    wait::wait_until,
};
use redis::cmd;
use serde_json::json;
use tokio::time::Instant;

use crate::redis::{BOUND, Parts};

/// Without recovery, a message is hidden for 360 s, and a lease is 45 s.
const RECOVERY_BOUND: Duration = Duration::from_secs(40);

/// Attempts in flight when the process fails.
const IN_FLIGHT: usize = 5;

/// The default times, unlike other scenarios.
fn parts(status: &str, queue: &str) -> Parts {
    Parts::on(Some(status), Some(queue))
        .set("DELIVERY_TIMEOUT_MS", "30000")
        .set("LEASE_MS", "45000")
}

/// Starts attempts that hang, on the only stack. The receiver responds at once from then on. One of
/// these servers stores the heartbeats.
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
    wait_until("the stack's first heartbeat", BOUND, async || has_beaten()).await;
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

/// Checks that each webhook was interrupted once and is delivered.
async fn assert_delivered_after_one_interruption(api: &ApiClient, ids: &[String], bound: Duration) {
    let ledger = ledger::settle(api, ids, bound).await;
    assert_eq!(ledger.statuses, [("delivered".to_owned(), ids.len())].into());
    for id in ids {
        let webhook = api.webhook(id).await.unwrap();
        assert_eq!(webhook.outcomes(), ["interrupted", "delivered"]);
    }
}

/// `kill -9` of a stack with attempts in flight. Another stack repeats them within seconds, despite
/// the default lease.
#[tokio::test(flavor = "multi_thread")]
async fn another_stack_recovers_the_attempts_of_a_killed_one() {
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
    assert_delivered_after_one_interruption(&api, &ids, RECOVERY_BOUND).await;
    println!(
        "attempts of a killed stack were repeated by another one within {:?}",
        killed_at.elapsed()
    );
    second.close(&api, other).await;
}

/// The same with a restarted stack on a cluster, where heartbeats, claims and messages are on
/// different nodes.
#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_stack_recovers_its_attempts_on_a_cluster() {
    let cluster = RedisCluster::start().unwrap();
    let parts = parts(&cluster.url(), &cluster.url());
    let receiver = receiver_that_hangs().await;
    let stack = parts.launch.start().unwrap();
    let ids = in_flight(&receiver, &stack, cluster.nodes(), 0).await;
    stack.crash().unwrap();
    let stack = parts.launch.start().unwrap();
    let started_at = Instant::now();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    assert_delivered_after_one_interruption(&api, &ids, RECOVERY_BOUND).await;
    println!(
        "attempts of a killed stack were repeated within {:?} of its restart",
        started_at.elapsed()
    );
    parts.close(&api, stack).await;
}

/// A paused stack (SIGSTOP) looks dead, and another one recovers its attempts. When the paused
/// stack resumes, it stops those attempts and then works as before.
#[tokio::test(flavor = "multi_thread")]
async fn another_stack_recovers_the_attempts_of_a_paused_one() {
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
    assert_delivered_after_one_interruption(&api, &ids, RECOVERY_BOUND).await;
    stack.resume().unwrap();
    wait_until("the stack reports its missed heartbeat", BOUND, async || {
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

/// A process that cannot send its heartbeat stops its attempts before another process may repeat
/// them, and long before their deadline. The test pauses the server during hanging attempts. They
/// are recorded as interrupted, not as a timeout of the destination.
#[tokio::test(flavor = "multi_thread")]
async fn attempts_stop_when_the_heartbeat_does_not_reach_redis() {
    let servers = [RedisServer::start().unwrap()];
    let parts = parts(&servers[0].url(2), &servers[0].url(1));
    let receiver = receiver_that_hangs().await;
    let stack = parts.launch.start().unwrap();
    let ids = in_flight(&receiver, &stack, &servers, 2).await;
    servers[0].pause().unwrap();
    wait_until("the attempts are stopped", BOUND, async || {
        parts.launch.log().contains("because this process lost its heartbeat")
    })
    .await;
    servers[0].resume().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    assert_delivered_after_one_interruption(&api, &ids, BOUND).await;
    parts.close(&api, stack).await;
}
