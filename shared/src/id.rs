//! Identifiers: `webhook_id = {reference_id}_{task_id}`.
//!
//! A task id is a UUIDv7 (RFC 9562), so the order of ids is the order of creation, to the
//! millisecond, and no index is needed for it. A reference id is the caller's own name for what the
//! webhook is about; several webhooks may share one.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

use crate::clock::Timestamp;

/// The longest reference id, in characters.
pub const MAX_REFERENCE_CHARS: usize = 64;

/// What a made-up reference id begins with.
const GENERATED: &str = "auto-";

/// A UUIDv7 that names one webhook. Ordered by its time, then by its random part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(Uuid);

impl TaskId {
    /// A new id for a webhook created `now`; 74 bits of it are `random`.
    pub fn mint(now: Timestamp, random: [u8; 10]) -> Self {
        let millis = u64::try_from(now.as_millis()).unwrap_or(0);
        Self(Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
    }

    /// The id of the item `index` of a batch that was given this id: same time, other random part,
    /// always the same answer.
    #[must_use]
    pub fn nth(self, index: usize) -> Self {
        let hash = Sha256::new()
            .chain_update(self.0.as_bytes())
            .chain_update((index as u64).to_be_bytes())
            .finalize();
        let mut random = [0; 10];
        random.copy_from_slice(&hash[..10]);
        Self::mint(self.created_at(), random)
    }

    /// The time within the id: when the webhook was created.
    pub fn created_at(self) -> Timestamp {
        let (high, _) = self.0.as_u64_pair();
        Timestamp::from_millis((high >> 16) as i64)
    }

    /// The lowest id of all that can be minted at `time`. Ids from before are less, ids from then
    /// on are not.
    pub fn first_at(time: Timestamp) -> Self {
        Self::mint(time, [0; 10])
    }

    /// The 16 bytes of the UUID; they sort as the ids do.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The id with these 16 bytes, if they are a UUIDv7.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Uuid::from_slice(bytes).ok().filter(|uuid| uuid.get_version_num() == 7).map(Self)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// An identifier that is not one of ours; says what it should look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// Not 1 to 64 of `A-Za-z0-9_-`.
    #[error("must be 1 to 64 characters of A-Z, a-z, 0-9, '_' and '-'")]
    Reference,
    /// Not a UUIDv7 in its canonical form.
    #[error("must be a UUIDv7 such as 01890a5d-ac96-774b-bcce-b302099a8057")]
    Task,
    /// Not `{reference_id}_{task_id}`.
    #[error("must be {{reference_id}}_{{task_id}}, as the API answered it")]
    Webhook,
}

impl FromStr for TaskId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        // Only the canonical form: one webhook has one id.
        let uuid = Uuid::try_parse(text).map_err(|_| InvalidId::Task)?;
        if uuid.get_version_num() != 7
            || uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()) != text
        {
            return Err(InvalidId::Task);
        }
        Ok(Self(uuid))
    }
}

/// A caller's name for what a webhook is about: 1 to 64 of `A-Za-z0-9_-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReferenceId(String);

impl ReferenceId {
    /// The reference id of a webhook whose caller gave none.
    ///
    /// It holds the task id, so the webhook can be found by it without an index entry: see
    /// [`ReferenceId::made_up_for`].
    pub fn generated(task: TaskId) -> Self {
        Self(format!("{GENERATED}{}", URL_SAFE_NO_PAD.encode(task.as_bytes())))
    }

    /// The one task that this reference id was made up for, if it was made up.
    pub fn made_up_for(&self) -> Option<TaskId> {
        let encoded = self.0.strip_prefix(GENERATED)?;
        let task = TaskId::from_bytes(&URL_SAFE_NO_PAD.decode(encoded).ok()?)?;
        (Self::generated(task) == *self).then_some(task)
    }

    /// The reference id of a test webhook: `TEST-` and eight hexadecimal digits of its task's
    /// random part.
    pub fn test(task: TaskId) -> Self {
        let bytes = task.as_bytes();
        Self(format!("TEST-{:02x}{:02x}{:02x}{:02x}", bytes[12], bytes[13], bytes[14], bytes[15]))
    }

    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ReferenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ReferenceId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let sane = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if text.is_empty() || text.len() > MAX_REFERENCE_CHARS || !text.bytes().all(sane) {
            return Err(InvalidId::Reference);
        }
        Ok(Self(text.to_owned()))
    }
}

/// Names one webhook: `{reference_id}_{task_id}`. The task id alone is unique; the reference id is
/// along for people.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WebhookId {
    /// What the caller calls it.
    pub reference: ReferenceId,
    /// What makes it unique.
    pub task: TaskId,
}

impl fmt::Display for WebhookId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.reference, self.task)
    }
}

impl FromStr for WebhookId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        // A reference id may hold '_' too; a task id never does, so the last one parts them.
        let (reference, task) = text.rsplit_once('_').ok_or(InvalidId::Webhook)?;
        Ok(Self {
            reference: reference.parse().map_err(|_| InvalidId::Webhook)?,
            task: task.parse().map_err(|_| InvalidId::Webhook)?,
        })
    }
}

macro_rules! serde_as_text {
    ($($type:ty),+) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    )+};
}
serde_as_text!(TaskId, ReferenceId, WebhookId);

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> TaskId {
        TaskId::mint(Timestamp::from_millis(1_700_000_000_123), [7; 10])
    }

    #[test]
    fn an_id_carries_its_time_and_sorts_by_it() {
        assert_eq!(task().created_at(), Timestamp::from_millis(1_700_000_000_123));
        let later = TaskId::mint(Timestamp::from_millis(1_700_000_000_124), [0; 10]);
        assert!(
            task() < later
                && task().as_bytes() < later.as_bytes()
                && task().to_string() < later.to_string()
        );
        assert!(TaskId::first_at(task().created_at()) <= task());
    }

    #[test]
    fn a_webhook_id_is_read_as_it_was_written() {
        for reference in ["a", "order_17", "_", "-_-", &"x".repeat(64)] {
            let id = WebhookId { reference: reference.parse().unwrap(), task: task() };
            assert_eq!(id.to_string().parse(), Ok(id));
        }
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        let good = task().to_string();
        let cases = [
            "",
            "_",
            "a",
            &good,
            &format!("_{good}"),
            &format!("a b_{good}"),
            &format!("a_{}", good.to_uppercase()),
        ];
        for text in cases {
            assert_eq!(text.parse::<WebhookId>(), Err(InvalidId::Webhook), "{text}");
        }
        assert_eq!(
            "a_9f0c2b4e-0000-4000-8000-000000000000".parse::<WebhookId>(),
            Err(InvalidId::Webhook),
            "UUIDv4"
        );
        assert_eq!("x".repeat(65).parse::<ReferenceId>(), Err(InvalidId::Reference));
    }

    #[test]
    fn a_made_up_reference_leads_back_to_its_task() {
        let generated = ReferenceId::generated(task());
        assert_eq!(generated.as_str().parse(), Ok(generated.clone()));
        assert_eq!(generated.made_up_for(), Some(task()));
        assert_eq!("auto-mobile".parse::<ReferenceId>().unwrap().made_up_for(), None);
    }

    #[test]
    fn items_of_a_batch_differ_and_are_always_the_same() {
        assert_eq!(task().nth(3), task().nth(3));
        assert_ne!(task().nth(3), task().nth(4));
        assert_eq!(task().nth(3).created_at(), task().created_at());
    }
}
