//! The functions in separate processes, which `local --functions` calls with AWS events, all on one
//! embedded file. The test's own Lambda emulator runs the processes. `watch.rs` uses cargo-lambda,
//! and `killed.rs` kills them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use harness::{
    client::ApiClient,
    functions::{CONCURRENCY, NAMES, functions},
    lambda::Lambda,
    ledger, life,
    receiver::{Receiver, Reply},
    stack::Launch,
};
use serde_json::json;
use tokio::time::sleep;

const BOUND: Duration = Duration::from_secs(60);

/// Short times, so that a message that a stopped emulator leaves hidden becomes visible within the
/// bound: after six function timeouts of four thirds of a lease, 36 s. Attempts have time enough on
/// a busy machine, since a timeout would be another attempt.
const SETTINGS: [(&str, &str); 5] = [
    ("DELIVERY_TIMEOUT_MS", "3000"),
    ("LEASE_MS", "4500"),
    ("RETRY_BASE_DELAY_MS", "50"),
    ("CIRCUIT_FAILURES", "0"),
    ("RUST_LOG", "info"),
];

/// A Lambda emulator with the functions, and a launch of a stack that calls them. Both can restart
/// on the same data.
async fn separate_functions() -> (Lambda, Launch) {
    let launch = SETTINGS
        .iter()
        .fold(Launch::fresh().unwrap(), |launch, (variable, value)| launch.set(variable, value));
    let lambda = Lambda::start(functions(&launch, &SETTINGS), launch.folder()).await.unwrap();
    let launch = launch
        .instead("--functions", &lambda.endpoint())
        .instead("--function-concurrency", &CONCURRENCY.to_string());
    (lambda, launch)
}

/// Each path of a webhook, and each kind of API call, works with the functions in separate
/// processes.
#[tokio::test(flavor = "multi_thread")]
async fn delivery_retry_dead_letter_and_redrive() {
    let (lambda, launch) = separate_functions().await;
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    life::live(&api, BOUND).await;
    let page = api.webhooks(&[("status", "delivered"), ("page_size", "2")]).await.unwrap();
    assert_eq!(page.items.len(), 2, "the query reaches the function");
    api.delete_webhook(&page.items[0].webhook_id).await.unwrap();
    let answer = api.call(http::Method::PUT, &["webhooks"], &[], None).await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.headers["allow"].to_str().unwrap()),
        (405, "POST"),
        "method and headers are forwarded"
    );
    let metrics = ApiClient::new(stack.metrics_url().trim_end_matches("/metrics"), None).unwrap();
    let metrics = metrics.call(http::Method::GET, &["metrics"], &[], None).await.unwrap().body;
    assert!(
        metrics.contains("webhook_delivery_total{status=\"delivered\",worker_id=\"deliver\"} 3"),
        "{metrics}"
    );
    for name in NAMES {
        let (invoked, failed) = lambda.counts(name);
        assert!(invoked > 1 && failed == 0, "{name}: {invoked} invocations, {failed} failed");
    }
    ledger::close(&api, stack, &launch).await;
}

