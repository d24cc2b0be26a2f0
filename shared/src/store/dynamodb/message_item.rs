//! A published message, a marker, and the group of a message with its deliveries, as items.
//!
//! A message has the key of a direct webhook with its task id. Its deliveries sort right behind it,
//! so one query reads a message with everything that occupies the keys of its deliveries.
//!
//! Attributes of a message:
//! - `k` is `m`; `v` revision, `d` the record's JSON, deflated, `x` expiry
//! - `f`: an extension for a delivery made the message exist until then
//! - `c`, or `ck`, `cn` and `ce`: the content, as that of a webhook. Record and content share the
//!   item if both fit into one write unit.
//! - `a` puts it into the index `application`, as `{application}/{0..3}`
//! - `r` puts it into `reference`, as `{application}/{reference}`, if the caller gave the reference
//!   id. No reference id of a webhook contains `/`.
//! - `i` and `j` put it into `work` while it is due, as `due2/SHARD`
//!
//! A marker has `k` (`d`, as a delivery), `z` and `x`: until then it occupies the key.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

use aws_sdk_dynamodb::types::AttributeValue;

use super::item::{
    Item, WRITE_UNIT_BYTES, add_content, changing, deflated, due_partition, number, number_of,
    readable, record, record_key, seconds, shard, sortable, text, tombstone, webhook_key,
};
use crate::{
    applications::{
        id::{ApplicationId, EndpointId},
        message::PublishedMessage,
        standing::{Found, Standing},
    },
    clock::Timestamp,
    id::{MessageId, TaskId, WebhookId},
    model::{Content, Webhook},
    record::Record,
    store::{ListPosition, StoreError, Tombstone},
};

/// `k` of a message.
pub(super) const MESSAGE: &str = "m";

/// `k` of a delivery and of a marker.
pub(super) const DELIVERY: &str = "d";

/// The partitions of an application in the index `application`: one partition takes 1,000 writes a
/// second.
pub(super) const APPLICATION_PARTS: u8 = 4;

/// The room for the growth of a message: it settles, and it enters the due index.
const MESSAGE_GROWTH_BYTES: usize = 100;

/// The partition of the index `application` for messages of this application.
pub(super) fn messages_partition(application: &ApplicationId, part: u8) -> String {
    format!("{application}/{part}")
}

/// The partition of the index `reference` for messages with a reference id.
pub(super) fn referenced_partition(message: &ApplicationId, reference: &str) -> String {
    format!("{message}/{reference}")
}

/// The attributes that every write of a message sets or removes.
pub(super) fn changing_of_message(
    message: &PublishedMessage,
) -> Vec<(&'static str, Option<AttributeValue>)> {
    let json = Record::Message(Box::new(message.clone())).to_json();
    let part = due_partition(true, shard(message.id.task));
    let place = |due_at| format!("{}/{}", sortable(due_at), message.id.reference);
    vec![
        ("v", Some(number(message.revision))),
        ("d", Some(deflated(json.as_bytes()))),
        ("x", message.expires_at.map(|at| number(seconds(at)))),
        ("i", message.due_at.map(|_| text(part))),
        ("j", message.due_at.map(|due_at| text(place(due_at)))),
    ]
}

/// The items of a new message: its record, and those of its content, if it has any. The latter are
/// written first.
pub(super) fn new_message_items(
    message: &PublishedMessage,
    content: &Content,
    name: &str,
    content_expires: Timestamp,
) -> (Item, Vec<Item>) {
    let task = message.id.task;
    let mut record = record_key(task);
    let attributes = changing_of_message(message).into_iter();
    record.extend(attributes.filter_map(|(name, value)| Some((name.to_owned(), value?))));
    record.insert("k".to_owned(), text(MESSAGE));
    let part = shard(task) % APPLICATION_PARTS;
    record.insert("a".to_owned(), text(messages_partition(&message.application, part)));
    if message.referenced {
        let partition = referenced_partition(&message.application, message.id.reference.as_str());
        record.insert("r".to_owned(), text(partition));
    }
    let limit = WRITE_UNIT_BYTES - MESSAGE_GROWTH_BYTES;
    let parts = add_content(&mut record, task, content, name, content_expires, limit);
    (record, parts)
}

/// The item of a delivery that had no record. `lasts`: when the message and its content expire at
/// the earliest.
pub(super) fn first_item(delivery: &Webhook, lasts: Timestamp) -> Item {
    let mut item = webhook_key(&delivery.id);
    let attributes = changing(delivery).into_iter();
    item.extend(attributes.filter_map(|(name, value)| Some((name.to_owned(), value?))));
    item.insert("k".to_owned(), text(DELIVERY));
    item.insert("ce".to_owned(), number(seconds(lasts)));
    item
}

