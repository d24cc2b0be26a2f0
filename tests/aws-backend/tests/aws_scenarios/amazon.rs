//! The local stack with its store, its queue, or both on emulated DynamoDB and SQS: all paths of
//! webhooks on each mix of backends.

use std::time::Duration;

use harness::{
    aws::AwsStack, client::ApiClient, ledger, life, redis_server::RedisServer, stack::Launch,
};
use serde_json::json;

/// Allows for the emulator's polls and a busy core.
const BOUND: Duration = Duration::from_secs(90);

/// All paths of a webhook work on these backends, and health names both.
async fn check_all_paths(status: &str, queue: &str, settings: &[(&str, &str)]) {
    let times = [("RETRY_BASE_DELAY_MS", "50"), ("CIRCUIT_FAILURES", "0"), ("RUST_LOG", "warn")];
    let backends = [("STATUS_BACKEND", status), ("QUEUE_BACKEND", queue)];
    let all = times.iter().chain(&backends).chain(settings);
    let launch =
        all.fold(Launch::fresh().unwrap(), |launch, (variable, value)| launch.set(variable, value));
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let health: serde_json::Value =
        api.health().await.unwrap().expect(http::StatusCode::OK).unwrap();
    assert_eq!(
        (&health["store"]["backend"], &health["queue"]["backend"]),
        (&json!(status), &json!(queue)),
        "{health}"
    );
    life::live(&api, BOUND).await;
    ledger::end(&api, stack).await;
}

/// Each mix has its own table and queues. The last poll of a stopped stack may still receive a
/// message and hide it for the visibility timeout.
#[tokio::test(flavor = "multi_thread")]
async fn all_webhook_paths_work_on_each_mix_of_backends() {
    let emulator = tokio::task::spawn_blocking(AwsStack::emulator)
        .await
        .unwrap()
        .unwrap_or_else(|error| panic!("{error}"));
    let redis = RedisServer::durable().unwrap();
    let (status_url, queue_url) = (redis.url(2), redis.url(1));
    for (status, queue) in [
        ("dynamodb", "sqs"),
        ("redis", "sqs"),
        ("dynamodb", "redis"),
        ("sqlite", "sqs"),
        ("dynamodb", "sqlite"),
    ] {
        let name = format!("{status}-{queue}");
        emulator.create_table(&name).await.unwrap();
        let queues = emulator.create_queues(&name).await.unwrap();
        let settings = [
            ("AWS_ENDPOINT_URL", emulator.endpoint()),
            ("AWS_REGION", emulator.region()),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("TABLE_NAME", &name),
            ("QUEUE_URL", &queues.webhooks),
            ("DEAD_LETTER_QUEUE_URL", &queues.dead_letters),
            ("STATUS_REDIS_URL", &status_url),
            ("QUEUE_REDIS_URL", &queue_url),
        ];
        check_all_paths(status, queue, &settings).await;
    }
}
