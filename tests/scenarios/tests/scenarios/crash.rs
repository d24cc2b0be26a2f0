//! `kill -9` of the local stack under load. Every webhook with a 202 is delivered or failed, and
//! attempts in flight resume when the stack restarts.

use std::time::{Duration, Instant};

use harness::{
    client::ApiClient,
    crash::{crash_under_load, recover, rounds, wait_until_idle},
    ledger,
    receiver::{Receiver, Reply},
    stack::Launch,
};
use serde_json::json;
use tokio::time::sleep;

/// Hanging attempts at each kill: fewer than the limit for one destination.
const IN_FLIGHT: usize = 20;

const BOUND: Duration = Duration::from_secs(60);

/// A queue keeps messages of interrupted attempts until their leases end, and each test waits until
/// it is empty. The times are longer than any attempt takes before its kill.
const DELIVERY_TIMEOUT_MS: &str = "12000";
const LEASE_MS: &str = "20000";

/// Half of a lease. An earlier attempt did not wait for it.
const RESUME_BOUND: Duration = Duration::from_secs(10);

fn launch() -> Launch {
    let launch = Launch::fresh().unwrap().set("DELIVERY_TIMEOUT_MS", DELIVERY_TIMEOUT_MS);
    launch.set("LEASE_MS", LEASE_MS)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_webhook_is_lost_when_the_stack_is_killed_on_sqlite() {
    let receiver = Receiver::start().await.unwrap();
    let launch = launch()
        .set("RUST_LOG", "warn")
        .set("RETRY_BASE_DELAY_MS", "50")
        .set("CIRCUIT_FAILURES", "0");
    let accepted = crash_under_load(&launch, &receiver, rounds()).await;
    let (api, stack) = recover("local stack on SQLite", &launch, &receiver, &accepted, BOUND).await;
    wait_until_idle(&api, BOUND).await;
    ledger::close(&api, stack, &launch).await;
}

/// A stack that is killed repeatedly, as fast as it starts, fails no webhook in flight. After two
/// interruptions in a row, a webhook waits before its next attempt, so the third kill does not
/// interrupt it.
#[tokio::test(flavor = "multi_thread")]
async fn five_kills_in_a_row_fail_no_webhook() {
    let receiver = Receiver::builder()
        .script(|_| Reply::status(200).after(Duration::from_secs(3600)))
        .start()
        .await
        .unwrap();
    let launch = launch().set("RETRY_MAX_ATTEMPTS", "10").set("RUST_LOG", "warn");
    let mut ids = Vec::new();
    for kill in 1..=5 {
        let stack = launch.start().unwrap();
        let api = ApiClient::new(&stack.url(), None).unwrap();
        while ids.len() < IN_FLIGHT {
            ids.push(api.test_webhook(&receiver.url("/x"), &json!({})).await.unwrap().webhook_id);
        }
        let started = Instant::now();
        while !have_all_resumed(&api, &ids, kill).await {
            assert!(started.elapsed() < BOUND, "start {kill} does not resume all webhooks");
            sleep(Duration::from_millis(10)).await;
        }
        if kill == 3 {
            let explained = api.explain(&ids[0]).await.unwrap().to_string();
            assert!(explained.contains(
                "ended without a recorded outcome because its worker crashed or was stopped, like \
                 the attempt before it"
            ));
        }
        stack.crash().unwrap();
    }
    receiver.answer_with(|_| Reply::status(200));
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let ledger = ledger::settle(&api, &ids, BOUND).await;
    assert_eq!(ledger.statuses, [("delivered".to_owned(), IN_FLIGHT)].into());
    assert!(ledger.unanswered >= 2 * IN_FLIGHT, "each webhook was interrupted twice: {ledger:?}");
    ledger::close(&api, stack, &launch).await;
}

/// Whether each webhook is in this attempt or a later one, waits for the next, or has failed.
async fn have_all_resumed(api: &ApiClient, ids: &[String], attempts: u32) -> bool {
    for id in ids {
        let webhook = api.webhook(id).await.unwrap();
        let resumed = webhook.status == "retrying"
            || (webhook.status == "in_progress" && webhook.attempt_count >= attempts);
        if !resumed && webhook.status != "failed" {
            return false;
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_in_flight_resume_at_once_after_a_restart() {
    // Five attempts hang when the stack is killed. Afterwards the receiver responds at once.
    let receiver = Receiver::builder()
        .script(|_| Reply::status(200).after(Duration::from_secs(3600)))
        .start()
        .await
        .unwrap();
    let launch = launch();
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(api.test_webhook(&receiver.url("/x"), &json!({})).await.unwrap().webhook_id);
    }
    receiver.wait_for(5, BOUND).await.unwrap();
    stack.crash().unwrap();
    receiver.answer_with(|_| Reply::status(200));
    let stack = launch.start().unwrap();
    let back_at = Instant::now();
    let requests = receiver.wait_for(10, RESUME_BOUND).await.unwrap();
    let last = requests.iter().map(|request| request.at).max().unwrap();
    println!(
        "attempts in flight at the kill were repeated within {:?} of the restart",
        last - back_at
    );
    let api = ApiClient::new(&stack.url(), None).unwrap();
    ledger::settle(&api, &ids, BOUND).await;
    for id in &ids {
        let webhook = api.webhook(id).await.unwrap();
        assert_eq!(webhook.outcomes(), ["interrupted", "delivered"]);
    }
    ledger::close(&api, stack, &launch).await;
}