/// The marker of a delivery.
pub(super) fn marker_item(id: &WebhookId, until: Timestamp) -> Item {
    let mut item = webhook_key(id);
    item.insert("k".to_owned(), text(DELIVERY));
    item.insert("z".to_owned(), text(Tombstone::Deleted.as_str()));
    item.insert("x".to_owned(), number(seconds(until)));
    item
}

/// The message of an item that was read by this id. `None`: the record is a webhook.
pub(super) fn message_of(
    id: &MessageId,
    item: &Item,
) -> Result<Option<PublishedMessage>, StoreError> {
    match record(item) {
        Ok(Record::Message(message)) => Ok(Some(*message)),
        Ok(Record::Webhook(_)) => Ok(None),
        Err(source) => Err(StoreError::unreadable(id, source)),
    }
}

/// The message of a list's entry, unless the item is another one or unreadable.
pub(super) fn readable_message(item: &Item) -> Option<PublishedMessage> {
    match readable(item)? {
        Record::Message(message) => Some(*message),
        Record::Webhook(_) => None,
    }
}

/// Until when an extension lets the message exist.
pub(super) fn kept_until(item: &Item) -> Option<Timestamp> {
    number_of(item, "f").map(|seconds| Timestamp::from_millis(seconds.saturating_mul(1000)))
}

/// Whether the message of this item exists for readers and writers.
pub(super) fn exists(message: &PublishedMessage, item: &Item, now: Timestamp) -> bool {
    !message.is_expired(now) || kept_until(item).is_some_and(|until| until > now)
}

/// What an item under a delivery's key is. It occupies the key as long as it is there.
pub(super) fn found(item: &Item, now: Timestamp) -> Found {
    if tombstone(item).is_some() {
        return Found::Marker;
    }
    match readable(item) {
        Some(Record::Webhook(webhook)) if webhook.is_expired(now) => Found::Expired,
        Some(Record::Webhook(webhook)) => Found::Record(webhook),
        Some(Record::Message(_)) | None => Found::Unreadable,
    }
}

/// The items with one task id: a direct webhook, or a message with what occupies the keys of its
/// deliveries.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) task: TaskId,
    /// The direct webhook, the message, or the tombstone of either.
    pub(super) head: Option<Item>,
    deliveries: BTreeMap<EndpointId, Item>,
}

impl Group {
    pub(super) const fn new(task: TaskId) -> Self {
        Self { task, head: None, deliveries: BTreeMap::new() }
    }

    /// Adds an item with the position that is its key.
    pub(super) fn add(&mut self, position: ListPosition, item: Item) {
        match position.endpoint {
            Some(endpoint) => drop(self.deliveries.insert(endpoint, item)),
            None => self.head = Some(item),
        }
    }

    /// What occupies the keys of the deliveries.
    pub(super) fn found(&self, now: Timestamp) -> BTreeMap<EndpointId, Found> {
        let deliveries = self.deliveries.iter();
        deliveries.map(|(endpoint, item)| (*endpoint, found(item, now))).collect()
    }

    /// The standing of the message. `None`: there is none that this version can read, or it has
    /// expired.
    pub(super) fn standing(
        &self,
        audited_until: Option<Timestamp>,
        now: Timestamp,
    ) -> Option<Standing> {
        let head = self.head.as_ref()?;
        let message = readable_message(head)?;
        let exists = exists(&message, head, now);
        exists.then(|| Standing { message, found: self.found(now), audited_until })
    }

    /// The webhooks that readers see, in the order of lists. A delivery has no item of use.
    pub(super) fn webhooks(self, now: Timestamp) -> Vec<(Webhook, Item)> {
        let found = self.found(now);
        let head = self.head.unwrap_or_default();
        let record = if head.is_empty() { None } else { readable(&head) };
        let mut deliveries = match record {
            Some(Record::Webhook(webhook)) => return vec![(*webhook, head)],
            Some(Record::Message(message)) if exists(&message, &head, now) => {
                Standing { message: *message, found, audited_until: None }.visible_deliveries(now)
            }
            _ => found
                .into_values()
                .filter_map(|found| match found {
                    Found::Record(webhook) => Some(*webhook),
                    _ => None,
                })
                .collect(),
        };
        deliveries.sort_by_key(|webhook| Reverse(webhook.id.endpoint));
        deliveries.into_iter().map(|webhook| (webhook, HashMap::new())).collect()
    }
}
