//! Traffic control: a broken URL does not stop a healthy one on the same host, and a receiver that
//! refuses requests gets every webhook. `traffic` measures both at full size.

use std::time::Duration;

use harness::{
    client::ApiClient,
    ledger,
    receiver::{Receiver, Reply, rate_limited::fixed_windows},
    stack::Launch,
    wait::wait_until,
};
use serde_json::{Value, json};

/// The circuit stays open for ten seconds, and deferred webhooks are spread over as many again.
const BOUND: Duration = Duration::from_secs(120);

/// Webhooks to the healthy path.
const HEALTHY: usize = 30;

/// Webhooks to the broken path for each healthy one.
const BROKEN_SHARE: usize = 6;

/// Webhooks to a receiver that takes [`PER_SECOND`].
const THROTTLED: usize = 12;
const PER_SECOND: u32 = 2;

async fn send(api: &ApiClient, url: &str) -> String {
    api.test_webhook(url, &json!({})).await.unwrap().webhook_id
}

/// The circuits of the receiver's targets, by the name of the target.
async fn circuits(api: &ApiClient) -> Vec<(String, String)> {
    let destinations = api.destinations().await.unwrap();
    let items = destinations["items"].as_array().unwrap();
    let targets = items.iter().flat_map(|item| item["targets"].as_array().unwrap());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    targets.map(|target| (text(&target["target"]), text(&target["circuit"]))).collect()
}

/// The transitions of a webhook, and its spent attempts.
async fn story(api: &ApiClient, id: &str) -> (Vec<String>, u64) {
    let explained = api.explain(id).await.unwrap();
    let steps = explained["steps"].as_array().unwrap().iter();
    let steps = steps.map(|step| step["transition"].as_str().unwrap().to_owned()).collect();
    (steps, explained["budget"]["attempts"]["used"].as_u64().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_path_is_delivered_while_the_circuit_of_a_broken_one_is_open() {
    let receiver = Receiver::builder()
        .script(|request| Reply::status(if request.path() == "/broken" { 500 } else { 200 }))
        .start()
        .await
        .unwrap();
    let launch = Launch::fresh()
        .unwrap()
        .set("RETRY_BASE_DELAY_MS", "10")
        .set("RETRY_MAX_ATTEMPTS", "20")
        .set("CIRCUIT_FAILURES", "3")
        .set("CIRCUIT_OPEN_MS", "10000");
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let mut broken = vec![send(&api, &receiver.url("/broken")).await];
    wait_until("the circuit of the broken URL opens", BOUND, async || {
        circuits(&api).await.iter().any(|(_, circuit)| circuit == "open")
    })
    .await;
    let mut healthy = Vec::new();
    for _ in 0..HEALTHY {
        for _ in 0..BROKEN_SHARE {
            broken.push(send(&api, &receiver.url("/broken")).await);
        }
        healthy.push(send(&api, &receiver.url("/healthy")).await);
    }
    let statuses = ledger::settle(&api, &healthy, BOUND).await.statuses;
    assert_eq!(statuses, [("delivered".to_owned(), HEALTHY)].into());
    let circuits = circuits(&api).await;
    let [(target, circuit)] = circuits.as_slice() else { panic!("one target: {circuits:?}") };
    let origin = format!("http://{}#", receiver.address());
    assert!(target.starts_with(&origin), "the URL, not its origin: {circuits:?}");
    assert_ne!(circuit, "closed", "the receiver still fails: {circuits:?}");
    for id in &healthy {
        let (steps, attempts) = story(&api, id).await;
        assert_eq!(
            (attempts, steps),
            (1, ["create", "claim", "deliver"].map(str::to_owned).into())
        );
    }

    // The broken path recovers. Waits for its circuit spent no attempts, so none is lost.
    receiver.answer_with(|_| Reply::status(200));
    let statuses = ledger::settle(&api, &broken, BOUND).await.statuses;
    assert_eq!(statuses, [("delivered".to_owned(), broken.len())].into());
    ledger::close(&api, stack, &launch).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_refuses_requests_gets_every_webhook_and_no_attempt_is_spent() {
    let receiver =
        Receiver::builder().script(fixed_windows(PER_SECOND, "1")).start().await.unwrap();
    // One attempt each: a refusal that spent one would make a dead letter.
    let launch = Launch::fresh()
        .unwrap()
        .set("RETRY_MAX_ATTEMPTS", "1")
        .set("RETRY_CLIENT_ERROR_MAX_ATTEMPTS", "1");
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let mut ids = Vec::new();
    for _ in 0..THROTTLED {
        ids.push(send(&api, &receiver.url("/x")).await);
    }
    let statuses = ledger::settle(&api, &ids, BOUND).await.statuses;
    assert_eq!(statuses, [("delivered".to_owned(), THROTTLED)].into());
    let arrivals = receiver.received();
    let mut refused = 0;
    for id in &ids {
        let webhook = api.webhook(id).await.unwrap();
        let requests =
            arrivals.iter().filter(|request| request.webhook_id() == Some(id.as_str())).count();
        assert_eq!(webhook.attempts.len(), requests, "each request is listed: {webhook:?}");
        assert_eq!(webhook.attempt_count as usize, requests, "{webhook:?}");
        refused += requests - 1;
        let (steps, attempts) = story(&api, id).await;
        assert_eq!(attempts, 1, "a refusal spends no attempt: {steps:?}");
        assert!(api.dead_letter(id).await.unwrap().is_none(), "{webhook:?}");
    }
    assert!(refused > 0, "the receiver refused no request, so this proves nothing");
    ledger::close(&api, stack, &launch).await;
}
