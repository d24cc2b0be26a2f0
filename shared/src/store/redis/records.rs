//! The stored form of one webhook, and the errors of a read.

use std::fmt::Display;

use ::redis::{ErrorKind, RedisError};
use serde_json::value::RawValue;

use crate::{
    clock::Timestamp,
    id::WebhookId,
    model::{Content, InvalidRecord, Webhook},
    record::Record,
    redis::{Call, is_full},
    store::{ListPosition, StoreError, WriteError},
};

/// A record as the scripts take it: its JSON, and what indexes and preconditions need. An absent
/// value is empty.
pub(super) struct Row {
    pub(super) place: String,
    pub(super) id: String,
    pub(super) reference: String,
    pub(super) application: String,
    revision: String,
    status: String,
    due_at: String,
    archived_at: String,
    expires_at: String,
    record: String,
}

impl Row {
    pub(super) fn of(webhook: &Webhook) -> Self {
        let archived_at = webhook.archived_at.filter(|_| webhook.is_dead_letter());
        Self {
            place: ListPosition::of(&webhook.id).to_string(),
            id: webhook.id.to_string(),
            reference: if webhook.referenced {
                webhook.id.reference.to_string()
            } else {
                String::new()
            },
            application: webhook.application.as_ref().map_or_else(String::new, ToString::to_string),
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

/// The time in milliseconds. An absent one is empty.
pub(super) fn millis(time: Option<Timestamp>) -> String {
    time.map_or_else(String::new, |time| time.as_millis().to_string())
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
    id: &impl Display,
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

/// The record of a webhook. `None`: a message has the key.
pub(super) fn parse(id: &impl Display, json: &str) -> Result<Option<Webhook>, StoreError> {
    match Record::from_json(json).map_err(|source| StoreError::unreadable(id, source))? {
        Record::Webhook(webhook) => Ok(Some(*webhook)),
        Record::Message(_) => Ok(None),
    }
}

/// The record of a webhook, where a message under the key is a fault.
pub(super) fn parse_webhook(id: &WebhookId, json: &str) -> Result<Webhook, StoreError> {
    parse(id, json)?.ok_or_else(|| StoreError::malformed(id, "a message has the ID"))
}

pub(super) fn conflict(id: &WebhookId, json: &str) -> WriteError {
    match parse_webhook(id, json) {
        Ok(stored) => WriteError::Conflict(Box::new(stored)),
        Err(error) => error.into(),
    }
}

/// The record of a list's entry, unless it is unreadable.
pub(super) fn readable(json: &[u8]) -> Option<Record> {
    Record::from_json(&String::from_utf8_lossy(json))
        .inspect_err(|error| tracing::warn!(%error, "Skipped a record that cannot be read"))
        .ok()
}

/// The webhook of a list's entry, unless it is unreadable.
pub(super) fn readable_webhook(json: &[u8]) -> Option<Webhook> {
    match readable(json)? {
        Record::Webhook(webhook) => Some(*webhook),
        Record::Message(_) => None,
    }
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

/// The error of a call about one webhook, message or application. A key that another program wrote
/// concerns that one alone.
pub(super) fn failed(id: &impl Display, error: RedisError) -> StoreError {
    match error.kind() {
        _ if is_foreign(&error) => StoreError::malformed(id, "its key holds something else"),
        ErrorKind::UnexpectedReturnType | ErrorKind::Parse => {
            StoreError::malformed(id, "it is not text")
        }
        _ => unavailable(error),
    }
}
