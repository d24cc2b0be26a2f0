//! `kill -9` of the local stack under load: what was answered with a 202 is delivered or failed,
//! and what was in flight goes on as soon as the stack is back.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use posthaste_tests::{
    client::ApiClient,
    receiver::{Receiver, Reply},
    stack::{Launch, Stack},
};
use serde_json::json;
use tokio::time::sleep;

use crate::{
    ledger::{self, Ledger},
    outage::wait_for_more,
};

/// Crashes in the ordinary run.
const ROUNDS: u32 = 5;

/// What is accepted between two of them at least.
const LOAD: usize = 20;

const CLIENTS: usize = 8;

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

/// How often something is killed: `CRASH_ROUNDS=50 cargo test -p posthaste-tests --test scenarios
/// kill` does it more often than the ordinary run.
pub(crate) fn rounds() -> u32 {
    std::env::var("CRASH_ROUNDS")
        .map_or(ROUNDS, |rounds| rounds.parse().expect("CRASH_ROUNDS is a number"))
}

/// Prints what the kills came to, for the table of figures. Nobody deletes here, so what is neither
/// delivered nor failed is lost.
pub(crate) fn report(what: &str, kills: u32, accepted: usize, twice: usize, ledger: &Ledger) {
    let count = |status: &str| ledger.statuses.get(status).copied().unwrap_or_default();
    let (delivered, failed, unanswered) = (count("delivered"), count("failed"), ledger.unanswered);
    let lost = accepted - delivered - failed;
    println!(
        "{what}: {kills} kills, {accepted} accepted, {lost} lost, {twice} came twice, {unanswered} \
         attempts without a recorded answer"
    );
}

/// Starts the stack, loads it, and kills it at a random moment, so many times; the ids of what was
/// answered with a 202.
pub(crate) async fn crash_under_load(
    launch: &Launch,
    receiver: &Receiver,
    rounds: u32,
) -> Vec<String> {
    let mut accepted = Vec::new();
    for _ in 0..rounds {
        let stack = launch.start().unwrap();
        let stopping = Arc::new(AtomicBool::new(false));
        let taken = Arc::new(AtomicUsize::new(0));
        let post = || {
            tokio::spawn(post_until(
                stack.url(),
                receiver.url("/x"),
                Arc::clone(&stopping),
                Arc::clone(&taken),
            ))
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| post()).collect();
        wait_for_more("accepted", || taken.load(Ordering::SeqCst), LOAD).await;
        // A random moment under load: it is the moment that is under test, and no condition stands
        // for it.
        sleep(Duration::from_millis(rand::random_range(0..600))).await;
        stack.crash().unwrap();
        stopping.store(true, Ordering::SeqCst);
        for client in clients {
            accepted.extend(client.await.unwrap());
        }
    }
    accepted
}

/// Recorded as delivered is what was answered with a 2xx; twice came only what had an attempt
/// without a recorded answer. How many different webhooks came, and how many of the accepted ones
/// came again.
pub(crate) fn assert_explained(
    receiver: &Receiver,
    accepted: &[String],
    ledger: &Ledger,
) -> (usize, usize) {
    let mut came: HashMap<String, usize> = HashMap::new();
    for request in receiver.received() {
        *came.entry(request.webhook_id().unwrap().to_owned()).or_default() += 1;
    }
    assert!(accepted.iter().all(|id| came.contains_key(id)));
    let twice: usize = accepted.iter().map(|id| came[id] - 1).sum();
    assert!(
        twice <= ledger.unanswered,
        "{twice} came twice, {} attempts show no recorded answer",
        ledger.unanswered
    );
    (came.len(), twice)
}

/// Posts until the stack is gone; the ids of what was answered with a 202.
async fn post_until(
    api_url: String,
    receiver_url: String,
    stopping: Arc<AtomicBool>,
    taken: Arc<AtomicUsize>,
) -> Vec<String> {
    let api = ApiClient::new(&api_url, None).unwrap();
    let mut accepted = Vec::new();
    while !stopping.load(Ordering::SeqCst) {
        match api.test_webhook(&receiver_url, &json!({"filler": "x".repeat(512)})).await {
            Ok(answer) => {
                accepted.push(answer.webhook_id);
                taken.fetch_add(1, Ordering::SeqCst);
            }
            Err(_) => break,
        }
    }
    accepted
}

/// Webhooks whose client got no answer, or a refusal, are delivered too; the ledger is closed after
/// them.
pub(crate) async fn wait_until_idle(api: &ApiClient, bound: Duration) {
    let started = Instant::now();
    loop {
        let unfinished = unfinished(api).await;
        if unfinished == 0 {
            return;
        }
        assert!(started.elapsed() < bound, "{unfinished} webhooks are still unfinished");
        sleep(Duration::from_millis(100)).await;
    }
}

/// How many of all webhooks are not finished.
async fn unfinished(api: &ApiClient) -> usize {
    let (mut count, mut cursor) = (0, None::<String>);
    loop {
        let mut query = vec![("page_size", "100")];
        query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let page = api.webhooks(&query).await.unwrap();
        count += page
            .items
            .iter()
            .filter(|one| !matches!(one.status.as_str(), "delivered" | "failed"))
            .count();
        if page.next_cursor.is_none() {
            return count;
        }
        cursor = page.next_cursor;
    }
}

/// After the kills everything that was accepted is delivered, and what came twice is explained; the
/// figures are printed. The stack runs.
pub(crate) async fn recover(
    what: &str,
    launch: &Launch,
    receiver: &Receiver,
    accepted: &[String],
    bound: Duration,
) -> (ApiClient, Stack) {
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let ledger = ledger::settle(&api, accepted, bound).await;
    assert_eq!(ledger.statuses, [("delivered".to_owned(), accepted.len())].into());
    let (_, twice) = assert_explained(receiver, accepted, &ledger);
    report(what, rounds(), accepted.len(), twice, &ledger);
    (api, stack)
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
                "ended without a recorded answer (its worker died or was stopped), \
                    and so did the one before it"
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
