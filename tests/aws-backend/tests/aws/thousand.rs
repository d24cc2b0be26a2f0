//! A thousand webhooks through the function URL, to destinations with every kind of response.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{StreamExt, stream};
use harness::{
    client::{ApiClient, NewWebhook},
    ledger,
    receiver::{Received, Receiver, Reply},
};
use serde_json::json;

use crate::deployed::Deployed;

const WEBHOOKS: usize = 1000;

/// Concurrent API calls.
const CLIENTS: usize = 8;

/// The bound until all webhooks are finished, on two busy cores.
const BOUND: Duration = Duration::from_secs(300);

/// A destination's behavior, and the final status and number of attempts under the retry policy.
const KINDS: [(&str, &str, usize); 6] = [
    ("ok", "delivered", 1),
    ("recovers", "delivered", 2),
    ("refuses", "failed", 2),
    ("fails", "failed", 3),
    ("gone", "failed", 1),
    ("hangs", "failed", 3),
];

/// Of a hundred, most are good, and one hangs, because each of those takes three timeouts.
fn kind_of(n: usize) -> &'static str {
    match n % 100 {
        0..60 => "ok",
        60..70 => "recovers",
        70..80 => "refuses",
        80..90 => "fails",
        90..99 => "gone",
        _ => "hangs",
    }
}

fn answer(request: &Received) -> Reply {
    match (request.uri.path().trim_start_matches('/'), request.attempt()) {
        ("ok", _) | ("recovers", Some(2..)) => Reply::status(200),
        ("refuses", _) => Reply::status(404),
        ("gone", _) => Reply::status(410),
        ("hangs", _) => Reply::status(200).after(Duration::from_secs(600)),
        _ => Reply::status(503),
    }
}

async fn submit(api: &ApiClient, receiver: &Receiver, n: usize) -> (String, &'static str) {
    let kind = kind_of(n);
    let (url, reference, payload) =
        (receiver.url(kind), format!("thousand-{n}"), json!({"n": n, "filler": "x".repeat(900)}));
    let webhook = NewWebhook { url: &url, payload: &payload, reference_id: Some(&reference) };
    (api.submit(&webhook).await.unwrap().webhook_id, kind)
}

/// Each webhook ends with the status and number of attempts of the retry policy. `dlq` archives the
/// failed ones. The ledger balances.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_webhooks_follow_the_retry_policy() {
    let deployed = Deployed::take().await;
    let receiver = Receiver::builder().script(answer).start().await.unwrap();
    let api = deployed.api();
    let submitted: Vec<(String, &str)> = stream::iter(0..WEBHOOKS)
        .map(|n| submit(&api, &receiver, n))
        .buffer_unordered(CLIENTS)
        .collect()
        .await;
    let ids: Vec<String> = submitted.iter().map(|(id, _)| id.clone()).collect();
    let ledger = ledger::settle(&api, &ids, BOUND).await;
    assert_eq!(ledger.statuses, [("delivered".to_owned(), 700), ("failed".to_owned(), 300)].into());

    let mut requests: BTreeMap<String, usize> = BTreeMap::new();
    for request in receiver.received() {
        *requests.entry(request.webhook_id().unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!(requests.len(), WEBHOOKS, "the receiver got all webhooks and no others");
    let webhooks = stream::iter(&submitted)
        .map(async |(id, kind)| (id, *kind, api.webhook(id).await.unwrap()));
    let webhooks: Vec<_> = webhooks.buffer_unordered(CLIENTS).collect().await;
    for (id, kind, webhook) in webhooks {
        let (_, status, attempts) = KINDS.iter().find(|(name, ..)| *name == kind).unwrap();
        let found = (webhook.status.as_str(), webhook.attempts.len(), requests[id]);
        assert_eq!(found, (*status, *attempts, *attempts), "{kind}: {webhook:?}");
    }
    deployed.close().await;
}
