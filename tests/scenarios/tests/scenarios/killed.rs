//! `kill -9` of functions, and of the local stack on DynamoDB and SQS, under load: nothing that was
//! answered with a 202 is lost, and what comes twice is at most what had an attempt without a
//! recorded answer. Nobody takes anything over: what a dead process held comes back when leases and
//! visibility timeouts are over.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use posthaste_tests::{
    aws::AwsStack,
    client::ApiClient,
    lambda::Lambda,
    receiver::{Receiver, Reply},
    redis_server::RedisServer,
    stack::Launch,
};
use tokio::time::sleep;

use crate::{
    crash::{assert_explained, crash_under_load, recover, report, rounds},
    functions::{CONCURRENCY, NAMES, functions},
    ledger,
    outage::Clients,
};

/// Of a poll that an ended process has abandoned (20 s), which takes a message with it for the
/// visibility timeout, twice.
const BOUND: Duration = Duration::from_secs(120);

/// Variables of the stack, and of the functions.
type Settings = Vec<(String, String)>;

/// Hidden messages come back after six function timeouts of four thirds of a lease each.
fn times(delivery_timeout_ms: &str, lease_ms: &str) -> Settings {
    settings(&[
        ("DELIVERY_TIMEOUT_MS", delivery_timeout_ms),
        ("LEASE_MS", lease_ms),
        ("RETRY_BASE_DELAY_MS", "50"),
        ("CIRCUIT_FAILURES", "0"),
        ("RUST_LOG", "warn"),
    ])
}

fn settings(pairs: &[(&str, &str)]) -> Settings {
    pairs.iter().map(|(variable, value)| ((*variable).to_owned(), (*value).to_owned())).collect()
}

fn launch(settings: &[(String, String)]) -> Launch {
    settings
        .iter()
        .fold(Launch::fresh().unwrap(), |launch, (variable, value)| launch.set(variable, value))
}

/// A table and queues of one's own.
async fn on_amazon(emulator: &AwsStack) -> Settings {
    emulator.make_table("posthaste").await.unwrap();
    let queues = emulator.make_queues("posthaste").await.unwrap();
    settings(&[
        ("STATUS_BACKEND", "dynamodb"),
        ("QUEUE_BACKEND", "sqs"),
        ("AWS_ENDPOINT_URL", emulator.endpoint()),
        ("AWS_REGION", emulator.region()),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("TABLE_NAME", "posthaste"),
        ("QUEUE_URL", &queues.webhooks),
        ("DEAD_LETTER_QUEUE_URL", &queues.dead_letters),
    ])
}

async fn emulator() -> AwsStack {
    tokio::task::spawn_blocking(AwsStack::emulator)
        .await
        .unwrap()
        .unwrap_or_else(|error| panic!("{error}"))
}

/// Kills each function in turn at random moments, so many times each.
async fn kill_functions(what: &str, settings: Settings) {
    let launch = launch(&settings);
    let pairs: Vec<(&str, &str)> =
        settings.iter().map(|(variable, value)| (variable.as_str(), value.as_str())).collect();
    let lambda = Lambda::start(functions(&launch, &pairs), launch.folder()).await.unwrap();
    let launch = launch
        .instead("--functions", &lambda.endpoint())
        .instead("--function-concurrency", &CONCURRENCY.to_string());
    // Attempts take a while, so that most kills are in the middle of some. Some fail for good, so
    // that `dlq` has something to do.
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
            // A random moment under load is what is under test.
            sleep(Duration::from_millis(rand::random_range(0..50))).await;
            let started = Instant::now();
            while lambda.crash(name) == 0 {
                assert!(started.elapsed() < BOUND, "{name} never runs");
                sleep(Duration::from_millis(5)).await;
            }
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
    assert!(lambda.counts("deliver").1 > 0, "no batch was interrupted");
    report(&format!("functions on {what}"), kills, accepted.len(), twice, &ledger);
    ledger::end(&api, stack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_functions_are_killed_on_sqlite() {
    kill_functions("SQLite", times("600", "1000")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_functions_are_killed_on_redis() {
    let server = RedisServer::start().unwrap();
    let (status, queue) = (server.url(2), server.url(1));
    let mut all = times("600", "1000");
    all.extend(settings(&[
        ("STATUS_BACKEND", "redis"),
        ("QUEUE_BACKEND", "redis"),
        ("STATUS_REDIS_URL", &status),
        ("QUEUE_REDIS_URL", &queue),
    ]));
    kill_functions("Redis", all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_functions_are_killed_on_dynamodb_and_sqs() {
    let emulator = emulator().await;
    let mut all = times("1500", "2500");
    all.extend(on_amazon(&emulator).await);
    kill_functions("DynamoDB and SQS", all).await;
}

/// The stack itself, which polls the queues, dies too: with it the polls that wait there.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_stack_is_killed_on_dynamodb_and_sqs() {
    let emulator = emulator().await;
    let mut all = times("1500", "2500");
    all.extend(on_amazon(&emulator).await);
    let (launch, receiver) = (launch(&all), Receiver::start().await.unwrap());
    let accepted = crash_under_load(&launch, &receiver, rounds()).await;
    let (api, stack) =
        recover("local stack on DynamoDB and SQS", &launch, &receiver, &accepted, BOUND).await;
    ledger::end(&api, stack).await;
}
