//! The conformance suite on emulated DynamoDB and SQS. Each case has its own table and two queues,
//! and the second handle has its own clients, as in another process.

#![allow(clippy::unwrap_used, reason = "a backend that does not start fails its case")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the output is for the person who runs the test"
)]

use std::{collections::HashMap, process::ExitCode, sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};
use conformance::{self, Backend, TestClock};
use harness::aws::AwsStack;
use shared::{
    applications::id::ApplicationId,
    aws::Aws,
    clock::{Clock, Timestamp},
    config::{AwsCredentials, AwsSettings},
    id::WebhookId,
    queue::{Queue, sqs::SqsQueue},
    store::{ListPosition, Store, dynamodb::DynamoStore},
    traffic::target::TargetKey,
    transition::Limits,
};

/// The timeout of a call.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    // Kept until the suite ends.
    let emulator = match AwsStack::emulator() {
        Ok(emulator) => Arc::new(emulator),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    conformance::run("aws", move || {
        let emulator = Arc::clone(&emulator);
        async move { Box::new(Amazon::start(&emulator).await) as Box<dyn Backend> }
    })
}

#[derive(Debug)]
struct Amazon {
    settings: AwsSettings,
    clock: Arc<TestClock>,
}

impl Amazon {
    async fn start(emulator: &AwsStack) -> Self {
        let name = format!("case-{:016x}", rand::random::<u64>());
        emulator.create_table(&name).await.unwrap();
        let queues = emulator.create_queues(&name).await.unwrap();
        let settings = AwsSettings {
            region: emulator.region().to_owned(),
            credentials: AwsCredentials {
                access_key_id: "test".to_owned(),
                secret_access_key: "test".to_owned(),
                session_token: None,
            },
            dynamodb_endpoint: Some(emulator.endpoint().to_owned()),
            sqs_endpoint: Some(emulator.endpoint().to_owned()),
            table_name: name,
            queue_url: queues.webhooks,
            dead_letter_queue_url: queues.dead_letters,
            ..AwsSettings::default()
        };
        Self { settings, clock: Arc::default() }
    }

    fn table(&self) -> aws_sdk_dynamodb::Client {
        clients().dynamodb(&self.settings)
    }

    /// Puts the item with this record, and the next revision.
    async fn plant(&self, mut item: HashMap<String, AttributeValue>, json: &str) {
        let revision: u64 = item["v"].as_n().unwrap().parse().unwrap();
        item.insert("v".to_owned(), AttributeValue::N((revision + 1).to_string()));
        let deflated = miniz_oxide::deflate::compress_to_vec(json.as_bytes(), 6);
        item.insert("d".to_owned(), AttributeValue::B(Blob::new(deflated)));
        self.table()
            .put_item()
            .table_name(&self.settings.table_name)
            .set_item(Some(item))
            .send()
            .await
            .unwrap();
    }

    /// The item with the record. Bypasses the store.
    async fn record(&self, id: &WebhookId) -> HashMap<String, AttributeValue> {
        let found = self.table().scan().table_name(&self.settings.table_name).consistent_read(true);
        let found = found.filter_expression("s = :task").expression_attribute_values(
            ":task",
            AttributeValue::S(ListPosition::of(id).to_string()),
        );
        let mut items = found.send().await.unwrap().items.unwrap();
        assert_eq!(items.len(), 1, "one item has the record of {id}");
        items.remove(0)
    }
}

/// Clients whose timeouts suit an emulator on a busy machine.
fn clients() -> Aws {
    Aws::new().unwrap().with_limits(CALL_TIMEOUT, CALL_TIMEOUT)
}

#[async_trait]
impl Backend for Amazon {
    fn store(&self) -> Arc<dyn Store> {
        let clock: Arc<dyn Clock> = self.clock();
        Arc::new(DynamoStore::new(
            self.table(),
            &self.settings.table_name,
            clock,
            Limits::default().retention,
        ))
    }

    fn queue(&self) -> Arc<dyn Queue> {
        Arc::new(SqsQueue::new(clients().sqs(&self.settings), &self.settings))
    }

    fn clock(&self) -> Arc<TestClock> {
        Arc::clone(&self.clock)
    }

    async fn second_store(&self) -> Arc<dyn Store> {
        self.store()
    }

    async fn second_queue(&self) -> Arc<dyn Queue> {
        self.queue()
    }

    async fn plant_record(&self, id: &WebhookId, json: &str) {
        let item = self.record(id).await;
        self.plant(item, json).await;
    }

    async fn plant_application(&self, id: &ApplicationId, json: &str) {
        let key = [("p", format!("app/{id}")), ("s", "-".to_owned())];
        let key = key.map(|(name, value)| (name.to_owned(), AttributeValue::S(value)));
        let found = self.table().get_item().table_name(&self.settings.table_name);
        let found = found.set_key(Some(HashMap::from(key))).consistent_read(true).send().await;
        self.plant(found.unwrap().item.unwrap(), json).await;
    }

    async fn plant_target(&self, key: &TargetKey, json: &str) {
        let found = self.table().scan().table_name(&self.settings.table_name).consistent_read(true);
        let items = found.send().await.unwrap().items.unwrap_or_default();
        let is_it = |item: &HashMap<String, AttributeValue>| {
            item["s"].as_s().is_ok_and(|name| name == key.as_str())
        };
        let mut item = items.into_iter().find(is_it).unwrap();
        item.insert("d".to_owned(), AttributeValue::S(json.to_owned()));
        let put = self.table().put_item().table_name(&self.settings.table_name);
        put.set_item(Some(item)).send().await.unwrap();
    }

    async fn has_content(&self, id: &WebhookId) -> bool {
        let found = self.table().scan().table_name(&self.settings.table_name).consistent_read(true);
        let found = found
            .filter_expression("attribute_exists(c) AND (s = :task OR contains(p, :task))")
            .expression_attribute_values(":task", AttributeValue::S(id.task.to_string()));
        found.send().await.unwrap().count > 0
    }

    async fn plant_older_position(&self, at: Timestamp) {
        let key = [("p", "sweep"), ("s", "audit")];
        let key = key.map(|(name, value)| (name.to_owned(), AttributeValue::S(value.to_owned())));
        let update = self.table().update_item().table_name(&self.settings.table_name);
        let update = update.set_key(Some(HashMap::from(key))).update_expression("SET n = :at");
        let at = AttributeValue::N(at.as_millis().to_string());
        update.expression_attribute_values(":at", at).send().await.unwrap();
    }

    async fn older_position(&self) -> Option<Timestamp> {
        let key = [("p", "sweep"), ("s", "audit")];
        let key = key.map(|(name, value)| (name.to_owned(), AttributeValue::S(value.to_owned())));
        let found = self.table().get_item().table_name(&self.settings.table_name);
        let found = found.set_key(Some(HashMap::from(key))).consistent_read(true).send().await;
        let item = found.unwrap().item?;
        Some(Timestamp::from_millis(item["n"].as_n().unwrap().parse().unwrap()))
    }
}
