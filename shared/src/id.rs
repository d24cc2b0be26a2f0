//! Identifiers: `webhook_id = {reference_id}_{task_id}`.
//!
//! A published message has an id of the same form. The delivery of a message to an endpoint is a
//! webhook, with the id `{reference_id}_{task_id}.{endpoint_id}`.
//!
//! A task id is a UUIDv7 (RFC 9562). Task ids sort by creation time, so lists need no index for it.
//! The ids of one process are monotonic: see [`TaskIdGenerator`]. Ids of different processes sort
//! by their milliseconds. A reference id is the caller's name for the subject of a webhook. Several
//! webhooks may share one.

use std::{
    fmt,
    str::FromStr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

use crate::{applications::id::EndpointId, clock::Timestamp};

/// The longest reference id, in characters.
pub const MAX_REFERENCE_CHARS: usize = 64;

/// The beginning of a generated reference id.
const GENERATED: &str = "auto-";

/// How far the time in an id may run ahead of the clock: 1 s. If the clock steps back further, ids
/// follow it and are not monotonic at that moment.
const MAX_AHEAD: Duration = Duration::from_secs(1);

/// The bits of an id below its counter. They are random in each id.
const TAIL_BITS: u32 = 32;

/// The bits of an id below its time, version and variant left out.
const RANDOM_BITS: u32 = 74;

/// A UUIDv7 that identifies one webhook. Ordered by its time, then by its other bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(Uuid);

impl TaskId {
    /// An id with this time and 74 of these random bits. To accept webhooks, use a
    /// [`TaskIdGenerator`].
    pub fn mint(now: Timestamp, random: [u8; 10]) -> Self {
        let millis = u64::try_from(now.as_millis()).unwrap_or(0);
        Self(Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
    }

    /// The id of item `index` of a batch whose idempotency key reserved this id. It has the same
    /// time and other random bits, and is the same on each call. It is not monotonic: items of such
    /// a batch list in any order.
    #[must_use]
    pub fn nth(self, index: usize) -> Self {
        Self::mint(self.created_at(), self.derive_random(index))
    }

    fn derive_random(self, index: usize) -> [u8; 10] {
        let hash = Sha256::new()
            .chain_update(self.0.as_bytes())
            .chain_update((index as u64).to_be_bytes())
            .finalize();
        let mut random = [0; 10];
        random.copy_from_slice(&hash[..10]);
        random
    }

    /// The creation time, which the id contains.
    pub fn created_at(self) -> Timestamp {
        let (high, _) = self.0.as_u64_pair();
        Timestamp::from_millis((high >> 16) as i64)
    }

    /// The lowest id with this time.
    pub fn first_at(time: Timestamp) -> Self {
        Self::mint(time, [0; 10])
    }

    /// The 16 bytes of the UUID. They sort like the ids.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The id with these 16 bytes, if they are a UUIDv7.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Uuid::from_slice(bytes).ok().filter(|uuid| uuid.get_version_num() == 7).map(Self)
    }

    /// The 74 bits below the time: a counter, and [`TAIL_BITS`] random bits.
    fn random_bits(self) -> u128 {
        let (high, low) = self.0.as_u64_pair();
        (u128::from(high & 0xfff) << 62) | u128::from(low & (u64::MAX >> 2))
    }

    /// An id with the same time and the next counter. If the counter overflows, its time is a
    /// millisecond later.
    fn successor(self, random: [u8; 10]) -> Self {
        let fresh = Self::mint(self.created_at(), random);
        let counter = (self.random_bits() >> TAIL_BITS) + 1;
        if counter >> (RANDOM_BITS - TAIL_BITS) != 0 {
            return Self::mint(self.created_at().plus(Duration::from_millis(1)), random);
        }
        let tail = fresh.random_bits() & u128::from(u32::MAX);
        let bits = (counter << TAIL_BITS) | tail;
        let mut bytes = [0; 10];
        bytes[..2].copy_from_slice(&((bits >> 62) as u16).to_be_bytes());
        bytes[2..].copy_from_slice(&(bits as u64).to_be_bytes());
        Self::mint(self.created_at(), bytes)
    }
}

/// Mints the task ids of one process. Each id is greater than the one before.
///
/// The first id of a millisecond is random below its time. Each further one increments the upper 42
/// of these 74 bits and draws new lower 32 bits. When the clock steps back by at most 1 s, ids keep
/// their time and count on; see [`TaskIdGenerator::next`].
#[derive(Debug, Default)]
pub struct TaskIdGenerator {
    last: Mutex<Option<TaskId>>,
}

impl TaskIdGenerator {
    /// The next id. Its time is `now`, or at most 1 s later.
    pub fn next(&self, now: Timestamp, random: [u8; 10]) -> TaskId {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let id = next_after(*last, now, random);
        *last = Some(id);
        id
    }

    /// The ids of a batch, in the order of its items. No other id lies between them.
    pub fn next_batch(&self, now: Timestamp, random: [u8; 10], count: usize) -> Vec<TaskId> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let first = next_after(*last, now, random);
        let others = (1..count).scan(first, |previous, index| {
            *previous = previous.successor(first.derive_random(index));
            Some(*previous)
        });
        let ids: Vec<TaskId> = std::iter::once(first).chain(others).take(count).collect();
        *last = ids.last().copied().or(*last);
        ids
    }
}

