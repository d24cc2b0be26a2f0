//! The entry point before the functions, their secrets, their schedule and their size.

use std::time::Duration;

use harness::{
    aws::AwsStack,
    client::NewWebhook,
    ledger,
    receiver::{Receiver, Secrets, SignatureStatus},
    wait::wait_until,
};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tools::startup::MAX_ZIP_BYTES;

use crate::deployed::Deployed;

const BOUND: Duration = Duration::from_secs(60);

/// Requests without a valid key are refused, and `/health` shows them only the status. The key in
/// Parameter Store is accepted.
#[tokio::test(flavor = "multi_thread")]
async fn requests_without_a_valid_key_are_refused() {
    let deployed = Deployed::take().await;
    for key in [None, Some("wrong")] {
        let api = deployed.client_with(key).unwrap();
        let payload = json!({});
        let webhook =
            NewWebhook { url: "http://127.0.0.1:1/", payload: &payload, reference_id: None };
        let refused = api.submit(&webhook).await.unwrap_err();
        assert_eq!(refused.status(), Some(StatusCode::UNAUTHORIZED), "{refused}");
    }
    let summary: Value =
        deployed.client_with(None).unwrap().health().await.unwrap().expect(StatusCode::OK).unwrap();
    assert_eq!(summary.as_object().unwrap().len(), 1, "{summary}");
    let full: Value = deployed.api().health().await.unwrap().expect(StatusCode::OK).unwrap();
    assert_eq!(
        (&full["store"]["backend"], &full["queue"]["backend"]),
        (&json!("dynamodb"), &json!("sqs")),
        "{full}"
    );
}

/// The signing secret comes from Secrets Manager, and the reference verifier accepts its
/// signatures. Neither it nor the API's key is in a function's environment.
#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_used_and_in_no_environment() {
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

/// The schedule runs the sweep, and `/health` shows the latest run.
#[tokio::test(flavor = "multi_thread")]
async fn the_schedule_runs_the_sweep() {
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
async fn the_function_zips_are_small() {
    let deployed = Deployed::take().await;
    println!("zips: {:?}", deployed.zip_bytes());
    assert_eq!(deployed.zip_bytes().len(), 4);
    assert!(
        deployed.zip_bytes().values().all(|bytes| *bytes <= MAX_ZIP_BYTES as u64),
        "{:?}",
        deployed.zip_bytes()
    );
}

/// A deployment with the HTTP API and without optional parts. The HTTP API responds like the
/// function URL, and no alarm or dashboard is created.
#[tokio::test(flavor = "multi_thread")]
async fn the_http_api_front_works_like_the_function_url() {
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
