//! Any record of a store: of a webhook, direct or a delivery, or of a published message.
//!
//! | kind | `k` | `v` |
//! |---|---|---|
//! | direct webhook | – | 1 |
//! | delivery | – | 2 |
//! | published message | `m` | 2 |

use serde::Deserialize;

use crate::{
    applications::message::PublishedMessage,
    clock::Timestamp,
    model::{APPLICATIONS_SCHEMA, InvalidRecord, SCHEMA, Webhook, schema_of},
};

/// A record. The methods are the head that all kinds share.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A webhook: a direct one, or a delivery.
    Webhook(Box<Webhook>),
    /// A published message.
    Message(Box<PublishedMessage>),
}

/// What tells the kind.
#[derive(Deserialize)]
struct Head {
    v: u16,
    #[serde(default)]
    k: Option<String>,
}

impl Record {
    /// Reads the stored form of any kind.
    ///
    /// # Errors
    ///
    /// [`InvalidRecord::TooNew`] for a version that this code does not know of that kind, and for a
    /// kind of version 2 that it does not know: a newer version wrote the record. Never change it.
    /// [`InvalidRecord::Malformed`] for anything else that is no record.
    pub fn from_json(json: &str) -> Result<Self, InvalidRecord> {
        let head: Head = serde_json::from_str(json).map_err(InvalidRecord::Malformed)?;
        let too_new = Err(InvalidRecord::TooNew { found: head.v });
        if head.v > APPLICATIONS_SCHEMA {
            return too_new;
        }
        match head.k.as_deref() {
            None => {
                let webhook: Webhook = match serde_json::from_str(json) {
                    Ok(webhook) => webhook,
                    // A newer version may write a direct webhook with version 2.
                    Err(error) if head.v <= SCHEMA || is_of_delivery(json) => {
                        return Err(InvalidRecord::Malformed(error));
                    }
                    Err(_) => return too_new,
                };
                if webhook.schema > schema_of(&webhook.id) {
                    return too_new;
                }
                let is_delivery = webhook.id.is_delivery();
                if is_delivery && webhook.schema < APPLICATIONS_SCHEMA
                    || is_delivery != webhook.application.is_some()
                {
                    return Err(InvalidRecord::wrong_schema());
                }
                Ok(Self::Webhook(Box::new(webhook)))
            }
            Some("m") if head.v == APPLICATIONS_SCHEMA => {
                serde_json::from_str(json).map(Self::Message).map_err(InvalidRecord::Malformed)
            }
            Some(_) if head.v > SCHEMA => too_new,
            Some(_) => Err(InvalidRecord::wrong_schema()),
        }
    }

    /// The stored form.
    pub fn to_json(&self) -> String {
        let json = match self {
            Self::Webhook(webhook) => serde_json::to_string(webhook),
            Self::Message(message) => serde_json::to_string(message),
        };
        json.unwrap_or_else(|_| unreachable!("a record has only string keys"))
    }

    /// `v`: the schema version.
    pub fn schema(&self) -> u16 {
        match self {
            Self::Webhook(webhook) => webhook.schema,
            Self::Message(message) => message.schema,
        }
    }

    /// `r`: the number of writes.
    pub fn revision(&self) -> u64 {
        match self {
            Self::Webhook(webhook) => webhook.revision,
            Self::Message(message) => message.revision,
        }
    }

    /// `u`: when it was last written.
    pub fn updated_at(&self) -> Timestamp {
        match self {
            Self::Webhook(webhook) => webhook.updated_at,
            Self::Message(message) => message.updated_at,
        }
    }

    /// `due`: its place in the due index.
    pub fn due_at(&self) -> Option<Timestamp> {
        match self {
            Self::Webhook(webhook) => webhook.due_at,
            Self::Message(message) => message.due_at,
        }
    }

    /// `requeues`: how often the sweep has queued it in this state.
    pub fn requeues(&self) -> u32 {
        match self {
            Self::Webhook(webhook) => webhook.budget.requeues,
            Self::Message(message) => message.requeues,
        }
    }

