//! `kill -9` of functions, and of the local stack, on DynamoDB and SQS under load. No webhook with
//! a 202 is lost, and only attempts without a recorded outcome are repeated. The webhooks of a dead
//! process resume when their leases and visibility timeouts end.

use harness::{
    aws::AwsStack,
    crash::{
        BOUND, Settings, crash_under_load, kill_functions, launch, recover, rounds, settings, times,
    },
    ledger, publishing,
    receiver::Receiver,
};

/// Creates a table and queues.
async fn on_amazon(emulator: &AwsStack) -> Settings {
    emulator.create_table("posthaste").await.unwrap();
    let queues = emulator.create_queues("posthaste").await.unwrap();
    settings(&[
        ("STATUS_BACKEND", "dynamodb"),
        ("QUEUE_BACKEND", "sqs"),
        ("AWS_ENDPOINT_URL", emulator.endpoint()),
        ("AWS_REGION", emulator.region()),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("TABLE_NAME", "posthaste"),
        ("QUEUE_URL", &queues.webhooks),
        ("DEAD_LETTER_QUEUE_URL", &queues.dead_letters),
    ])
}

async fn emulator() -> AwsStack {
    tokio::task::spawn_blocking(AwsStack::emulator)
        .await
        .unwrap()
        .unwrap_or_else(|error| panic!("{error}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_webhook_is_lost_when_functions_are_killed_on_dynamodb_and_sqs() {
    let emulator = emulator().await;
    let mut all = times("1500", "2500");
    all.extend(on_amazon(&emulator).await);
    kill_functions("DynamoDB and SQS", all).await;
}

/// The stack, which polls the queues, dies too, and its waiting polls with it.
#[tokio::test(flavor = "multi_thread")]
async fn no_webhook_is_lost_when_the_stack_is_killed_on_dynamodb_and_sqs() {
    let emulator = emulator().await;
    let mut all = times("1500", "2500");
    all.extend(on_amazon(&emulator).await);
    let (launch, receiver) = (launch(&all), Receiver::start().await.unwrap());
    let accepted = crash_under_load(&launch, &receiver, rounds()).await;
    let (api, stack) =
        recover("local stack on DynamoDB and SQS", &launch, &receiver, &accepted, BOUND).await;
    ledger::end(&api, stack).await;
}

/// Every planned delivery of every accepted message ends, while endpoints change.
#[tokio::test(flavor = "multi_thread")]
async fn no_delivery_is_lost_when_functions_are_killed_on_dynamodb_and_sqs() {
    let emulator = emulator().await;
    let mut all = publishing::with_endpoints(times("1500", "2500"));
    all.extend(on_amazon(&emulator).await);
    publishing::kill_functions("DynamoDB and SQS", all, BOUND).await;
}

/// The DynamoDB store with the local queue.
#[tokio::test(flavor = "multi_thread")]
async fn no_delivery_is_lost_when_the_stack_is_killed_on_dynamodb() {
    let emulator = emulator().await;
    let mut all = publishing::with_endpoints(times("1500", "2500"));
    all.extend(on_amazon(&emulator).await);
    all.extend(settings(&[("QUEUE_BACKEND", "sqlite")]));
    publishing::kill_stack("messages on DynamoDB", &launch(&all), BOUND).await;
}
