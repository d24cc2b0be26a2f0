//! Queue messages. A message asks a worker to look at one webhook. The record decides what the
//! worker does, so a message that arrives twice, late or out of order costs one read.

use serde::{Deserialize, Serialize};

use crate::{
    id::WebhookId,
    model::{SCHEMA, Slot, Webhook},
};

/// The largest record that a message carries; see [`Message::seen`].
const MAX_SEEN_BYTES: usize = 4 * 1024;

/// A message in either queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Schema version; see [`SCHEMA`].
    pub v: u16,
    /// The webhook to look at.
    pub webhook_id: WebhookId,
    /// The record as the sender wrote it: a hint that saves the receiver one read. Every write is
    /// conditional on the revision, so an outdated hint only causes a refused write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Box<Webhook>>,
    /// In the dead-letter queue: `deliver` or `sweep` sent the message because the webhook failed.
    /// Otherwise the queue moved the message there after too many receives. If the webhook is
    /// unfinished by now, an operator has resent it, and the message is outdated.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub archive: bool,
    /// The slot for which the webhook waits. The record does not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<Slot>,
    /// How often in a row `deliver` has sent the message again to wait for a slot.
    #[serde(default, skip_serializing_if = "crate::model::is_default")]
    pub relays: u32,
    /// For how many milliseconds in all those messages waited for a learned rate. The record's
    /// budget lacks them.
    #[serde(default, skip_serializing_if = "crate::model::is_default")]
    pub paused_ms: u64,
    /// The same for a configured rate.
    #[serde(default, skip_serializing_if = "crate::model::is_default")]
    pub rate_limited_ms: u64,
}

/// Why a message cannot be processed.
#[derive(Debug, thiserror::Error)]
pub enum InvalidMessage {
    /// A newer version wrote the message. Return it to the queue.
    #[error(
        "message schema version {found} is newer than {SCHEMA}, the newest that this version knows"
    )]
    TooNew {
        /// The message's version.
        found: u16,
    },
    /// Not a message of Posthaste. Archive it as a dead letter.
    #[error("not a message of Posthaste")]
    Malformed(#[source] serde_json::Error),
}

#[derive(Deserialize)]
struct Versioned {
    v: u16,
}

impl Message {
    /// A message to look at this webhook.
    pub fn look_at(webhook_id: WebhookId) -> Self {
        Self {
            v: SCHEMA,
            webhook_id,
            seen: None,
            archive: false,
            slot: None,
            relays: 0,
            paused_ms: 0,
            rate_limited_ms: 0,
        }
    }

    /// A message to archive this failed webhook.
    pub fn archive(webhook_id: WebhookId) -> Self {
        Self { archive: true, ..Self::look_at(webhook_id) }
    }

    /// A message to look at this webhook, with the record that was just written.
    pub fn with_seen(webhook: &Webhook) -> Self {
        Self { seen: Some(Box::new(webhook.clone())), ..Self::look_at(webhook.id.clone()) }
    }

    /// The body of the queue message. Leaves out a large record.
    pub fn to_json(&self) -> String {
        let json = serde_json::to_string(self)
            .unwrap_or_else(|_| unreachable!("a message has only string keys"));
        if json.len() <= MAX_SEEN_BYTES || self.seen.is_none() {
            return json;
        }
        Self { seen: None, webhook_id: self.webhook_id.clone(), slot: self.slot.clone(), ..*self }
            .to_json()
    }

    /// Reads a message of this schema version or an older one. Leaves out a hint that it cannot
    /// read.
    pub fn from_json(json: &str) -> Result<Self, InvalidMessage> {
        #[derive(Deserialize)]
        struct Bare {
            v: u16,
            webhook_id: WebhookId,
        }
        let message = match serde_json::from_str::<Self>(json) {
            Ok(message) => message,
            Err(error) => match serde_json::from_str::<Bare>(json) {
                Ok(bare) => Self { v: bare.v, ..Self::look_at(bare.webhook_id) },
                Err(_) => match serde_json::from_str::<Versioned>(json) {
                    Ok(Versioned { v }) if v > SCHEMA => {
                        return Err(InvalidMessage::TooNew { found: v });
                    }
                    _ => return Err(InvalidMessage::Malformed(error)),
                },
            },
        };
        if message.v > SCHEMA {
            return Err(InvalidMessage::TooNew { found: message.v });
        }
        // Posthaste sends no record that expires, which is a finished one: a write of it would make
        // the webhook disappear. Nor does a revision reach 2^63, the limit of a database.
        let is_usable = |seen: &Webhook| {
            let has_next_revision =
                i64::try_from(seen.revision).is_ok_and(|revision| revision < i64::MAX);
            seen.schema <= SCHEMA
                && seen.id == message.webhook_id
                && seen.expires_at.is_none()
                && has_next_revision
        };
        Ok(Self { seen: message.seen.filter(|seen| is_usable(seen)), ..message })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Timestamp, transition::testing::webhook};

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let webhook = webhook(Timestamp::from_millis(1_700_000_000_000));
        for message in [
            Message::look_at(webhook.id.clone()),
            Message::archive(webhook.id.clone()),
            Message::with_seen(&webhook),
            Message {
                slot: Some(Slot { generation: "10/1".to_owned(), number: 7 }),
                relays: 3,
                paused_ms: 1_500,
                rate_limited_ms: 2_500,
                ..Message::with_seen(&webhook)
            },
        ] {
            assert_eq!(Message::from_json(&message.to_json()).unwrap(), message);
        }
    }

    #[test]
    fn a_large_record_a_foreign_one_and_one_that_expires_are_left_out() {
        let mut webhook = webhook(Timestamp::from_millis(1_700_000_000_000));
        let seen = webhook.clone();
        webhook.correlation_id = "x".repeat(MAX_SEEN_BYTES);
        assert_eq!(Message::from_json(&Message::with_seen(&webhook).to_json()).unwrap().seen, None);
        let mut message = Message::with_seen(&webhook);
        message.seen.as_mut().unwrap().correlation_id.clear();
        message.webhook_id.reference = "other".parse().unwrap();
        assert_eq!(Message::from_json(&message.to_json()).unwrap().seen, None);
        message.seen.as_mut().unwrap().schema = SCHEMA + 1;
        assert_eq!(Message::from_json(&message.to_json()).unwrap().seen, None);
        message = Message::with_seen(&Webhook {
            expires_at: Some(Timestamp::from_millis(1)),
            ..seen.clone()
        });
        assert_eq!(Message::from_json(&message.to_json()).unwrap().seen, None);
        for revision in [i64::MAX as u64, u64::MAX] {
            message = Message::with_seen(&Webhook { revision, ..seen.clone() });
            assert_eq!(Message::from_json(&message.to_json()).unwrap().seen, None);
        }
    }

    #[test]
    fn a_newer_version_is_told_from_garbage() {
        assert!(matches!(
            Message::from_json(r#"{"v":9,"other":1}"#),
            Err(InvalidMessage::TooNew { found: 9 })
        ));
        for garbage in ["", "{}", "null", "\"x\"", r#"{"v":1}"#, r#"{"v":1,"webhook_id":"x"}"#] {
            assert!(
                matches!(Message::from_json(garbage), Err(InvalidMessage::Malformed(_))),
                "{garbage}"
            );
        }
    }
}
