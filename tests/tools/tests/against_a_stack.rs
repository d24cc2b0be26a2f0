//! The test tools themselves, run against a real stack and the real receiver, as a user runs them.
//! Times are shortened by the settings, which the tools are told by the same variables.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "these are tests: their panics are verdicts"
)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what a test prints is read by who runs it"
)]

use std::{process::Output, time::Duration};

use harness::{
    client::ApiClient,
    receiver::{Behaviour, Receiver},
    stack::{Launch, Stack},
};
use tokio::process::Command;

const BASE_DELAY_MS: &str = "300";

async fn run(tool: &str, stack: &Stack, receiver: &Receiver, arguments: &[&str]) -> Output {
    Command::new(tool)
        .args([
            "--api-url",
            &stack.url(),
            "--receiver-url",
            &format!("http://{}", receiver.address()),
            // How late the stack may be on a busy machine is not what these tests are about.
            "--lateness-ms",
            "60000",
        ])
        .args(arguments)
        .env("RETRY_BASE_DELAY_MS", BASE_DELAY_MS)
        .env("MIN_RETRY_DELAY_MS", "0")
        .output()
        .await
        .unwrap()
}

fn launch() -> Launch {
    // Attempts of the timeout scenario take two seconds instead of thirty. The breaker is off:
    // several failing runs against one receiver would open its circuit, which is right, and slow.
    let launch = Launch::fresh()
        .unwrap()
        .set("RETRY_BASE_DELAY_MS", BASE_DELAY_MS)
        .set("CIRCUIT_FAILURES", "0");
    launch.set("DELIVERY_TIMEOUT_MS", "2000").set("LEASE_MS", "6000")
}

fn assert_passed(what: &str, output: &Output) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{what}: {}\n{}\n{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_ends_as_the_policy_says() {
    let receiver = Receiver::start().await.unwrap();
    let launch = launch();
    let stack = launch.start().unwrap();
    let tool = env!("CARGO_BIN_EXE_test-webhook-failure");
    assert_passed("a delivery", &run(tool, &stack, &receiver, &[]).await);
    for failure in ["4xx", "5xx", "timeout", "invalid_url"] {
        assert_passed(failure, &run(tool, &stack, &receiver, &["--failure", failure]).await);
    }
    stack.stop().unwrap();
}

/// The second run opens the circuit of the receiver's URL. The tool says so, and waits for as long
/// as that takes.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_an_open_circuit_is_told_and_passes() {
    let receiver = Receiver::start().await.unwrap();
    let launch = launch().set("CIRCUIT_FAILURES", "4").set("CIRCUIT_OPEN_MS", "500");
    let stack = launch.start().unwrap();
    let tool = env!("CARGO_BIN_EXE_test-webhook-failure");
    for (round, is_deferred) in [(1, false), (2, true)] {
        let output = run(tool, &stack, &receiver, &["--failure", "5xx"]).await;
        assert_passed(&format!("round {round}"), &output);
        let printed = String::from_utf8_lossy(&output.stdout);
        for text in ["is open after repeated failures", "(extended by a deferral)"] {
            assert_eq!(printed.contains(text), is_deferred, "round {round}: {text}\n{printed}");
        }
    }
    stack.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_made_and_redriven() {
    let failing = Behaviour { failure_rate: 100, ..Behaviour::default() };
    let receiver = Receiver::builder().behaviour(failing).start().await.unwrap();
    let launch = launch();
    let stack = launch.start().unwrap();
    assert_passed(
        "dlq",
        &run(env!("CARGO_BIN_EXE_test-webhook-dlq"), &stack, &receiver, &[]).await,
    );
    assert_passed(
        "dlq-simple",
        &run(env!("CARGO_BIN_EXE_test-webhook-dlq-simple"), &stack, &receiver, &[]).await,
    );
    stack.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_that_does_not_do_as_it_should_is_found_out() {
    // A policy of five attempts is not what the tool was told: it must say so.
    let receiver = Receiver::start().await.unwrap();
    let launch = launch().set("RETRY_MAX_ATTEMPTS", "5");
    let stack = launch.start().unwrap();
    let output =
        run(env!("CARGO_BIN_EXE_test-webhook-failure"), &stack, &receiver, &["--failure", "5xx"])
            .await;
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    stack.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_connections_are_retried_three_times() {
    let receiver = Receiver::start().await.unwrap();
    let url = receiver.url("/x");
    drop(receiver);
    let launch = launch();
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let ids = [api.test_webhook(&url, &serde_json::json!({})).await.unwrap().webhook_id];
    let ledger = harness::ledger::settle(&api, &ids, Duration::from_secs(30)).await;
    assert_eq!(ledger.statuses, [("failed".to_owned(), 1)].into());
    let webhook = api.webhook(&ids[0]).await.unwrap();
    assert_eq!((webhook.attempt_count, webhook.error_kind()), (3, Some("network")));
    harness::ledger::close(&api, stack, &launch).await;
}
