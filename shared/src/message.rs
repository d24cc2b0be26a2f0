//! Queue messages. A message asks a worker to look at one webhook. The record decides what the
//! worker does, so a message that arrives twice, late or out of order costs one read.
//!
//! | `v` | fields | asks for a look at |
//! |---|---|---|
//! | 1 | `webhook_id` | a direct webhook |
//! | 2 | `webhook_id` with an endpoint | a delivery |
//! | 2 | `message_id` | a published message |
//!
//! A version before applications returns a message of `v` 2 to the queue.

use serde::{Deserialize, Serialize};

use crate::{
    id::{MessageId, WebhookId},
    model::{APPLICATIONS_SCHEMA, SCHEMA, Slot, Webhook, schema_of},
};

/// The largest record that a message carries; see [`Message::seen`].
const MAX_SEEN_BYTES: usize = 4 * 1024;

/// A message in either queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Schema version; see [`schema_of`].
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

/// A queue message: a look at a webhook or at a published message.
#[derive(Clone, Debug, PartialEq)]
pub enum Look {
    /// At a webhook: a direct one (`v` 1), or a delivery (`v` 2).
    Webhook(Message),
    /// At a published message (`v` 2).
    Message(MessageId),
}

/// Why a message cannot be processed.
#[derive(Debug, thiserror::Error)]
pub enum InvalidMessage {
    /// A newer version wrote the message. Return it to the queue.
    #[error("message schema version {found} is newer than this version knows")]
    TooNew {
        /// The message's version.
        found: u16,
    },
    /// Not a message of Posthaste. Archive it as a dead letter.
    #[error("not a message of Posthaste")]
    Malformed(#[source] serde_json::Error),
}

/// What every message has, and what tells its kind.
#[derive(Deserialize)]
struct Head {
    v: u16,
    #[serde(default)]
    webhook_id: Option<serde::de::IgnoredAny>,
}

/// A look at a published message, as it is written.
#[derive(Serialize, Deserialize)]
struct MessageLook {
    v: u16,
    message_id: MessageId,
}

impl Look {
    /// The body of the queue message.
    pub fn to_json(&self) -> String {
        match self {
            Self::Webhook(message) => message.to_json(),
            Self::Message(id) => {
                let look = MessageLook { v: APPLICATIONS_SCHEMA, message_id: id.clone() };
                serde_json::to_string(&look)
                    .unwrap_or_else(|_| unreachable!("a look has only string keys"))
            }
        }
    }

