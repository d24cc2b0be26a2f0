//! Limits of Redis itself: a promoted replica, and full memory.

use std::time::Duration;

use harness::{
    client::{Accepted, Answer, ApiClient, http_client},
    ledger,
    receiver::{Receiver, Reply},
    redis_server::RedisServer,
};
use http::{Method, StatusCode};
use redis::{InfoDict, cmd};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::redis::{BOUND, Parts};

/// The number of webhooks from one caller.
const WEBHOOKS: usize = 20;

async fn post(api: &ApiClient, url: &str, bytes: usize) -> Answer {
    let body = json!({"filler": "x".repeat(bytes)}).to_string();
    api.call(Method::POST, &["test-webhook"], &[("webhook_url", url)], Some(body)).await.unwrap()
}

fn accepted(answer: Answer) -> String {
    answer.expect::<Accepted>(StatusCode::ACCEPTED).unwrap().webhook_id
}

async fn store_health(api: &ApiClient) -> Value {
    let health: Value = api.health().await.unwrap().expect(StatusCode::OK).unwrap();
    health["store"].clone()
}

/// With a server and its replica, health warns that a promotion may lose webhooks, and one does.
/// The test promotes the replica without the old server's knowledge, as in a partition. Webhooks
/// that the old server accepts afterwards are missing on the promoted one.
#[tokio::test(flavor = "multi_thread")]
async fn without_wait_a_promotion_loses_accepted_webhooks() {
    let mut primary = RedisServer::durable().unwrap();
    let replica = RedisServer::replica_of(&primary).unwrap();
    let (before, after) = (Parts::on_one(&primary), Parts::on_one(&replica));
    let receiver = Receiver::start().await.unwrap();
    let stack = before.launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let store = store_health(&api).await;
    assert!(
        store["warnings"][0].as_str().unwrap().contains("min-replicas-to-write is 0"),
        "{store}"
    );
    replica.promote().unwrap();
    let mut ids = Vec::new();
    for _ in 0..WEBHOOKS {
        ids.push(accepted(post(&api, &receiver.url("/x"), 10).await));
    }
    stack.crash().unwrap();
    primary.crash();
    let stack = after.launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let ledger = ledger::settle(&api, &ids, BOUND).await;
    assert_eq!(ledger.statuses, [("deleted".to_owned(), WEBHOOKS)].into(), "the webhooks are lost");
    after.close(&api, stack).await;
}

