//! Creates a table and queues in the emulator, with the schema of `infra/template.yaml`.

use serde_json::{Value, json};
use shared::queue::MAX_RECEIVES;

use super::{AwsError, AwsStack};

/// The URLs of a pair of queues.
#[derive(Clone, Debug)]
pub struct QueueUrls {
    /// The webhook queue.
    pub webhooks: String,
    /// The dead-letter queue.
    pub dead_letters: String,
}

impl AwsStack {
    /// Creates a table with its indexes.
    pub async fn create_table(&self, name: &str) -> Result<(), AwsError> {
        let keys = |partition: &str, sort: &str| {
            json!([{ "AttributeName": partition,
            "KeyType": "HASH" }, { "AttributeName": sort, "KeyType": "RANGE" }])
        };
        let index = |name: &str, partition: &str, sort: &str| {
            json!({ "IndexName": name,
            "KeySchema": keys(partition, sort), "Projection": { "ProjectionType": "KEYS_ONLY" } })
        };
        let attributes = ["p", "s", "i", "j", "r", "l", "a"]
            .map(|name| json!({ "AttributeName": name, "AttributeType": "S" }));
        let table = json!({
            "TableName": name,
            "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": attributes,
            "KeySchema": keys("p", "s"),
            "GlobalSecondaryIndexes": [index("work", "i", "j"), index("reference", "r", "s"),
                index("dead_reference", "l", "j"), index("application", "a", "s")],
        });
        self.call("DynamoDB_20120810.CreateTable", table).await?;
        let expiry = json!({ "TableName": name, "TimeToLiveSpecification": { "AttributeName": "x",
            "Enabled": true } });
        self.call("DynamoDB_20120810.UpdateTimeToLive", expiry).await.map(drop)
    }

    /// Creates a queue with its dead-letter queue.
    pub async fn create_queues(&self, name: &str) -> Result<QueueUrls, AwsError> {
        let dead_letters = self.create_queue(&format!("{name}-dead"), json!({})).await?;
        let wanted = json!({ "QueueUrl": dead_letters, "AttributeNames": ["QueueArn"] });
        let found = self.call("AmazonSQS.GetQueueAttributes", wanted).await?;
        let policy = json!({ "deadLetterTargetArn": found["Attributes"]["QueueArn"],
            "maxReceiveCount": MAX_RECEIVES.to_string() });
        let webhooks =
            self.create_queue(name, json!({ "RedrivePolicy": policy.to_string() })).await?;
        Ok(QueueUrls { webhooks, dead_letters })
    }

    async fn create_queue(&self, name: &str, attributes: Value) -> Result<String, AwsError> {
        let created = self
            .call("AmazonSQS.CreateQueue", json!({ "QueueName": name, "Attributes": attributes }))
            .await?;
        Ok(created["QueueUrl"].as_str().unwrap_or_default().to_owned())
    }
}
