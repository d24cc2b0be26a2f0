//! The filters, pages and positions of lists, and the cursor of the due index.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::shard::SHARDS;
use crate::{
    applications::id::{ApplicationId, EndpointId},
    clock::Timestamp,
    id::{MessageId, ReferenceId, TaskId, WebhookId},
    model::Webhook,
    status::Status,
};

/// Which webhooks a list returns. Empty: all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only those with this reference id.
    pub reference: Option<ReferenceId>,
    /// Only those with this status.
    pub status: Option<Status>,
    /// Only those created before this time.
    pub created_before: Option<Timestamp>,
}

// An application's deliveries are listed by its messages.
impl Filter {
    /// Whether the webhook matches and has not expired.
    pub fn matches(&self, webhook: &Webhook, now: Timestamp) -> bool {
        !webhook.is_expired(now)
            && self.reference.as_ref().is_none_or(|reference| *reference == webhook.id.reference)
            && self.status.is_none_or(|status| status == webhook.status)
            && self.created_before.is_none_or(|time| webhook.id.task < TaskId::first_at(time))
    }
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T, Position> {
    /// The entries.
    pub items: Vec<T>,
    /// Where the next page begins. `None` at the end.
    pub next: Option<Position>,
}

#[cfg(any(feature = "aws", feature = "redis"))]
impl<P: Ord + Copy> Page<Listed, P> {
    /// Inserts a webhook whose reference id was generated: the index by reference has no entry for
    /// it. Does nothing if the webhook belongs to an earlier page, which ends at `end`, or to a
    /// later one.
    pub(crate) fn insert(
        &mut self,
        listed: Listed,
        limit: usize,
        end: Option<P>,
        place: impl Fn(&Listed) -> P,
    ) {
        let found = place(&listed);
        if end.is_some_and(|end| found >= end) || self.next.is_some_and(|next| found < next) {
            return;
        }
        self.items.push(listed);
        self.items.sort_by_key(|listed| std::cmp::Reverse(place(listed)));
        if self.items.len() > limit {
            self.items.truncate(limit);
            self.next = self.items.last().map(place);
        }
    }
}

/// A webhook in a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// The record.
    pub webhook: Webhook,
    /// The URL of the content. Empty for a delivery: its endpoint has the URL.
    pub url: String,
}

/// A position in a list of webhooks. Positions sort like the keys of webhooks: by the task id, then
/// by the endpoint. A message sorts before its deliveries.
///
/// The text, which cursors contain, is the task id, for a delivery with `/` and the endpoint id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListPosition {
    /// The task id of the webhook, or of the delivery's message.
    pub task: TaskId,
    /// The endpoint of a delivery.
    pub endpoint: Option<EndpointId>,
}

impl ListPosition {
    /// The position of a webhook.
    pub const fn of(id: &WebhookId) -> Self {
        Self { task: id.task, endpoint: id.endpoint }
    }

    /// The position of a direct webhook or of a message.
    pub const fn at(task: TaskId) -> Self {
        Self { task, endpoint: None }
    }
}

impl fmt::Display for ListPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.task.fmt(f)?;
        self.endpoint.map_or(Ok(()), |endpoint| write!(f, "/{endpoint}"))
    }
}

/// The text is not a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a task ID, or a task ID, '/' and an endpoint ID")]
pub struct InvalidPosition;

impl FromStr for ListPosition {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        let (task, endpoint) = match text.split_once('/') {
            Some((task, endpoint)) => (task, Some(endpoint.parse().map_err(|_| InvalidPosition)?)),
            None => (text, None),
        };
        Ok(Self { task: task.parse().map_err(|_| InvalidPosition)?, endpoint })
    }
}

impl Serialize for ListPosition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ListPosition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Which dead letters a list returns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DeadLetterFilter {
    /// All of them.
    #[default]
    All,
    /// Direct webhooks with this reference id.
    Reference(ReferenceId),
    /// Deliveries to this endpoint.
    Endpoint(ApplicationId, EndpointId),
}

impl DeadLetterFilter {
    /// Those of a reference id, or all.
    pub fn reference(reference: Option<&ReferenceId>) -> Self {
        reference.map_or(Self::All, |reference| Self::Reference(reference.clone()))
    }

    /// Whether this dead letter is one of them.
    pub fn matches(&self, webhook: &Webhook) -> bool {
        match self {
            Self::All => true,
            Self::Reference(reference) => {
                !webhook.id.is_delivery() && *reference == webhook.id.reference
            }
            Self::Endpoint(application, endpoint) => {
                webhook.application.as_ref() == Some(application)
                    && webhook.id.endpoint == Some(*endpoint)
            }
        }
    }
}

