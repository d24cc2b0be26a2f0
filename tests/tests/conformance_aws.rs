//! The conformance suite against DynamoDB and SQS as an emulator has them: a table and two queues for each case, the second handle with
//! clients of its own as another process has them.

#![allow(clippy::unwrap_used, reason = "a backend that does not start fails its case")]

use std::{collections::HashMap, process::ExitCode, sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_sdk_dynamodb::{
    primitives::Blob,
    types::{
        AttributeDefinition, AttributeValue, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection,
        ProjectionType, ScalarAttributeType,
    },
};
use aws_sdk_sqs::types::QueueAttributeName;
use posthaste_tests::conformance::{self, Backend, TestClock};
use shared::{
    aws::Aws,
    clock::Clock,
    config::{AwsCredentials, AwsSettings},
    id::WebhookId,
    queue::{MAX_RECEIVES, Queue, sqs::SqsQueue},
    store::{Store, dynamodb::DynamoStore},
    transition::Limits,
};

/// How long a call may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let endpoint = std::env::var("POSTHASTE_AWS").unwrap();
    conformance::run("aws", move || {
        let endpoint = endpoint.clone();
        async move { Box::new(Amazon::start(&endpoint).await) as Box<dyn Backend> }
    })
}

#[derive(Debug)]
struct Amazon {
    settings: AwsSettings,
    clock: Arc<TestClock>,
}

impl Amazon {
    async fn start(endpoint: &str) -> Self {
        let name = format!("case-{:016x}", rand::random::<u64>());
        let mut settings = AwsSettings {
            region: "us-east-1".to_owned(),
            credentials: AwsCredentials {
                access_key_id: "test".to_owned(),
                secret_access_key: "test".to_owned(),
                session_token: None,
            },
            dynamodb_endpoint: Some(endpoint.to_owned()),
            sqs_endpoint: Some(endpoint.to_owned()),
            table_name: name.clone(),
            ..AwsSettings::default()
        };
        make_table(&settings).await;
        settings.dead_letter_queue_url = make_queue(&settings, &format!("{name}-dead"), None).await;
        settings.queue_url = make_queue(&settings, &name, Some(&settings.dead_letter_queue_url)).await;
        Self { settings, clock: Arc::default() }
    }

    fn table(&self) -> aws_sdk_dynamodb::Client {
        clients().dynamodb(&self.settings)
    }

    /// The item that holds the webhook's record, found without the store's help.
    async fn record(&self, id: &WebhookId) -> HashMap<String, AttributeValue> {
        let found = self.table().scan().table_name(&self.settings.table_name).consistent_read(true);
        let found =
            found.filter_expression("s = :task").expression_attribute_values(":task", AttributeValue::S(id.task.to_string()));
        let mut items = found.send().await.unwrap().items.unwrap();
        assert_eq!(items.len(), 1, "one item is the record of {id}");
        items.remove(0)
    }
}

/// Clients that wait for an emulator on a busy machine.
fn clients() -> Aws {
    Aws::new().unwrap().with_limits(PATIENCE, PATIENCE)
}

/// The table as `infra/template.yaml` has it.
async fn make_table(settings: &AwsSettings) {
    let key = |name: &str, kind: KeyType| KeySchemaElement::builder().attribute_name(name).key_type(kind).build().unwrap();
    let keys = |partition: &str, sort: &str| vec![key(partition, KeyType::Hash), key(sort, KeyType::Range)];
    let index = |name: &str, partition: &str, sort: &str| {
        let only_keys = Projection::builder().projection_type(ProjectionType::KeysOnly).build();
        let index = GlobalSecondaryIndex::builder().index_name(name).set_key_schema(Some(keys(partition, sort)));
        index.projection(only_keys).build().unwrap()
    };
    let attribute = |name: &str| {
        let attribute = AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::S);
        attribute.build().unwrap()
    };
    let client = clients().dynamodb(settings);
    let call = client
        .create_table()
        .table_name(&settings.table_name)
        .billing_mode(BillingMode::PayPerRequest)
        .set_attribute_definitions(Some(["p", "s", "i", "j", "r", "l"].map(attribute).to_vec()))
        .set_key_schema(Some(keys("p", "s")))
        .global_secondary_indexes(index("work", "i", "j"))
        .global_secondary_indexes(index("reference", "r", "s"))
        .global_secondary_indexes(index("dead_reference", "l", "j"));
    call.send().await.unwrap();
}

async fn make_queue(settings: &AwsSettings, name: &str, dead_letters: Option<&str>) -> String {
    let client = clients().sqs(settings);
    let mut call = client.create_queue().queue_name(name);
    if let Some(url) = dead_letters {
        let arn =
            client.get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::QueueArn).send().await.unwrap();
        let arn = arn.attributes.unwrap().remove(&QueueAttributeName::QueueArn).unwrap();
        let policy = format!(r#"{{"deadLetterTargetArn":"{arn}","maxReceiveCount":"{MAX_RECEIVES}"}}"#);
        call = call.attributes(QueueAttributeName::RedrivePolicy, policy);
    }
    call.send().await.unwrap().queue_url.unwrap()
}

#[async_trait]
impl Backend for Amazon {
    fn store(&self) -> Arc<dyn Store> {
        let clock: Arc<dyn Clock> = self.clock();
        Arc::new(DynamoStore::new(self.table(), &self.settings.table_name, clock, Limits::default().retention))
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
        let mut item = self.record(id).await;
        let revision: u64 = item["v"].as_n().unwrap().parse().unwrap();
        item.insert("v".to_owned(), AttributeValue::N((revision + 1).to_string()));
        let deflated = miniz_oxide::deflate::compress_to_vec(json.as_bytes(), 6);
        item.insert("d".to_owned(), AttributeValue::B(Blob::new(deflated)));
        self.table().put_item().table_name(&self.settings.table_name).set_item(Some(item)).send().await.unwrap();
    }

    async fn has_content(&self, id: &WebhookId) -> bool {
        let found = self.table().scan().table_name(&self.settings.table_name).consistent_read(true);
        let found = found
            .filter_expression("attribute_exists(c) AND (s = :task OR contains(p, :task))")
            .expression_attribute_values(":task", AttributeValue::S(id.task.to_string()));
        found.send().await.unwrap().count > 0
    }
}
