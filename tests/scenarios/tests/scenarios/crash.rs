//! `kill -9` of the local stack under load: what was answered with a 202 is delivered or failed,
//! and what was in flight goes on as soon as the stack is back.

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

/// Attempts that hang when the stack is killed again and again; fewer than one destination gets at
/// a time.
const IN_FLIGHT: usize = 20;

const BOUND: Duration = Duration::from_secs(60);

/// A lease is 45 s; who goes on sooner has not waited for it.
const RESUME_BOUND: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_stack_is_killed_on_sqlite() {
    let receiver = Receiver::start().await.unwrap();
    let launch = Launch::fresh()
        .unwrap()
        .set("RUST_LOG", "warn")
        .set("RETRY_BASE_DELAY_MS", "50")
        .set("CIRCUIT_FAILURES", "0");
    let accepted = crash_under_load(&launch, &receiver, rounds()).await;
    let (api, stack) = recover("local stack on SQLite", &launch, &receiver, &accepted, BOUND).await;
    wait_until_idle(&api, BOUND).await;
    ledger::close(&api, stack, &launch).await;
}

/// A stack that is killed again and again, as fast as it starts, fails nothing that was in flight:
/// what was interrupted twice in a row waits before its next attempt, and is not in flight any more
/// when the third kill comes. Five kills were enough to fail all of them.
#[tokio::test(flavor = "multi_thread")]
async fn five_kills_in_a_row_fail_nothing() {
    let receiver = Receiver::builder()
        .script(|_| Reply::status(200).after(Duration::from_secs(3600)))
        .start()
        .await
        .unwrap();
    let launch = Launch::fresh().unwrap().set("RETRY_MAX_ATTEMPTS", "10").set("RUST_LOG", "warn");
    let mut ids = Vec::new();
    for kill in 1..=5 {
        let stack = launch.start().unwrap();
        let api = ApiClient::new(&stack.url(), None).unwrap();
        while ids.len() < IN_FLIGHT {
            ids.push(api.test_webhook(&receiver.url("/x"), &json!({})).await.unwrap().webhook_id);
        }
        let started = Instant::now();
        while !are_all_met(&api, &ids, kill).await {
            assert!(started.elapsed() < BOUND, "start {kill} does not go on with all of them");
            sleep(Duration::from_millis(10)).await;
        }
        if kill == 3 {
            let told = api.explain(&ids[0]).await.unwrap().to_string();
            assert!(told.contains(
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
    assert!(ledger.unanswered >= 2 * IN_FLIGHT, "each was interrupted twice: {ledger:?}");
    ledger::close(&api, stack, &launch).await;
}

/// Whether each is in flight for so many times at least, or waits.
async fn are_all_met(api: &ApiClient, ids: &[String], attempts: u32) -> bool {
    for id in ids {
        let webhook = api.webhook(id).await.unwrap();
        let met = webhook.status == "retrying"
            || (webhook.status == "in_progress" && webhook.attempt_count >= attempts);
        if !met && webhook.status != "failed" {
            return false;
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_in_flight_goes_on_at_once_when_the_stack_is_back() {
    // Five attempts hang when the stack is killed. Afterwards the receiver answers at once.
    let receiver = Receiver::builder()
        .script(|_| Reply::status(200).after(Duration::from_secs(3600)))
        .start()
        .await
        .unwrap();
    let launch = Launch::fresh().unwrap();
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
    println!("in flight when it was killed, and sent again {:?} after the restart", last - back_at);
    let api = ApiClient::new(&stack.url(), None).unwrap();
    ledger::settle(&api, &ids, BOUND).await;
    for id in &ids {
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
    ledger::close(&api, stack, &launch).await;
}
