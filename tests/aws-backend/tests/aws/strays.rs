//! Messages from other senders.

use std::time::Duration;

use harness::{ledger, receiver::Receiver, wait::wait_until};
use serde_json::json;

use crate::deployed::Deployed;

const BOUND: Duration = Duration::from_secs(60);

/// The reference id that `dlq` gives them.
const REFERENCE: &str = "unreadable-message";

/// A message that neither function can parse becomes a dead letter with its text, from either
/// queue. Webhooks before and after it are delivered normally.
#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_message_becomes_a_dead_letter_and_blocks_no_webhook() {
    let deployed = Deployed::take().await;
    let receiver = Receiver::start().await.unwrap();
    let api = deployed.api();
    let garbage = ["garbage-1 {\"webhook_id\": 7", "garbage-2"];
    let mut ids = Vec::new();
    for (text, queue) in garbage.iter().zip(["QueueUrl", "DeadLetterQueueUrl"]) {
        ids.push(api.test_webhook(&receiver.url("/before"), &json!({})).await.unwrap().webhook_id);
        deployed.send_message(deployed.output(queue), text).await.unwrap();
        ids.push(api.test_webhook(&receiver.url("/after"), &json!({})).await.unwrap().webhook_id);
    }
    assert_eq!(
        ledger::settle(&api, &ids, BOUND).await.statuses,
        [("delivered".to_owned(), ids.len())].into()
    );

    wait_until("both are dead letters", BOUND, async || {
        api.dead_letters(&[("reference_id", REFERENCE)]).await.unwrap().items.len() == garbage.len()
    })
    .await;
    let mut texts = Vec::new();
    for letter in api.dead_letters(&[("reference_id", REFERENCE)]).await.unwrap().items {
        let letter = api.dead_letter(&letter.webhook_id).await.unwrap().unwrap();
        assert_eq!((letter.last_error.kind.as_str(), letter.attempt_count), ("undeliverable", 0));
        texts.push(letter.payload.unwrap().as_str().unwrap().to_owned());
        api.delete_dead_letter(&letter.webhook_id).await.unwrap();
    }
    texts.sort();
    assert_eq!(texts, garbage);
    deployed.close().await;
}