fn next_after(last: Option<TaskId>, now: Timestamp, random: [u8; 10]) -> TaskId {
    let fresh = TaskId::mint(now, random);
    let counts_on = |last: &TaskId| {
        fresh.created_at() <= last.created_at() && last.created_at().since(now) < MAX_AHEAD
    };
    last.filter(counts_on).map_or(fresh, |last| last.successor(random))
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// An invalid identifier. The text describes the valid form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// Not 1 to 64 of `A-Za-z0-9_-`.
    #[error("must be 1 to 64 characters of A-Z, a-z, 0-9, '_' and '-'")]
    Reference,
    /// Not a UUIDv7 in its canonical form.
    #[error("must be a UUIDv7 such as 01890a5d-ac96-774b-bcce-b302099a8057")]
    Task,
    /// Not `{reference_id}_{task_id}`, for a delivery with `.{endpoint_id}`.
    #[error("must be {{reference_id}}_{{task_id}}, as the API returned it")]
    Webhook,
}

impl FromStr for TaskId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        // Only the canonical form is valid, so that a webhook has one id.
        let uuid = Uuid::try_parse(text).map_err(|_| InvalidId::Task)?;
        if uuid.get_version_num() != 7
            || uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()) != text
        {
            return Err(InvalidId::Task);
        }
        Ok(Self(uuid))
    }
}

/// The caller's name for the subject of a webhook: 1 to 64 of `A-Za-z0-9_-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReferenceId(String);

impl ReferenceId {
    /// The reference id of a webhook whose caller omitted it. It contains the task id, so a lookup
    /// by it needs no index entry: see [`ReferenceId::generated_for`].
    pub fn generated(task: TaskId) -> Self {
        Self(format!("{GENERATED}{}", URL_SAFE_NO_PAD.encode(task.as_bytes())))
    }

    /// The task that this reference id was generated for. `None`: a caller chose it.
    pub fn generated_for(&self) -> Option<TaskId> {
        let encoded = self.0.strip_prefix(GENERATED)?;
        let task = TaskId::from_bytes(&URL_SAFE_NO_PAD.decode(encoded).ok()?)?;
        (Self::generated(task) == *self).then_some(task)
    }

    /// The reference id of a test webhook: `TEST-` and eight hexadecimal digits of its task's
    /// random part.
    pub fn test(task: TaskId) -> Self {
        Self(format!("TEST-{}", hex::encode(&task.as_bytes()[12..])))
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

/// The id of one webhook: `{reference_id}_{task_id}` of a direct webhook, and
/// `{reference_id}_{task_id}.{endpoint_id}` of a delivery. The task id and the endpoint id are
/// unique together. The reference id is for people.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WebhookId {
    /// The caller's name for it.
    pub reference: ReferenceId,
    /// The unique part of a direct webhook. For a delivery, the task id of its message.
    pub task: TaskId,
    /// The endpoint that the webhook delivers to. `None`: a direct webhook, which has its own URL.
    pub endpoint: Option<EndpointId>,
}

impl WebhookId {
    /// The id of a direct webhook.
    pub const fn direct(reference: ReferenceId, task: TaskId) -> Self {
        Self { reference, task, endpoint: None }
    }

    /// Whether it is the id of a delivery.
    pub const fn is_delivery(&self) -> bool {
        self.endpoint.is_some()
    }

    /// The message that this delivery belongs to. `None`: a direct webhook.
    pub fn message_id(&self) -> Option<MessageId> {
        let message = || MessageId { reference: self.reference.clone(), task: self.task };
        self.endpoint.map(|_| message())
    }
}

impl fmt::Display for WebhookId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.reference, self.task)?;
        self.endpoint.map_or(Ok(()), |endpoint| write!(f, ".{endpoint}"))
    }
}

impl FromStr for WebhookId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        // Neither a reference id nor a task id contains '.'.
        let (text, endpoint) = match text.split_once('.') {
            Some((text, endpoint)) => {
                (text, Some(endpoint.parse().map_err(|_| InvalidId::Webhook)?))
            }
            None => (text, None),
        };
        // A reference id may contain '_', but a task id does not. So the last one separates them.
        let (reference, task) = text.rsplit_once('_').ok_or(InvalidId::Webhook)?;
        Ok(Self {
            reference: reference.parse().map_err(|_| InvalidId::Webhook)?,
            task: task.parse().map_err(|_| InvalidId::Webhook)?,
            endpoint,
        })
    }
}

/// The id of a published message: `{reference_id}_{task_id}`. Receivers see it as `webhook-id`, so
/// it is the same at each endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    /// The publisher's name for it.
    pub reference: ReferenceId,
    /// The unique part.
    pub task: TaskId,
}

impl MessageId {
    /// The id of this message's delivery to an endpoint.
    pub fn delivery(&self, endpoint: EndpointId) -> WebhookId {
        let Self { reference, task } = self;
        WebhookId { reference: reference.clone(), task: *task, endpoint: Some(endpoint) }
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.reference, self.task)
    }
}

impl FromStr for MessageId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match text.parse()? {
            WebhookId { reference, task, endpoint: None } => Ok(Self { reference, task }),
            WebhookId { .. } => Err(InvalidId::Webhook),
        }
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
serde_as_text!(TaskId, ReferenceId, WebhookId, MessageId);

#[cfg(test)]
mod tests;
