//! The Redis calls of one webhook, counted by the server.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use harness::{
    client::ApiClient, crash::wait_until_idle, health::wait_until_swept, ledger,
    receiver::Receiver, redis_server::RedisServer,
};
use redis::cmd;
use serde_json::json;

use crate::redis::{BOUND, Parts};

const WEBHOOKS: usize = 1000;

const CLIENTS: usize = 32;

/// The number of script calls since the server's statistics were last reset.
fn scripts(server: &RedisServer) -> u64 {
    let mut connection = redis::Client::open(server.url(0)).unwrap().get_connection().unwrap();
    let stats: redis::InfoDict = cmd("INFO").arg("commandstats").query(&mut connection).unwrap();
    let calls = stats.get::<String>("cmdstat_evalsha").unwrap();
    calls.trim_start_matches("calls=").split(',').next().unwrap().parse().unwrap()
}

/// A webhook that succeeds at once takes two round trips to accept (create, send) and two to
/// deliver (claim with content, outcome). Concurrent webhooks share those of the queue. The test
/// counts the scripts of each server, with store and queue on separate servers.
#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_takes_two_round_trips_to_accept_and_two_to_deliver() {
    let (status, queue) = (RedisServer::start().unwrap(), RedisServer::start().unwrap());
    let mut parts = Parts::on(Some(&status.url(0)), Some(&queue.url(0)))
        .set("DELIVERY_TIMEOUT_MS", "10000")
        .set("LEASE_MS", "20000")
        // As many as there are slots: a pause of the machine defers no webhook, which would be
        // another call.
        .set("DELIVER_HOST_CONCURRENCY", "128");
    // The sweep at the start is the only one.
    parts.launch = parts.launch.instead("--sweep-interval-ms", "600000");
    let receiver = Receiver::start().await.unwrap();
    let stack = parts.launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    wait_until_swept(&api, BOUND).await;
    let (before, started) = ((scripts(&status), scripts(&queue)), Instant::now());
    let left = Arc::new(AtomicUsize::new(WEBHOOKS));
    let client = |_| {
        let (api, url, left) =
            (ApiClient::new(&stack.url(), None).unwrap(), receiver.url("/x"), Arc::clone(&left));
        tokio::spawn(async move {
            let mut ids = Vec::new();
            while left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                .is_ok()
            {
                ids.push(api.test_webhook(&url, &json!({})).await.unwrap().webhook_id);
            }
            ids
        })
    };
    let mut ids = Vec::new();
    for client in (0..CLIENTS).map(client).collect::<Vec<_>>() {
        ids.extend(client.await.unwrap());
    }
    receiver.wait_for(WEBHOOKS, BOUND).await.unwrap();
    // Reads lists, which runs no script.
    wait_until_idle(&api, BOUND).await;
    let took = started.elapsed();
    let (store_calls, queue_calls) = (scripts(&status) - before.0, scripts(&queue) - before.1);
    println!(
        "{WEBHOOKS} webhooks over {CLIENTS} connections: {:.2} scripts of the store and {:.2} of \
         the queue each, in {took:?}",
        store_calls as f64 / WEBHOOKS as f64,
        queue_calls as f64 / WEBHOOKS as f64
    );
    let ledger = ledger::settle(&api, &ids, BOUND).await;
    assert_eq!(ledger.statuses, [("delivered".to_owned(), WEBHOOKS)].into());
    assert_eq!(receiver.received().len(), WEBHOOKS, "one attempt for each webhook");
    // Create, claim, outcome. In addition, the functions' counters once per second, and a heartbeat
    // every two seconds.
    let seconds = took.as_secs() + 2;
    assert!(
        store_calls <= 3 * WEBHOOKS as u64 + 2 * seconds + seconds / 2,
        "{store_calls} calls of the store"
    );
    // Each webhook sends one message. A batch of up to ten webhooks shares a receive and an
    // acknowledge. A waiting receiver polls each of the two lanes up to twenty times per second.
    assert!(queue_calls <= WEBHOOKS as u64 + 40 * seconds, "{queue_calls} calls of the queue");
    parts.close(&api, stack).await;
}
