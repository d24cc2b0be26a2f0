//! Start, refused start and shutdown of the stack.

use std::{net::TcpListener, time::Duration};

use harness::{
    client::ApiClient,
    ledger,
    receiver::{Receiver, Reply},
    stack::Launch,
};
use serde_json::json;

const BOUND: Duration = Duration::from_secs(20);

#[test]
fn a_second_stack_on_the_same_folder_or_port_does_not_start() {
    let launch = Launch::fresh().unwrap();
    let stack = launch.start().unwrap();
    assert!(!launch.run_to_its_end(0, 0).unwrap().success());
    assert!(
        launch.log().contains("another stack is running on the data folder"),
        "{}",
        launch.log()
    );
    drop(stack);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(!launch.run_to_its_end(taken.local_addr().unwrap().port(), 0).unwrap().success());
    assert!(launch.log().contains("another process is listening there"), "{}", launch.log());
}

#[test]
fn the_error_of_an_invalid_setting_names_it() {
    let launch = Launch::fresh().unwrap().set("BATCH_SIZE", "many").set("LEASE_MS", "1000");
    assert!(!launch.run_to_its_end(0, 0).unwrap().success());
    let log = launch.log();
    assert!(
        log.contains("BATCH_SIZE is 'many', but must be a whole number from 1 to 10; example: 10"),
        "{log}"
    );
    assert!(log.contains("LEASE_MS must exceed DELIVERY_TIMEOUT_MS"), "{log}");
}

/// A `BATCH_SIZE` over `DELIVER_CONCURRENCY` stops the start, and the error names both settings.
/// Each function does the same.
#[test]
fn a_batch_that_is_too_large_stops_the_start() {
    let launch = Launch::fresh().unwrap().set("DELIVER_CONCURRENCY", "4");
    assert!(!launch.run_to_its_end(0, 0).unwrap().success());
    let log = launch.log();
    assert!(log.contains("DELIVER_CONCURRENCY must be at least BATCH_SIZE (10)"), "{log}");
    for function in ["api", "deliver", "sweep", "dlq"] {
        let output = std::process::Command::new(harness::binaries::binary(function).unwrap())
            .env("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9")
            .env("STATUS_BACKEND", "redis")
            .env("QUEUE_BACKEND", "redis")
            .env("DELIVER_CONCURRENCY", "4")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let named = ["DELIVER_CONCURRENCY", "must be at least BATCH_SIZE (10)"]
            .iter()
            .all(|name| text.contains(name));
        assert!(!output.status.success() && named, "{function}: {text}");
    }
    assert!(
        Launch::fresh()
            .unwrap()
            .set("DELIVER_CONCURRENCY", "4")
            .set("BATCH_SIZE", "4")
            .start()
            .is_ok()
    );
}

#[test]
fn a_public_listener_without_keys_is_refused() {
    for option in ["--listen", "--metrics-listen"] {
        let launch = Launch::fresh().unwrap().instead(option, "0.0.0.0:0");
        assert!(!launch.run_to_its_end(0, 0).unwrap().success());
        let expected = format!("{option} 0.0.0.0:0 is reachable from other machines");
        assert!(launch.log().contains(&expected), "{}", launch.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_finishes_the_attempt_in_flight() {
    let receiver = Receiver::builder()
        .script(|_| Reply::status(200).after(Duration::from_millis(700)))
        .start()
        .await
        .unwrap();
    let launch = Launch::fresh().unwrap();
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let ids = [api.test_webhook(&receiver.url("/x"), &json!({})).await.unwrap().webhook_id];
    receiver.wait_for(1, BOUND).await.unwrap();
    let took = stack.stop().unwrap();
    println!("exited {took:?} after SIGTERM, with an attempt in flight");
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let webhook = api.webhook(&ids[0]).await.unwrap();
    assert_eq!(
        (webhook.status.as_str(), webhook.attempt_count),
        ("delivered", 1),
        "the outcome is recorded"
    );
    assert_eq!(receiver.received().len(), 1);
    ledger::close(&api, stack, &launch).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_keys_requests_without_one_are_refused() {
    let launch = Launch::fresh().unwrap().set("API_KEYS", "correct-horse");
    let stack = launch.start().unwrap();
    let stranger = ApiClient::new(&stack.url(), None).unwrap();
    let refused = stranger.webhooks(&[]).await.unwrap_err();
    assert_eq!(refused.status().map(|status| status.as_u16()), Some(401));
    assert_eq!(stranger.health().await.unwrap().body, r#"{"status":"healthy"}"#);
    let friend = ApiClient::new(&stack.url(), Some("correct-horse")).unwrap();
    assert!(friend.webhooks(&[]).await.unwrap().items.is_empty());
    assert!(!launch.log().contains("correct-horse"));
    ledger::close(&friend, stack, &launch).await;
}