/// While the endpoint is unreachable, the stack receives no messages, so none uses up its receives.
/// It logs one error per function, and callers get a 503. Deliveries resume when the endpoint is
/// back.
#[tokio::test(flavor = "multi_thread")]
async fn messages_wait_for_unreachable_functions() {
    let (lambda, launch) = separate_functions().await;
    let receiver = Receiver::builder()
        .script(|request| Reply::status(if request.attempt() == Some(1) { 503 } else { 200 }));
    let receiver = receiver.start().await.unwrap();
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let webhook =
        json!({"url": receiver.url("/x"), "payload": {}, "retry": {"base_delay_ms": 5000}})
            .to_string();
    let answer = api.call(http::Method::POST, &["webhooks"], &[], Some(webhook)).await.unwrap();
    let id = answer.expect::<serde_json::Value>(http::StatusCode::ACCEPTED).unwrap()["webhook_id"]
        .as_str()
        .unwrap()
        .to_owned();
    receiver.wait_for(1, BOUND).await.unwrap();
    let started = Instant::now();
    while api.webhook(&id).await.unwrap().status != "retrying" {
        assert!(started.elapsed() < BOUND);
        sleep(Duration::from_millis(5)).await;
    }
    let address = lambda.endpoint().trim_start_matches("http://").parse().unwrap();
    drop(lambda);
    let unreachable_since = Instant::now();
    let refused = api.health().await.unwrap();
    assert_eq!((refused.status.as_u16(), refused.problem().unwrap().status), (503, 503));
    assert!(refused.headers.contains_key("retry-after"));
    // Long enough for the second attempt to be due (5 s and a fifth), and for many polls.
    let errors = || launch.log().matches("Cannot reach the function").count();
    while errors() < 2 || unreachable_since.elapsed() < Duration::from_secs(8) {
        assert!(
            unreachable_since.elapsed() < BOUND,
            "the log does not report the unreachable functions"
        );
        sleep(Duration::from_millis(20)).await;
    }
    assert!(errors() <= 3, "more than one error per function: {}", launch.log());
    let lambda =
        Lambda::start_at(address, functions(&launch, &SETTINGS), launch.folder()).await.unwrap();
    let ledger = ledger::settle(&api, std::slice::from_ref(&id), BOUND).await;
    assert_eq!(ledger.statuses, [("delivered".to_owned(), 1)].into());
    assert_eq!(receiver.received().len(), 2);
    assert_eq!(lambda.counts("dlq").0, 0, "a message became a dead letter");
    ledger::close(&api, stack, &launch).await;
}

/// On SIGTERM, the stack waits for the batch in flight.
#[tokio::test(flavor = "multi_thread")]
async fn shutdown_waits_for_the_batch_in_flight() {
    let (_lambda, launch) = separate_functions().await;
    let receiver = Receiver::builder()
        .script(|_| Reply::status(200).after(Duration::from_millis(400)))
        .start()
        .await
        .unwrap();
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let ids = [api.test_webhook(&receiver.url("/x"), &json!({})).await.unwrap().webhook_id];
    receiver.wait_for(1, BOUND).await.unwrap();
    stack.stop().unwrap();
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let webhook = api.webhook(&ids[0]).await.unwrap();
    assert_eq!((webhook.status.as_str(), webhook.attempt_count), ("delivered", 1));
    ledger::close(&api, stack, &launch).await;
    assert_eq!(receiver.received().len(), 1);
}

/// A stack that runs the functions itself recovers the webhooks of its last run and needs exclusive
/// access. It and functions in other processes refuse to share a folder.
#[tokio::test(flavor = "multi_thread")]
async fn functions_and_an_in_process_stack_cannot_share_a_folder() {
    let alone = Launch::fresh().unwrap();
    let lambda = Lambda::start(functions(&alone, &SETTINGS), alone.folder()).await.unwrap();
    let stack = alone.start().unwrap();
    lambda.call("sweep", "{}").await.unwrap_err();
    let log = std::fs::read_to_string(alone.folder().join("sweep.log")).unwrap();
    assert!(log.contains("NotShared"), "{log}");
    stack.stop().unwrap();
    lambda.call("sweep", "{}").await.unwrap();
    assert!(!alone.run_to_its_end(0, 0).unwrap().success());
    assert!(alone.log().contains("or functions in processes of their own are"), "{}", alone.log());
}

/// Without keys, only this machine may call, and no web page of another site. The stack checks this
/// before it calls the function.
#[tokio::test(flavor = "multi_thread")]
async fn callers_are_checked_before_the_function_is_called() {
    let (lambda, launch) = separate_functions().await;
    let stack = launch.start().unwrap();
    let before = lambda.counts("api").0;
    let rebound =
        reqwest::Client::builder().no_proxy().tls_backend_preconfigured(tls()).build().unwrap();
    let answer = rebound
        .get(format!("{}/webhook-statuses", stack.url()))
        .header("host", "evil.example")
        .send()
        .await
        .unwrap();
    assert_eq!((answer.status().as_u16(), lambda.counts("api").0), (403, before));
    stack.stop().unwrap();
}

fn tls() -> rustls::ClientConfig {
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}
