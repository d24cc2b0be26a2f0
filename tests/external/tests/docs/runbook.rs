//! The runbook's commands, run against a stack: each is one that the API knows.

use std::time::Instant;

use harness::{
    binaries::workspace,
    client::{ApiClient, NewWebhook},
    receiver::{Behaviour, Receiver},
    stack::Launch,
};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    page::Page,
    shell::{BOUND, POLL_INTERVAL, Shell},
};

/// What the API answers to a call that it does not have, or a query that it does not know.
const NOT_UNDERSTOOD: [&str; 4] = [
    "There is no such route",
    "urn:posthaste:method-not-allowed",
    "urn:posthaste:bad-request",
    "urn:posthaste:invalid-fields",
];

/// Every line of `docs/operating.md` that calls `$API`, with `$ID` a dead letter: it is answered,
/// and not as a call that does not exist.
#[tokio::test(flavor = "multi_thread")]
async fn every_call_of_the_runbook_is_one_that_the_api_has() {
    let receiver = Receiver::builder().behaviour(Behaviour::default()).start().await.unwrap();
    let launch =
        Launch::fresh().unwrap().set("RETRY_BASE_DELAY_MS", "50").set("CIRCUIT_FAILURES", "0");
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let payload = json!({"hello": "world"});
    let webhook = NewWebhook {
        url: &receiver.url("/status-code/404"),
        payload: &payload,
        reference_id: Some("order-7"),
    };
    let id = api.submit(&webhook).await.unwrap().webhook_id;
    let deadline = Instant::now() + BOUND;
    while api.dead_letter(&id).await.unwrap().is_none() {
        assert!(Instant::now() < deadline, "{id} is no dead letter");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    let folder = TempDir::new().unwrap();
    let mut shell = Shell::start(folder.path());
    shell.run(&format!("API={}; ID={id}", stack.url()));
    let blocks = Page::read(&workspace().join("docs/operating.md")).blocks;
    let calls: Vec<&str> = blocks
        .iter()
        .filter(|block| block.info == "sh")
        .flat_map(|block| block.text.lines())
        .filter(|line| line.contains("$API/"))
        .collect();
    for call in &calls {
        // Whoever may listen at the usual port is not to be bothered.
        let printed = shell.run(&call.replace("127.0.0.1:9001", &receiver.address().to_string()));
        assert!(!printed.trim().is_empty(), "nothing was answered to: {call}");
        assert!(!NOT_UNDERSTOOD.iter().any(|answer| printed.contains(answer)), "{call}\n{printed}");
    }
    assert!(calls.len() >= 15, "only {} calls were found", calls.len());
    // A redrive among them has sent it again.
    receiver.wait_for_webhook(&id, 3, BOUND).await.unwrap();
    stack.stop().unwrap();
}