    /// Reads a message of either kind. Leaves out a hint that it cannot read.
    ///
    /// # Errors
    ///
    /// [`InvalidMessage::TooNew`] for a higher version than 2, and for a message of version 2 that
    /// is not a look at a delivery or a message: a newer version wrote it.
    pub fn from_json(json: &str) -> Result<Self, InvalidMessage> {
        if let Ok(look) = serde_json::from_str::<MessageLook>(json)
            && look.v == APPLICATIONS_SCHEMA
        {
            return Ok(Self::Message(look.message_id));
        }
        let message = Message::read(json, APPLICATIONS_SCHEMA)?;
        if message.v > schema_of(&message.webhook_id) {
            return Err(InvalidMessage::TooNew { found: message.v });
        }
        Ok(Self::Webhook(message))
    }
}

impl Message {
    /// A message to look at this webhook.
    pub fn look_at(webhook_id: WebhookId) -> Self {
        Self {
            v: schema_of(&webhook_id),
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

    /// A message to look at this webhook, with the record that was just written. For a delivery
    /// without a record, with the one that [`Rules::delivery`](crate::transition::Rules::delivery)
    /// defines: its revision is 0.
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

    /// Reads a message about a direct webhook, of this schema version or an older one. Leaves out
    /// a hint that it cannot read. [`Look::from_json`] reads messages of every kind.
    pub fn from_json(json: &str) -> Result<Self, InvalidMessage> {
        Self::read(json, SCHEMA)
    }

    fn read(json: &str, newest: u16) -> Result<Self, InvalidMessage> {
        #[derive(Deserialize)]
        struct Bare {
            v: u16,
            webhook_id: WebhookId,
        }
        let message = match serde_json::from_str::<Self>(json) {
            Ok(message) => message,
            Err(error) => match serde_json::from_str::<Bare>(json) {
                Ok(bare) => Self { v: bare.v, ..Self::look_at(bare.webhook_id) },
                Err(_) => match serde_json::from_str::<Head>(json) {
                    Ok(Head { v, webhook_id })
                        if v > newest
                        // Of the newest version alone, another kind can be known to a later one.
                        || (v > SCHEMA && webhook_id.is_none()) =>
                    {
                        return Err(InvalidMessage::TooNew { found: v });
                    }
                    _ => return Err(InvalidMessage::Malformed(error)),
                },
            },
        };
        if message.v > newest {
            return Err(InvalidMessage::TooNew { found: message.v });
        }
        let is_delivery = message.webhook_id.is_delivery();
        if is_delivery && message.v < APPLICATIONS_SCHEMA {
            let error = serde::de::Error::custom("a delivery's message has a higher version");
            return Err(InvalidMessage::Malformed(error));
        }
        // Posthaste sends no record that expires, which is a finished one: a write of it would make
        // the webhook disappear. Nor does a revision reach 2^63, the limit of a database.
        let is_usable = |seen: &Webhook| {
            let has_next_revision =
                i64::try_from(seen.revision).is_ok_and(|revision| revision < i64::MAX);
            seen.schema <= schema_of(&seen.id)
                && (!is_delivery
                    || seen.schema == APPLICATIONS_SCHEMA && seen.application.is_some())
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

    #[test]
    fn looks_at_deliveries_and_messages_have_version_2() {
        let endpoint = crate::applications::id::EndpointId::mint([7; 10]);
        let direct = webhook(Timestamp::from_millis(1_700_000_000_000));
        let message: MessageId = direct.id.to_string().parse().unwrap();
        let delivery = Message::look_at(message.delivery(endpoint));
        assert_eq!((Message::look_at(direct.id.clone()).v, delivery.v), (1, 2));
        for look in [
            Look::Message(message.clone()),
            Look::Webhook(delivery.clone()),
            Look::Webhook(Message { relays: 3, archive: true, ..delivery.clone() }),
            Look::Webhook(Message::with_seen(&direct)),
        ] {
            assert_eq!(Look::from_json(&look.to_json()).unwrap(), look);
        }
        // A hint that is not a delivery's record is left out.
        let mut seen = Webhook { id: delivery.webhook_id.clone(), revision: 0, ..direct.clone() };
        for (schema, application) in [(1, Some("a")), (2, None), (3, Some("a"))] {
            seen.schema = schema;
            seen.application = application.map(|id| id.parse().unwrap());
            let json = Message::with_seen(&seen).to_json();
            assert_eq!(Look::from_json(&json).unwrap(), Look::Webhook(delivery.clone()), "{json}");
        }
    }

    #[test]
    fn a_look_of_a_newer_version_is_told_from_garbage() {
        let task = "01890a5d-ac96-774b-bcce-b302099a8057";
        let ep = "ep-aaaaaaaaaaaaaaaa";
        let too_new = |json: &str| match Look::from_json(json) {
            Err(InvalidMessage::TooNew { found }) => Some(found),
            Err(InvalidMessage::Malformed(_)) => None,
            Ok(look) => panic!("{look:?}"),
        };
        for (json, found) in [
            (format!(r#"{{"v":2,"job_id":"job_{task}"}}"#), 2),
            (format!(r#"{{"v":2,"webhook_id":"a_{task}"}}"#), 2),
            (format!(r#"{{"v":3,"message_id":"a_{task}"}}"#), 3),
            (format!(r#"{{"v":3,"webhook_id":"a_{task}.{ep}"}}"#), 3),
            (r#"{"v":3,"webhook_id":"x"}"#.to_owned(), 3),
        ] {
            assert_eq!(too_new(&json), Some(found), "{json}");
        }
        for garbage in [
            format!(r#"{{"v":1,"message_id":"a_{task}"}}"#),
            format!(r#"{{"v":1,"webhook_id":"a_{task}.{ep}"}}"#),
            r#"{"v":2,"webhook_id":"x"}"#.to_owned(),
            r#"{"v":1,"webhook_id":"x"}"#.to_owned(),
            "{}".to_owned(),
        ] {
            assert_eq!(too_new(&garbage), None, "{garbage}");
        }
        let v0 = format!(r#"{{"v":0,"webhook_id":"a_{task}"}}"#);
        assert_eq!(Message::from_json(&v0).unwrap().v, 0, "an older version");
        for newer in [
            format!(r#"{{"v":2,"webhook_id":"a_{task}.{ep}"}}"#),
            format!(r#"{{"v":2,"message_id":"a_{task}"}}"#),
        ] {
            let refused = Message::from_json(&newer);
            assert!(matches!(refused, Err(InvalidMessage::TooNew { found: 2 })), "{refused:?}");
        }
    }
}