/// With `STATUS_REDIS_WAIT=1`, every webhook with a 202 is on the replica, and a write that the
/// replica does not confirm gets a 503. The caller repeats it with its idempotency key, and it is
/// accepted once. The test uses the same promotion.
#[tokio::test(flavor = "multi_thread")]
async fn with_wait_a_promotion_keeps_accepted_webhooks() {
    let mut primary = RedisServer::durable().unwrap();
    let replica = RedisServer::replica_of(&primary).unwrap();
    let (before, after) =
        (Parts::on_one(&primary).set("STATUS_REDIS_WAIT", "1"), Parts::on_one(&replica));
    let receiver = Receiver::start().await.unwrap();
    let stack = before.launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    assert_eq!(store_health(&api).await, json!({"status": "healthy", "backend": "redis"}));
    let mut ids = Vec::new();
    for _ in 0..WEBHOOKS {
        ids.push(accepted(post(&api, &receiver.url("/x"), 10).await));
    }
    ledger::settle(&api, &ids, BOUND).await;
    replica.promote().unwrap();
    let unconfirmed = post(&api, &receiver.url("/x"), 10).await;
    assert_eq!(unconfirmed.status, StatusCode::SERVICE_UNAVAILABLE);
    let again = async |base: &str| {
        let url = format!("{base}/test-webhook?webhook_url={}", receiver.url("/again"));
        let request = http_client()
            .unwrap()
            .post(url)
            .header("idempotency-key", "one")
            .header("content-type", "application/json");
        let answer = request.body("{}").send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    };
    let (status, body) = again(&stack.url()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    let deleted = api.call(Method::DELETE, &["webhook-status", &ids[0]], &[], None).await.unwrap();
    assert_eq!(
        deleted.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "a delete also waits for the replica"
    );
    stack.crash().unwrap();
    primary.crash();
    let stack = after.launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let ledger = ledger::settle(&api, &ids, BOUND).await;
    assert_eq!(
        ledger.statuses,
        [("delivered".to_owned(), WEBHOOKS)].into(),
        "the replica has all webhooks"
    );
    let mut answers = Vec::new();
    for _ in 0..2 {
        let (status, body) = again(&stack.url()).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{body}");
        answers.push(serde_json::from_str::<Accepted>(&body).unwrap().webhook_id);
    }
    assert_eq!(answers[0], answers[1], "accepted once");
    ledger::settle(&api, &answers[..1], BOUND).await;
    let requests = receiver
        .received()
        .iter()
        .filter(|request| request.webhook_id() == Some(&*answers[0]))
        .count();
    assert_eq!(requests, 1);
    after.close(&api, stack).await;
}

/// Near `maxmemory` the stack refuses new webhooks, and the error gives the reason. Accepted
/// webhooks are delivered, even at the limit, and can be deleted. Deletes free memory for new ones.
/// The test fills a small server while the destination fails.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_refuses_new_webhooks_and_delivers_accepted_ones() {
    const FILLER_BYTES: usize = 20_000;
    let server = RedisServer::durable().unwrap();
    let used = |server: &RedisServer| {
        server
            .command::<InfoDict>(0, cmd("INFO").arg("memory"))
            .unwrap()
            .get::<u64>("used_memory")
            .unwrap()
    };
    let limit = |bytes: u64| {
        server.command::<()>(0, cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes)).unwrap();
    };
    let parts =
        Parts::on_one(&server).set("RETRY_MAX_ATTEMPTS", "50").set("RETRY_MAX_DELAY_MS", "1000");
    let receiver = Receiver::builder().script(|_| Reply::status(503)).start().await.unwrap();
    let stack = parts.launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    limit(used(&server) + 6_000_000);
    let (started, mut ids) = (Instant::now(), Vec::new());
    let refusal = loop {
        let answer = post(&api, &receiver.url("/x"), FILLER_BYTES).await;
        if answer.status != StatusCode::ACCEPTED {
            break answer;
        }
        ids.push(accepted(answer));
        assert!(started.elapsed() < BOUND, "the store is not full");
        sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(refusal.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        refusal.body.contains("urn:posthaste:overloaded")
            && refusal.body.contains("The store is full"),
        "{refusal:?}"
    );
    assert!(refusal.headers.contains_key("retry-after") && ids.len() > 10, "{refusal:?}");
    // Over the limit, so the server refuses every command that may use memory.
    limit(used(&server) / 2);
    let refused: redis::RedisResult<()> = redis::Client::open(server.url(0))
        .unwrap()
        .get_connection()
        .and_then(|mut connection| cmd("SET").arg("x").arg(1).query(&mut connection));
    assert!(refused.unwrap_err().to_string().contains("OOM"));
    let is_reported = async || {
        let store = store_health(&api).await;
        store["status"] == "degraded"
            && store["warnings"].to_string().contains("memory is 90 % full or more")
    };
    while !is_reported().await {
        assert!(started.elapsed() < BOUND, "health does not report the full memory");
        sleep(Duration::from_millis(50)).await;
    }
    receiver.answer_with(|_| Reply::status(200));
    let ledger = ledger::settle(&api, &ids, BOUND).await;
    assert_eq!(ledger.statuses, [("delivered".to_owned(), ids.len())].into());
    let swept: Value = api.health().await.unwrap().expect(StatusCode::OK).unwrap();
    assert_eq!(swept["sweep"]["status"], "healthy", "{swept}");
    let still = post(&api, &receiver.url("/x"), 10).await;
    assert_eq!(still.status, StatusCode::SERVICE_UNAVAILABLE);
    for id in &ids {
        api.delete_webhook(id).await.unwrap();
    }
    limit(used(&server) * 4);
    while post(&api, &receiver.url("/x"), 10).await.status != StatusCode::ACCEPTED {
        assert!(started.elapsed() < 2 * BOUND, "the stack does not accept webhooks again");
        sleep(Duration::from_millis(50)).await;
    }
    harness::crash::wait_until_idle(&api, BOUND).await;
    parts.close(&api, stack).await;
}