/// A position in the list of dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DeadLetterPosition {
    /// When it was archived.
    #[serde(rename = "a")]
    pub archived_at: Timestamp,
    /// Which webhook.
    #[serde(rename = "t")]
    pub task: TaskId,
    /// Which delivery of the message `task`. `None`: a direct webhook.
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<EndpointId>,
}

/// One page of the list of dead letters.
pub type DeadLetters = Page<Listed, DeadLetterPosition>;

/// An entry of the due index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueEntry {
    /// Which webhook or message.
    pub id: DueId,
    /// When a worker must look at it.
    pub due_at: Timestamp,
}

/// What an entry of the due index names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DueId {
    /// A direct webhook or a delivery.
    Webhook(WebhookId),
    /// A published message.
    Message(MessageId),
}

impl DueId {
    /// The task id of the webhook or message.
    pub const fn task(&self) -> TaskId {
        match self {
            Self::Webhook(id) => id.task,
            Self::Message(id) => id.task,
        }
    }

    /// The id of a webhook. `None`: the entry names a message.
    pub const fn webhook(&self) -> Option<&WebhookId> {
        match self {
            Self::Webhook(id) => Some(id),
            Self::Message(_) => None,
        }
    }

    /// Reads the text of an entry of the part that schema 2 uses, where an id without an endpoint
    /// is a message's. Each kind of id has the form that it has elsewhere.
    pub fn of_schema_2(text: &str) -> Option<Self> {
        let id: WebhookId = text.parse().ok()?;
        Some(match id {
            WebhookId { reference, task, endpoint: None } => {
                Self::Message(MessageId { reference, task })
            }
            delivery => Self::Webhook(delivery),
        })
    }
}

impl PartialEq<WebhookId> for DueId {
    fn eq(&self, id: &WebhookId) -> bool {
        self.webhook() == Some(id)
    }
}

impl fmt::Display for DueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Webhook(id) => id.fmt(f),
            Self::Message(id) => id.fmt(f),
        }
    }
}

/// One page of the due index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DuePage {
    /// The entries, oldest first within each part of the index.
    pub entries: Vec<DueEntry>,
    /// Entries that name no webhook.
    pub nameless: usize,
    /// Where the next page begins. `None` if every part of the index was read to its end.
    pub next: Option<DueCursor>,
}

/// How far each part of the due index was read. [`Lists::due`](super::Lists::due) returns it and
/// continues after it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DueCursor {
    parts: Vec<DuePlace>,
}

/// How far one part of the due index was read, in the order of reading.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DuePlace {
    /// Nothing was read.
    #[default]
    #[serde(rename = "s")]
    Start,
    /// The part was read up to and including this entry, which may have moved since.
    #[serde(rename = "a")]
    After {
        /// When the entry was due.
        #[serde(rename = "d")]
        due_at: Timestamp,
        /// The backend's name of the entry. Empty: before every entry that is due at that time.
        #[serde(rename = "n")]
        name: String,
    },
    /// The part was read to its end.
    #[serde(rename = "e")]
    End,
}

impl DueCursor {
    /// A cursor from the places in all parts of the index.
    pub const fn new(parts: Vec<DuePlace>) -> Self {
        Self { parts }
    }

    /// The cursor before every entry that is due at this time or later, in the index of
    /// any backend.
    pub fn before(due_at: Timestamp) -> Self {
        let place = DuePlace::After { due_at, name: String::new() };
        Self { parts: vec![place; 2 * usize::from(SHARDS)] }
    }

    /// The place in this part.
    pub fn part(&self, index: usize) -> DuePlace {
        self.parts.get(index).cloned().unwrap_or_default()
    }

    /// The later place of both cursors, in each part.
    #[must_use]
    pub fn furthest(&self, other: &Self) -> Self {
        let parts = self.parts.len().max(other.parts.len());
        Self { parts: (0..parts).map(|index| self.part(index).max(other.part(index))).collect() }
    }

    /// The cursor for another run, which reads a finished part from its start, because the part may
    /// have grown.
    #[must_use]
    pub fn for_later(self) -> Self {
        let place = |place| if place == DuePlace::End { DuePlace::Start } else { place };
        Self { parts: self.parts.into_iter().map(place).collect() }
    }

    /// The cursor, or `None` if every part was read to its end.
    pub fn unfinished(self) -> Option<Self> {
        self.parts.iter().any(|place| *place != DuePlace::End).then_some(self)
    }
}

impl DuePlace {
    /// The place after this entry if more entries may follow, otherwise the end.
    pub fn after(last: Option<(Timestamp, String)>, more: bool) -> Self {
        match last {
            Some((due_at, name)) if more => Self::After { due_at, name },
            _ => Self::End,
        }
    }
}
