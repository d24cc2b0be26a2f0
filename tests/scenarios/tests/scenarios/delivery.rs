//! One complete webhook: its bytes, headers and signature, and its status afterwards.

use std::time::Duration;

use harness::{
    client::ApiClient,
    ledger,
    receiver::{Receiver, Reply, Secrets, SignatureStatus},
    stack::Launch,
};
use http::Method;
use serde_json::Value;

const BOUND: Duration = Duration::from_secs(20);

/// The key of the Standard Webhooks documentation and a raw one, as during a rotation.
const SECRETS: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw my-old-secret!";

#[tokio::test(flavor = "multi_thread")]
async fn the_payload_arrives_byte_for_byte_and_the_reference_verifier_accepts_it() {
    let receiver = Receiver::builder()
        .secrets(Secrets::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))
        .start()
        .await
        .unwrap();
    let launch = Launch::fresh().unwrap().set("WEBHOOK_HMAC_SECRET", SECRETS);
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let payload = r#"{"a":1.0, "b":"\u00e9",  "big":12345678901234567890123.4500,"a":2}"#;
    let body = format!(
        r#"{{"payload":{payload} , "url":"{}", "reference_id":"order-7",
            "event_type":"order.paid", "headers":{{"x-shop":"7"}}}}"#,
        receiver.url("/hook?x=1")
    );
    let answer = api.call(Method::POST, &["webhooks"], &[], Some(body)).await.unwrap();
    let correlation_id = answer.correlation_id().unwrap();
    let accepted: Value = answer.expect(http::StatusCode::ACCEPTED).unwrap();
    let id = accepted["webhook_id"].as_str().unwrap();
    assert_eq!(accepted["status"], "pending");
    assert_eq!(accepted["correlation_id"], correlation_id);

    let request = receiver.wait_for(1, BOUND).await.unwrap().remove(0);
    assert_eq!(std::str::from_utf8(&request.body).unwrap(), payload);
    assert_eq!(request.verdict, SignatureStatus::Valid);
    assert_eq!(request.uri.to_string(), "/hook?x=1");
    assert_eq!(
        request.header("webhook-signature").unwrap().split(' ').count(),
        2,
        "each secret signs"
    );
    for (name, value) in [
        ("webhook-id", id),
        ("x-correlation-id", &correlation_id),
        ("x-webhook-attempt", "1"),
        ("x-webhook-event", "order.paid"),
        ("x-shop", "7"),
        ("content-type", "application/json"),
        ("user-agent", concat!("Posthaste/", env!("CARGO_PKG_VERSION"))),
    ] {
        assert_eq!(request.header(name), Some(value), "{name}");
    }

    let ids = [id.to_owned()];
    assert_eq!(
        ledger::settle(&api, &ids, BOUND).await.statuses,
        [("delivered".to_owned(), 1)].into()
    );
    let webhook = api.webhook(id).await.unwrap();
    assert_eq!((webhook.attempt_count, webhook.attempts.len(), webhook.last_error), (1, 1, None));
    assert_eq!(webhook.attempts[0].outcome, "delivered");
    let explained = api.explain(id).await.unwrap();
    let steps: Vec<&str> = explained["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["transition"].as_str().unwrap())
        .collect();
    assert_eq!(steps, ["create", "claim", "deliver"]);
    for secret in ["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "my-old-secret!", "12345678901234567890123"]
    {
        assert!(!launch.log().contains(secret), "the log contains a secret or payload");
    }
    ledger::close(&api, stack, &launch).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_complete_and_redriven_with_a_new_budget() {
    let receiver = Receiver::builder()
        .script(|_| Reply::status(500).body("out of order"))
        .start()
        .await
        .unwrap();
    let launch =
        Launch::fresh().unwrap().set("RETRY_BASE_DELAY_MS", "10").set("CIRCUIT_FAILURES", "0");
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let accepted =
        api.test_webhook(&receiver.url("/x"), &serde_json::json!({"n": 1})).await.unwrap();
    let ids = [accepted.webhook_id.clone()];
    ledger::settle(&api, &ids, BOUND).await;
    let letter = api.dead_letter(&ids[0]).await.unwrap().unwrap();
    assert_eq!((letter.attempt_count, letter.attempts.as_ref().unwrap().len()), (3, 3));
    assert_eq!(letter.payload, Some(serde_json::json!({"n": 1})));
    assert_eq!(letter.last_error.status_code, Some(500));
    assert_eq!(Some(letter.correlation_id), accepted.correlation_id);
    let kept_s = letter.expires_at.duration_since(letter.failed_at).as_secs();
    assert!((kept_s - 30 * 24 * 3600).abs() < 60, "30 days: {kept_s} s");

    receiver.answer_with(|_| Reply::status(204));
    api.redrive(&ids[0]).await.unwrap();
    let requests = receiver.wait_for(4, BOUND).await.unwrap();
    assert_eq!(requests[3].attempt(), Some(4), "attempt numbers continue");
    assert_eq!(requests[3].webhook_id(), Some(ids[0].as_str()), "the id is unchanged");
    assert_eq!(
        ledger::settle(&api, &ids, BOUND).await.statuses,
        [("delivered".to_owned(), 1)].into()
    );
    assert!(api.dead_letter(&ids[0]).await.unwrap().is_none());
    ledger::close(&api, stack, &launch).await;
}
