//! `kill -9` of the function's processes during a batch.

use std::time::Duration;

use harness::{
    ledger,
    receiver::{Receiver, Reply},
};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::deployed::{Deployed, VISIBILITY_S};

/// The size of one batch.
const WEBHOOKS: usize = 10;

/// Leases expire, messages become visible, and attempts are repeated.
const BOUND: Duration = Duration::from_secs(VISIBILITY_S as u64 + 100);

/// Ten attempts hang when every process of `deliver` is killed. Their messages become visible
/// again, and each webhook is delivered. The lost attempts are recorded as interrupted.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_process_is_killed_is_delivered() {
    let deployed = Deployed::take().await;
    let receiver = Receiver::builder()
        .script(|_| Reply::status(200).after(Duration::from_secs(600)))
        .start()
        .await
        .unwrap();
    let api = deployed.api();
    let webhooks: Vec<Value> = (0..WEBHOOKS)
        .map(|n| {
            json!({"url": receiver.url("/crash"), "payload": n,
            "reference_id": format!("crash-{n}")})
        })
        .collect();
    let body = json!({ "webhooks": webhooks }).to_string();
    let answer = api.call(Method::POST, &["webhooks", "batch"], &[], Some(body)).await.unwrap();
    let accepted: Value = answer.expect(StatusCode::ACCEPTED).unwrap();
    let results = accepted["results"].as_array().unwrap();
    let ids: Vec<String> =
        results.iter().map(|result| result["webhook_id"].as_str().unwrap().to_owned()).collect();
    receiver.wait_for(WEBHOOKS, BOUND).await.unwrap();
    let killed = deployed.kill(deployed.output("DeliverFunctionName")).unwrap();
    assert!(killed > 0, "a process was running");
    receiver.answer_with(|_| Reply::status(200));

    let ledger = ledger::settle(&api, &ids, BOUND).await;
    assert_eq!(ledger.statuses, [("delivered".to_owned(), WEBHOOKS)].into());
    for id in &ids {
        let webhook = api.webhook(id).await.unwrap();
        assert_eq!(webhook.outcomes(), ["interrupted", "delivered"], "{id}");
        assert_eq!(receiver.wait_for_webhook(id, 2, BOUND).await.unwrap().len(), 2, "{id}");
    }
    println!(
        "{killed} processes of deliver killed with {WEBHOOKS} attempts in flight; all delivered"
    );
    deployed.close().await;
}
