//! The types of the API's requests and responses.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The body of `POST /webhooks`.
#[derive(Clone, Debug, Serialize)]
pub struct NewWebhook<'a> {
    /// The destination.
    pub url: &'a str,
    /// The payload.
    pub payload: &'a Value,
    /// The caller's reference ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference_id: Option<&'a str>,
}

/// The response to `POST /webhooks`.
#[derive(Clone, Debug, Deserialize)]
pub struct Accepted {
    /// `{reference_id}_{task_id}`.
    pub webhook_id: String,
    /// The caller's reference ID, or a generated one.
    pub reference_id: String,
    /// A `UUIDv7`.
    pub task_id: String,
    /// The correlation ID of the body, or of the header.
    #[serde(default)]
    pub correlation_id: Option<String>,
    /// `pending`, or `webhook_queued` for a test webhook.
    pub status: String,
}

/// The response to `GET /webhook-status/{id}`.
#[derive(Clone, Debug, Deserialize)]
pub struct Webhook {
    /// The webhook ID.
    pub webhook_id: String,
    /// The correlation ID, which all requests and logs of the webhook carry.
    pub correlation_id: String,
    /// The destination. `None` for a delivery whose endpoint was deleted.
    pub url: Option<String>,
    /// `pending`, `in_progress`, `retrying`, `delivered` or `failed`.
    pub status: String,
    /// The number of attempts that were started.
    pub attempt_count: u32,
    /// The maximum number of attempts, as of the latest outcome.
    pub max_attempts: u32,
    /// When the API accepted it.
    pub created_at: Timestamp,
    /// When its record was last written.
    pub updated_at: Timestamp,
    /// The earliest time of the next attempt.
    #[serde(default)]
    pub next_attempt_at: Option<Timestamp>,
    /// When it was delivered.
    #[serde(default)]
    pub delivered_at: Option<Timestamp>,
    /// Why the latest attempt failed, or why the webhook waits.
    #[serde(default)]
    pub last_error: Option<LastError>,
    /// The finished attempts, oldest first.
    #[serde(default)]
    pub attempts: Vec<Attempt>,
}

impl Webhook {
    /// Whether the webhook is delivered or failed.
    pub fn is_finished(&self) -> bool {
        matches!(self.status.as_str(), "delivered" | "failed")
    }

    /// The kind of the latest error.
    pub fn error_kind(&self) -> Option<&str> {
        self.last_error.as_ref().map(|error| error.kind.as_str())
    }

    /// The outcomes of the finished attempts, oldest first.
    pub fn outcomes(&self) -> Vec<&str> {
        self.attempts.iter().map(|attempt| attempt.outcome.as_str()).collect()
    }
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LastError {
    /// The kind of error: `http_status`, `timeout`, `network`, …
    pub kind: String,
    /// The destination's status code, if it responded.
    #[serde(default)]
    pub status_code: Option<u16>,
    /// A text for people.
    #[serde(default)]
    pub message: Option<String>,
}

/// One attempt.
#[derive(Clone, Debug, Deserialize)]
pub struct Attempt {
    /// The number of the attempt, from 1. It never decreases, not even after a redrive.
    pub number: u32,
    /// When the attempt started.
    pub started_at: Timestamp,
    /// The duration of the attempt.
    pub duration_ms: u64,
    /// The outcome: `delivered`, `failed`, `interrupted`, …
    pub outcome: String,
    /// The destination's status code, if it responded.
    #[serde(default)]
    pub status_code: Option<u16>,
    /// The error of a failed attempt.
    #[serde(default)]
    pub error: Option<AttemptError>,
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct AttemptError {
    /// The kind of error: `http_status`, `timeout`, `network`, …
    pub kind: String,
}

impl Attempt {
    /// When the attempt ended.
    pub fn ended_at(&self) -> Timestamp {
        // Only an invalid duration overflows. Then the start has to do.
        self.started_at
            .checked_add(std::time::Duration::from_millis(self.duration_ms))
            .unwrap_or(self.started_at)
    }
}

/// A page of webhooks.
#[derive(Clone, Debug, Deserialize)]
pub struct WebhookPage {
    /// The webhooks, newest first.
    pub items: Vec<Webhook>,
    /// The maximum number of webhooks on a page.
    pub page_size: u32,
    /// The cursor of the next page, if there is one.
    pub next_cursor: Option<String>,
}

/// A dead letter.
#[derive(Clone, Debug, Deserialize)]
pub struct DeadLetter {
    /// The ID of the failed webhook.
    pub webhook_id: String,
    /// The reference ID.
    pub reference_id: String,
    /// The correlation ID.
    pub correlation_id: String,
    /// The destination. `None` for a delivery whose endpoint was deleted.
    pub url: Option<String>,
    /// The payload. Lists omit it.
    #[serde(default)]
    pub payload: Option<Value>,
    /// The number of attempts.
    pub attempt_count: u32,
    /// Why the last attempt failed.
    pub last_error: LastError,
    /// The attempts. Lists omit them.
    #[serde(default)]
    pub attempts: Option<Vec<Attempt>>,
    /// When the webhook failed.
    pub failed_at: Timestamp,
    /// When the dead letter expires.
    pub expires_at: Timestamp,
}

/// A page of dead letters.
#[derive(Clone, Debug, Deserialize)]
pub struct DeadLetterPage {
    /// The dead letters, newest first.
    pub items: Vec<DeadLetter>,
}

/// Creates a recognizable payload, different each time.
pub fn test_payload(scenario: &str) -> Value {
    let nonce: u64 = rand::random();
    json!({
        "test": scenario,
        "nonce": format!("{nonce:016x}"),
        "sent_at": format!("{:.3}", Timestamp::now()),
        "amount": 1.5,
        "name": "Zoë \"quoted\" \u{1f4ee}",
        "nested": { "list": [1, null, true] },
    })
}
