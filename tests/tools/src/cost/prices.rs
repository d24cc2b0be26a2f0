//! The prices, from `infra/prices.json`.

use serde::Deserialize;

/// List prices in US dollars for the region in the file.
#[derive(Clone, Debug, Deserialize)]
pub struct Prices {
    /// The region of the prices.
    pub region: String,
    /// A million on-demand write units.
    pub dynamodb_write_units_per_million: f64,
    /// A million on-demand read units.
    pub dynamodb_read_units_per_million: f64,
    /// A million requests to standard queues.
    pub sqs_requests_per_million: f64,
    /// The additional price of a million messages with a group.
    pub sqs_fair_queue_messages_per_million: f64,
    /// A million invocations.
    pub lambda_requests_per_million: f64,
    /// A GB-second on arm64.
    pub lambda_gb_second_arm64: f64,
    /// A million invocations by EventBridge Scheduler.
    pub scheduler_invocations_per_million: f64,
    /// A GB of ingested logs.
    pub logs_gb: f64,
    /// An alarm per month.
    pub alarm_month: f64,
    /// A dashboard per month.
    pub dashboard_month: f64,
    /// The prices with a single source.
    pub unconfirmed: Vec<String>,
}

impl Prices {
    /// The price list, which is compiled into the binary.
    pub fn listed() -> Result<Self, serde_json::Error> {
        serde_json::from_str(include_str!("../../../../infra/prices.json"))
    }
}
