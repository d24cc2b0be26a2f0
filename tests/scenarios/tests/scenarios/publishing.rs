//! `kill -9` of the local stack and of each function while messages are published and endpoints
//! change. Every planned delivery of every accepted message ends delivered, as a dead letter, or
//! deleted on purpose.

use std::time::Duration;

use harness::{
    crash::times,
    publishing::{kill_functions, kill_stack, with_endpoints},
    stack::Launch,
};

const BOUND: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn no_delivery_is_lost_when_the_stack_is_killed_on_sqlite() {
    let launch = Launch::fresh()
        .unwrap()
        .set("DELIVERY_TIMEOUT_MS", "6000")
        .set("LEASE_MS", "10000")
        .set("ENDPOINT_RETRY_SCHEDULE", "50ms,50ms,50ms,50ms")
        .set("CIRCUIT_FAILURES", "0")
        .set("RUST_LOG", "warn");
    kill_stack("messages on SQLite", &launch, BOUND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_delivery_is_lost_when_functions_are_killed_on_sqlite() {
    kill_functions("SQLite", with_endpoints(times("600", "1000")), BOUND).await;
}
