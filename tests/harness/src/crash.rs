//! Kills processes with SIGKILL under load, and checks the results.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "tests call this: its panics are their failures"
)]
#![allow(clippy::print_stdout, reason = "the tests print these figures")]

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::time::sleep;

use crate::{
    client::ApiClient,
    clients::{Clients, wait_for_more},
    functions::{CONCURRENCY, NAMES, functions},
    lambda::Lambda,
    ledger::{self, Ledger},
    receiver::{Receiver, Reply},
    stack::{Launch, Stack},
};

/// Default number of kills.
const ROUNDS: u32 = 5;

/// Minimum number of accepted webhooks between two kills.
const LOAD: usize = 20;

const CLIENTS: usize = 8;

/// Twice the long poll of a dead process (20 s), which may hide a message for the visibility
/// timeout.
pub const BOUND: Duration = Duration::from_secs(120);

/// Environment variables of the stack and of the functions.
pub type Settings = Vec<(String, String)>;

/// Short times. The visibility timeout is six function timeouts of four thirds of a lease each.
pub fn times(delivery_timeout_ms: &str, lease_ms: &str) -> Settings {
    settings(&[
        ("DELIVERY_TIMEOUT_MS", delivery_timeout_ms),
        ("LEASE_MS", lease_ms),
        ("RETRY_BASE_DELAY_MS", "50"),
        ("CIRCUIT_FAILURES", "0"),
        ("RUST_LOG", "warn"),
    ])
}

/// Converts pairs of variable and value.
pub fn settings(pairs: &[(&str, &str)]) -> Settings {
    pairs.iter().map(|(variable, value)| ((*variable).to_owned(), (*value).to_owned())).collect()
}

/// A fresh stack with these settings.
pub fn launch(settings: &[(String, String)]) -> Launch {
    settings
        .iter()
        .fold(Launch::fresh().unwrap(), |launch, (variable, value)| launch.set(variable, value))
}

/// The number of kills. `CRASH_ROUNDS=50 cargo test -p scenarios --test scenarios kill` sets it.
pub fn rounds() -> u32 {
    std::env::var("CRASH_ROUNDS")
        .map_or(ROUNDS, |rounds| rounds.parse().expect("CRASH_ROUNDS is a number"))
}

/// Prints the result for the table of figures. No client deletes webhooks here, so a webhook that
/// is neither delivered nor failed is lost.
pub fn report(what: &str, kills: u32, accepted: usize, twice: usize, ledger: &Ledger) {
    let count = |status: &str| ledger.statuses.get(status).copied().unwrap_or_default();
    let (delivered, failed, unanswered) = (count("delivered"), count("failed"), ledger.unanswered);
    let lost = accepted - delivered - failed;
    println!(
        "{what}: {kills} kills, {accepted} accepted, {lost} lost, {twice} duplicates, {unanswered} \
         attempts without a recorded response"
    );
}

/// Starts the stack, loads it, and kills it at a random moment, `rounds` times. Returns the ids of
/// the accepted webhooks.
pub async fn crash_under_load(launch: &Launch, receiver: &Receiver, rounds: u32) -> Vec<String> {
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
        // The random moment under load is what this tests, so there is no condition to wait for.
        sleep(Duration::from_millis(rand::random_range(0..600))).await;
        stack.crash().unwrap();
        stopping.store(true, Ordering::SeqCst);
        for client in clients {
            accepted.extend(client.await.unwrap());
        }
    }
    accepted
}

/// Checks that the receiver got every accepted webhook, and got one twice only if an attempt has no
/// recorded response. Returns the numbers of distinct webhooks and of duplicates.
pub fn assert_explained(
    receiver: &Receiver,
    accepted: &[String],
    ledger: &Ledger,
) -> (usize, usize) {
    let mut arrived: HashMap<String, usize> = HashMap::new();
    for request in receiver.received() {
        *arrived.entry(request.webhook_id().unwrap().to_owned()).or_default() += 1;
    }
    assert!(accepted.iter().all(|id| arrived.contains_key(id)));
    let twice: usize = accepted.iter().map(|id| arrived[id] - 1).sum();
    assert!(
        twice <= ledger.unanswered,
        "{twice} duplicates, {} attempts without a recorded response",
        ledger.unanswered
    );
    (arrived.len(), twice)
}

/// Posts until the stack is gone. Returns the ids of the accepted webhooks.
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

/// Waits until every webhook is finished, including those whose client got no response.
pub async fn wait_until_idle(api: &ApiClient, bound: Duration) {
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

/// The number of unfinished webhooks.
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

/// Restarts the stack after the kills. Checks that every accepted webhook is delivered and every
/// duplicate has a reason, and prints the figures.
pub async fn recover(
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

/// Kills each function in turn at random moments.
pub async fn kill_functions(what: &str, settings: Settings) {
    let launch = launch(&settings);
    let pairs: Vec<(&str, &str)> =
        settings.iter().map(|(variable, value)| (variable.as_str(), value.as_str())).collect();
    let lambda = Lambda::start(functions(&launch, &pairs), launch.folder()).await.unwrap();
    let launch = launch
        .instead("--functions", &lambda.endpoint())
        .instead("--function-concurrency", &CONCURRENCY.to_string());
    // Attempts take a while, so that most kills interrupt some. Some webhooks fail, so that `dlq`
    // has work.
    let fails = |id: &str| id.bytes().last().is_some_and(|byte| byte % 4 == 0);
    let receiver = Receiver::builder().script(move |request| {
        let code = if request.webhook_id().is_some_and(fails) { 410 } else { 200 };
        Reply::status(code).after(Duration::from_millis(20))
    });
    let receiver = receiver.start().await.unwrap();
    let stack = launch.start().unwrap();
    let clients = Clients::start(&stack.url(), &receiver.url("/x"), http::StatusCode::BAD_GATEWAY);
    let seen = Arc::clone(&clients.seen);
    let mut kills = 0;
    for _ in 0..rounds() {
        for name in NAMES {
            seen.accepts("under load", 10).await;
            // The random moment under load is what this tests.
            sleep(Duration::from_millis(rand::random_range(0..50))).await;
            let started = Instant::now();
            while lambda.crash(name) == 0 {
                assert!(started.elapsed() < BOUND, "{name} never runs");
                sleep(Duration::from_millis(5)).await;
            }
            kills += 1;
        }
    }
    // Each kill of `deliver` may have hit a process between two batches.
    let started = Instant::now();
    while lambda.counts("deliver").1 == 0 {
        assert!(started.elapsed() < BOUND, "no batch was interrupted");
        seen.accepts("before another kill", 1).await;
        if lambda.crash("deliver") > 0 {
            kills += 1;
        }
    }
    let accepted = clients.stop().await;
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let ledger = ledger::settle(&api, &accepted, BOUND).await;
    let failed = accepted.iter().filter(|id| fails(id)).count();
    assert_eq!(
        ledger.statuses,
        [("delivered".to_owned(), accepted.len() - failed), ("failed".to_owned(), failed)].into()
    );
    let (_, twice) = assert_explained(&receiver, &accepted, &ledger);
    report(&format!("functions on {what}"), kills, accepted.len(), twice, &ledger);
    ledger::end(&api, stack).await;
}
