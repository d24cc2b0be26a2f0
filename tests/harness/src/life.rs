//! A webhook on each path of its life cycle, for any backend.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "tests call this: its panics are their failures"
)]

use std::time::Duration;

use crate::{
    client::ApiClient,
    ledger,
    receiver::{Receiver, Reply},
};
use serde_json::json;

/// Checks a webhook that is delivered at once, one that is delivered by a retry, and one that fails
/// and is redriven.
pub async fn live(api: &ApiClient, bound: Duration) {
    let receiver =
        Receiver::builder().script(|request| match (request.uri.path(), request.attempt()) {
            ("/at-once", _) | ("/retry", Some(2..)) | ("/redrive", Some(4..)) => Reply::status(200),
            _ => Reply::status(503),
        });
    let receiver = receiver.start().await.unwrap();
    let mut ids = Vec::new();
    for path in ["/at-once", "/retry", "/redrive"] {
        ids.push(
            api.test_webhook(&receiver.url(path), &json!({"path": path})).await.unwrap().webhook_id,
        );
    }
    let statuses = ledger::settle(api, &ids, bound).await.statuses;
    assert_eq!(statuses, [("delivered".to_owned(), 2), ("failed".to_owned(), 1)].into());
    let letter = api.dead_letter(&ids[2]).await.unwrap().unwrap();
    assert_eq!((letter.attempt_count, letter.payload), (3, Some(json!({"path": "/redrive"}))));
    api.redrive(&ids[2]).await.unwrap();
    assert_eq!(
        ledger::settle(api, &ids, bound).await.statuses,
        [("delivered".to_owned(), 3)].into()
    );
    for (id, attempts) in ids.iter().zip([1, 2, 4]) {
        assert_eq!(api.webhook(id).await.unwrap().attempt_count, attempts, "{id}");
    }
}
