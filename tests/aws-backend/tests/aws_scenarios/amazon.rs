//! The local stack with its store or its queue, or both, on DynamoDB and SQS as an emulator has
//! them: the whole life of webhooks on each mixture of backends.

use std::time::Duration;

use harness::{
    aws::AwsStack, client::ApiClient, ledger, life, redis_server::RedisServer, stack::Launch,
};
use serde_json::json;

/// The emulator's polls and one core of a busy machine.
const BOUND: Duration = Duration::from_secs(90);

/// Every way that a webhook can take works whatever keeps webhooks and messages, and health names
/// both.
async fn a_life_on(status: &str, queue: &str, settings: &[(&str, &str)]) {
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

/// Each mixture has a table and queues of its own: the last poll of the stack before, which ended,
/// may yet take a message, and then keeps it for the visibility timeout.
#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_s_life_on_each_mixture_with_amazon() {
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
        emulator.make_table(&name).await.unwrap();
        let queues = emulator.make_queues(&name).await.unwrap();
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
        a_life_on(status, queue, &settings).await;
    }
}
