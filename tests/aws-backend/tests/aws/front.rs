//! What stands before the functions, and what they are made of.

use std::time::Duration;

use harness::{
    aws::AwsStack,
    client::NewWebhook,
    ledger,
    receiver::{Receiver, Secrets, SignatureStatus},
};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tools::startup::MAX_ZIP_BYTES;

use crate::deployed::{Deployed, wait_until};

const BOUND: Duration = Duration::from_secs(60);

/// Without a key nobody gets in, and `/health` tells a word and no more; the key in Parameter Store
/// lets in.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_key_is_refused() {
    let deployed = Deployed::take().await;
    for key in [None, Some("wrong")] {
        let api = deployed.client_with(key).unwrap();
        let payload = json!({});
        let webhook =
            NewWebhook { url: "http://127.0.0.1:1/", payload: &payload, reference_id: None };
        let refused = api.submit(&webhook).await.unwrap_err();
        assert_eq!(refused.status(), Some(StatusCode::UNAUTHORIZED), "{refused}");
    }
    let word: Value =
        deployed.client_with(None).unwrap().health().await.unwrap().expect(StatusCode::OK).unwrap();
    assert_eq!(word.as_object().unwrap().len(), 1, "{word}");
    let whole: Value = deployed.api().health().await.unwrap().expect(StatusCode::OK).unwrap();
    assert_eq!(
        (&whole["store"]["backend"], &whole["queue"]["backend"]),
        (&json!("dynamodb"), &json!("sqs")),
        "{whole}"
    );
}

/// The signing secret comes out of Secrets Manager, and the reference verifier accepts what it
/// signs. It stands in no function's environment, and neither does the API's key.
#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_used_and_stand_in_no_environment() {
    let deployed = Deployed::take().await;
    let receiver = Receiver::builder()
        .secrets(Secrets::parse(deployed.signing_secret()))
        .start()
        .await
        .unwrap();
    let api = deployed.api();
    let ids =
        [api.test_webhook(&receiver.url("/signed"), &json!({"n": 1})).await.unwrap().webhook_id];
    let request = receiver.wait_for(1, BOUND).await.unwrap().remove(0);
    assert_eq!(request.verdict, SignatureStatus::Valid);
    ledger::settle(&api, &ids, BOUND).await;
    for function in ["Api", "Deliver", "Sweep", "Dlq"] {
        let name = deployed.output(&format!("{function}FunctionName"));
        let described =
            deployed.lambda(Method::GET, &format!("functions/{name}"), &Value::Null).await.unwrap();
        let environment = described["Configuration"]["Environment"].to_string();
        assert!(environment.contains("QUEUE_URL"), "{name} has an environment: {environment}");
        for secret in [deployed.signing_secret(), deployed.api_key()] {
            assert!(!environment.contains(secret), "{name}: {environment}");
        }
    }
    deployed.close().await;
}

/// The schedule runs the sweep: `/health` tells of its latest run.
#[tokio::test(flavor = "multi_thread")]
async fn the_sweep_is_run_each_minute() {
    let deployed = Deployed::take().await;
    let api = deployed.api();
    wait_until("the sweep has run", Duration::from_secs(150), async || {
        let health: Value = api.health().await.unwrap().expect(StatusCode::OK).unwrap();
        health["sweep"]["status"] == "healthy"
    })
    .await;
}

/// Each function's zip is at most 5 MiB.
#[tokio::test(flavor = "multi_thread")]
async fn the_functions_are_small() {
    let deployed = Deployed::take().await;
    println!("zips: {:?}", deployed.zip_bytes());
    assert_eq!(deployed.zip_bytes().len(), 4);
    assert!(
        deployed.zip_bytes().values().all(|bytes| *bytes <= MAX_ZIP_BYTES as u64),
        "{:?}",
        deployed.zip_bytes()
    );
}

/// The other front, and without what can be left out: the HTTP API answers as the function URL
/// does, and no alarm and no dashboard is made.
#[tokio::test(flavor = "multi_thread")]
async fn behind_an_http_api_it_is_the_same() {
    let parameters = [("ApiFront", "http-api"), ("Alarms", "false"), ("Dashboard", "false")];
    let stack = tokio::task::spawn_blocking(move || AwsStack::deployed(&parameters)).await.unwrap();
    let stack = stack.unwrap_or_else(|error| panic!("{error}"));
    let refused = stack.client_with(None).unwrap().webhooks(&[]).await.unwrap_err();
    assert_eq!(refused.status(), Some(StatusCode::UNAUTHORIZED), "{refused}");
    let receiver = Receiver::start().await.unwrap();
    let api = stack.client().unwrap();
    let ids = [api.test_webhook(&receiver.url("/x"), &json!({"n": 1})).await.unwrap().webhook_id];
    assert_eq!(
        ledger::settle(&api, &ids, BOUND).await.statuses,
        [("delivered".to_owned(), 1)].into()
    );
    let alarms =
        stack.call("GraniteServiceVersion20100801.DescribeAlarms", json!({})).await.unwrap();
    assert_eq!(alarms["MetricAlarms"], json!([]));
}