    /// `x`: when it expires.
    pub fn expires_at(&self) -> Option<Timestamp> {
        match self {
            Self::Webhook(webhook) => webhook.expires_at,
            Self::Message(message) => message.expires_at,
        }
    }
}

fn is_of_delivery(json: &str) -> bool {
    #[derive(Deserialize)]
    struct Named {
        id: crate::id::WebhookId,
    }
    serde_json::from_str::<Named>(json).is_ok_and(|named| named.id.is_delivery())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{store::golden, transition::Rules};

    fn too_new(json: &str) -> Option<u16> {
        match Record::from_json(json) {
            Err(InvalidRecord::TooNew { found }) => Some(found),
            Err(InvalidRecord::Malformed(_)) => None,
            Ok(record) => panic!("{record:?}"),
        }
    }

    #[test]
    fn each_kind_is_read_as_it_was_written_and_has_the_same_head() {
        let [(_, direct), ..] = golden::records();
        let message = golden::applications::scheduled();
        let delivery = golden::applications::attempted();
        let records = [
            (Record::Webhook(Box::new(direct.clone())), 1, direct.revision, None, 0),
            (Record::Webhook(Box::new(delivery.clone())), 2, 2, delivery.due_at, 0),
            (Record::Message(Box::new(message.clone())), 2, 4, message.due_at, 2),
        ];
        for (record, schema, revision, due_at, requeues) in records {
            assert_eq!(Record::from_json(&record.to_json()).unwrap(), record);
            assert_eq!((record.schema(), record.revision()), (schema, revision));
            assert_eq!((record.due_at(), record.requeues()), (due_at, requeues));
            assert_eq!(record.expires_at(), None);
        }
        let message = golden::applications::published();
        let record = Record::Message(Box::new(message.clone()));
        assert_eq!((record.expires_at(), record.updated_at()), (message.expires_at, golden::NOW));
        let record = Record::Webhook(Box::new(delivery.clone()));
        assert_eq!(record.updated_at(), delivery.updated_at);
    }

    #[test]
    fn what_a_newer_version_wrote_is_told_from_garbage() {
        let [(_, direct), ..] = golden::records();
        let message = golden::applications::published();
        let delivery =
            Rules::delivery(&message, golden::applications::endpoint(1)).unwrap().to_json();
        let message = serde_json::to_string(&message).unwrap();
        let v = |json: &str, from: u16, to: u16| {
            json.replacen(&format!("\"v\":{from}"), &format!("\"v\":{to}"), 1)
        };
        assert_eq!(too_new(&v(&direct.to_json(), 1, 2)), Some(2), "a direct webhook of version 2");
        assert_eq!(too_new(&v(&delivery, 2, 3)), Some(3));
        assert_eq!(too_new(&v(&message, 2, 3)), Some(3));
        assert_eq!(too_new(&message.replace("\"k\":\"m\"", "\"k\":\"j\"")), Some(2), "a job");
        assert_eq!(too_new(r#"{"v":2,"id":"x","other":1}"#), Some(2));
        assert_eq!(too_new(r#"{"v":9}"#), Some(9));
        for garbage in [
            "",
            "{}",
            "null",
            r#"{"v":1}"#,
            r#"{"v":2,"k":"m"}"#,
            r#"{"v":1,"k":"j"}"#,
            &v(&delivery, 2, 1),
            &v(&message, 2, 1),
            &delivery.replace("\"app\":\"cust-7\",", ""),
            &delivery.replace("\"s\":\"pending\"", "\"s\":\"paused\""),
            &direct.to_json().replace("\"cor\":", "\"app\":\"cust-7\",\"cor\":"),
        ] {
            assert_eq!(too_new(garbage), None, "{garbage}");
        }
        // A reader of direct webhooks alone refuses them as before.
        let refused = |json: &str| Webhook::from_json(json).unwrap_err();
        assert!(matches!(refused(&delivery), InvalidRecord::TooNew { found: 2 }));
        assert!(matches!(refused(&v(&delivery, 2, 1)), InvalidRecord::Malformed(_)));
    }
}
