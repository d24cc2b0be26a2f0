//! The API's shapes, as the contract has them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What is sent to `POST /webhooks`.
#[derive(Clone, Debug, Serialize)]
pub struct NewWebhook<'a> {
    /// Where it goes.
    pub url: &'a str,
    /// What it carries.
    pub payload: &'a Value,
    /// The caller's own name for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference_id: Option<&'a str>,
}

/// The answer to a submission.
#[derive(Clone, Debug, Deserialize)]
pub struct Accepted {
    /// `{reference_id}_{task_id}`.
    pub webhook_id: String,
    /// The caller's name for it, or one made up.
    pub reference_id: String,
    /// A `UUIDv7`.
    pub task_id: String,
    /// From the body, or else from the header.
    #[serde(default)]
    pub correlation_id: Option<String>,
    /// `pending`, or `webhook_queued` for a test webhook.
    pub status: String,
}

/// A webhook as `GET /webhook-status/{id}` shows it.
#[derive(Clone, Debug, Deserialize)]
pub struct Webhook {
    /// Its identifier.
    pub webhook_id: String,
    /// Follows it everywhere.
    pub correlation_id: String,
    /// Where it goes.
    pub url: String,
    /// `pending`, `in_progress`, `retrying`, `delivered` or `failed`.
    pub status: String,
    /// Attempts so far.
    pub attempt_count: u32,
    /// Attempts that its latest outcome grants.
    pub max_attempts: u32,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it was last written.
    pub updated_at: Timestamp,
    /// Before which no attempt starts.
    #[serde(default)]
    pub next_attempt_at: Option<Timestamp>,
    /// When it was delivered.
    #[serde(default)]
    pub delivered_at: Option<Timestamp>,
    /// Why the latest attempt failed, or why it waits.
    #[serde(default)]
    pub last_error: Option<LastError>,
    /// The attempts that ended, oldest first.
    #[serde(default)]
    pub attempts: Vec<Attempt>,
}

impl Webhook {
    /// Whether nothing more happens by itself.
    pub fn is_finished(&self) -> bool {
        matches!(self.status.as_str(), "delivered" | "failed")
    }

    /// The kind of the latest error.
    pub fn error_kind(&self) -> Option<&str> {
        self.last_error.as_ref().map(|error| error.kind.as_str())
    }
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LastError {
    /// What sort: `http_status`, `timeout`, `network`, …
    pub kind: String,
    /// The destination's status, where there was one.
    #[serde(default)]
    pub status_code: Option<u16>,
    /// For a person.
    #[serde(default)]
    pub message: Option<String>,
}

/// One attempt.
#[derive(Clone, Debug, Deserialize)]
pub struct Attempt {
    /// 1 for the first; only grows.
    pub number: u32,
    /// When it began.
    pub started_at: Timestamp,
    /// How long it took.
    pub duration_ms: u64,
    /// How it ended.
    pub outcome: String,
    /// The destination's status, where there was one.
    #[serde(default)]
    pub status_code: Option<u16>,
    /// Why it failed, if it did.
    #[serde(default)]
    pub error: Option<AttemptError>,
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct AttemptError {
    /// What sort: `http_status`, `timeout`, `network`, …
    pub kind: String,
}

impl Attempt {
    /// When it was over.
    pub fn ended_at(&self) -> Timestamp {
        // A duration that long would be nonsense of the server's; the start is as good then.
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
    /// How many a page may hold.
    pub page_size: u32,
    /// Where the next page begins, if there is one.
    pub next_cursor: Option<String>,
}

/// A dead letter.
#[derive(Clone, Debug, Deserialize)]
pub struct DeadLetter {
    /// The webhook that failed.
    pub webhook_id: String,
    /// The caller's name for it.
    pub reference_id: String,
    /// Its correlation id.
    pub correlation_id: String,
    /// Where it was to go.
    pub url: String,
    /// What it carried; not in lists.
    #[serde(default)]
    pub payload: Option<Value>,
    /// Attempts made.
    pub attempt_count: u32,
    /// Why the last one failed.
    pub last_error: LastError,
    /// The attempts; not in lists.
    #[serde(default)]
    pub attempts: Option<Vec<Attempt>>,
    /// When it was given up.
    pub failed_at: Timestamp,
    /// When it goes.
    pub expires_at: Timestamp,
}

/// A page of dead letters.
#[derive(Clone, Debug, Deserialize)]
pub struct DeadLetterPage {
    /// The dead letters, newest first.
    pub items: Vec<DeadLetter>,
}
