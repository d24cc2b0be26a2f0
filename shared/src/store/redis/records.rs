//! The stored form of one webhook, and the errors of a read.

use ::redis::{ErrorKind, RedisError};
use serde_json::value::RawValue;

use crate::{
    clock::Timestamp,
    id::WebhookId,
    model::{Content, InvalidRecord, Webhook},
    redis::{Call, is_full},
    store::{StoreError, WriteError},
};

/// A record as the scripts take it: its JSON, and what indexes and preconditions need. An absent
/// value is empty.
pub(super) struct Row {
    pub(super) task: String,
    pub(super) id: String,
    pub(super) reference: String,
    revision: String,
    status: String,
    due_at: String,
    archived_at: String,
    expires_at: String,
    record: String,
}

impl Row {
    pub(super) fn of(webhook: &Webhook) -> Self {
        let millis = |time: Option<Timestamp>| {
            time.map_or_else(String::new, |time| time.as_millis().to_string())
        };
        let archived_at = webhook.archived_at.filter(|_| webhook.is_dead_letter());
        Self {
            task: webhook.id.task.to_string(),
            id: webhook.id.to_string(),
            reference: if webhook.referenced {
                webhook.id.reference.to_string()
            } else {
                String::new()
            },
            revision: webhook.revision.to_string(),
            status: webhook.status.code().to_string(),
            due_at: millis(webhook.due_at),
            archived_at: archived_at.map_or_else(String::new, sortable),
            expires_at: millis(webhook.expires_at),
            record: webhook.to_json(),
        }
    }

    /// Adds the arguments of a write.
    pub(super) fn add_to(&self, call: &mut Call<'_>) {
        for value in [
            &self.revision,
            &self.status,
            &self.due_at,
            &self.archived_at,
            &self.expires_at,
            &self.record,
        ] {
            call.arg(value);
        }
    }
}

/// The time as a text that sorts in the order of times.
pub(super) fn sortable(time: Timestamp) -> String {
    format!("{:015}", time.as_millis().max(0))
}

/// The stored form of the headers. Empty if there are none.
pub(super) fn headers_to_json(content: &Content) -> String {
    if content.headers.is_empty() {
        return String::new();
    }
    serde_json::to_string(&content.headers)
        .unwrap_or_else(|_| unreachable!("pairs of strings are JSON"))
}

/// Reads the content from URL, headers and payload, as the scripts return them.
pub(super) fn content(
    id: &WebhookId,
    parts: &mut impl Iterator<Item = Option<String>>,
) -> Result<Content, StoreError> {
    let (Some(Some(url)), Some(Some(headers)), Some(Some(payload))) =
        (parts.next(), parts.next(), parts.next())
    else {
        return Err(StoreError::malformed(id, "its content is missing"));
    };
    let invalid = |source| StoreError::unreadable(id, InvalidRecord::Malformed(source));
    let headers = if headers.is_empty() {
        Vec::new()
    } else {
        serde_json::from_str(&headers).map_err(invalid)?
    };
    Ok(Content { url, headers, payload: RawValue::from_string(payload).map_err(invalid)? })
}

pub(super) fn parse(id: &WebhookId, json: &str) -> Result<Webhook, StoreError> {
    Webhook::from_json(json).map_err(|source| StoreError::unreadable(id, source))
}

pub(super) fn conflict(id: &WebhookId, json: &str) -> WriteError {
    match parse(id, json) {
        Ok(stored) => WriteError::Conflict(Box::new(stored)),
        Err(error) => error.into(),
    }
}

/// The record of a list's entry, unless it is unreadable.
pub(super) fn readable(json: &[u8]) -> Option<Webhook> {
    Webhook::from_json(&String::from_utf8_lossy(json))
        .inspect_err(|error| tracing::warn!(%error, "Skipped a webhook that cannot be read"))
        .ok()
}

pub(super) fn unavailable(error: RedisError) -> StoreError {
    if is_full(&error) { full() } else { StoreError::Unavailable(Box::new(error)) }
}

/// The store wrote nothing.
pub(super) fn full() -> StoreError {
    StoreError::Full("the memory of Redis is nearly full (maxmemory)")
}

/// Whether another program wrote under the key.
pub(super) fn is_foreign(error: &RedisError) -> bool {
    error.code() == Some("WRONGTYPE")
        || error.detail().is_some_and(|detail| detail.contains("WRONGTYPE"))
}

/// The error of a call about one webhook. A key that another program wrote concerns that webhook
/// alone.
pub(super) fn failed(id: &WebhookId, error: RedisError) -> StoreError {
    match error.kind() {
        _ if is_foreign(&error) => StoreError::malformed(id, "its key holds something else"),
        ErrorKind::UnexpectedReturnType | ErrorKind::Parse => {
            StoreError::malformed(id, "it is not text")
        }
        _ => unavailable(error),
    }
}
