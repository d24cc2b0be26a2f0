//! The prices, from `infra/prices.json`.

use serde::Deserialize;

/// List prices in US dollars; the file says of which region.
#[derive(Clone, Debug, Deserialize)]
pub struct Prices {
    /// Where they hold.
    pub region: String,
    /// A million write units on demand.
    pub dynamodb_write_units_per_million: f64,
    /// A million read units on demand.
    pub dynamodb_read_units_per_million: f64,
    /// A million requests of standard queues.
    pub sqs_requests_per_million: f64,
    /// A million messages with a group, on top.
    pub sqs_fair_queue_messages_per_million: f64,
    /// A million invocations.
    pub lambda_requests_per_million: f64,
    /// A GB-second of arm64.
    pub lambda_gb_second_arm64: f64,
    /// A million invocations by EventBridge Scheduler.
    pub scheduler_invocations_per_million: f64,
    /// A GB of logs taken in.
    pub logs_gb: f64,
    /// An alarm, a month.
    pub alarm_month: f64,
    /// A dashboard, a month.
    pub dashboard_month: f64,
    /// What was found at one source only.
    pub unconfirmed: Vec<String>,
}

impl Prices {
    /// Those of the file, which the binary carries.
    pub fn listed() -> Result<Self, serde_json::Error> {
        serde_json::from_str(include_str!("../../../../infra/prices.json"))
    }
}
