//! The runbook's calls, run against a stack: the API understands each of them.

use std::time::Instant;

use harness::{
    binaries::workspace,
    client::{ApiClient, NewWebhook},
    receiver::{Behaviour, Receiver},
    stack::Launch,
};
use repository::page::Page;
use serde_json::json;
use tempfile::TempDir;

use crate::shell::{BOUND, POLL_INTERVAL, Shell};

/// Parts of the responses to an unknown route, method or parameter.
const NOT_UNDERSTOOD: [&str; 4] = [
    "No such route",
    "urn:posthaste:method-not-allowed",
    "urn:posthaste:bad-request",
    "urn:posthaste:invalid-fields",
];

/// Runs every line of `docs/operating.md` that calls `$API`, with a dead letter as `$ID`.
#[tokio::test(flavor = "multi_thread")]
async fn the_api_understands_every_call_of_the_runbook() {
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
        assert!(Instant::now() < deadline, "{id} did not become a dead letter");
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
        // Another program may listen at the usual port.
        let printed = shell.run(&call.replace("127.0.0.1:9001", &receiver.address().to_string()));
        assert!(!printed.trim().is_empty(), "no response to: {call}");
        assert!(!NOT_UNDERSTOOD.iter().any(|answer| printed.contains(answer)), "{call}\n{printed}");
    }
    assert!(calls.len() >= 15, "only {} calls were found", calls.len());
    // A redrive among the calls has sent it again.
    receiver.wait_for_webhook(&id, 3, BOUND).await.unwrap();
    stack.stop().unwrap();
}
