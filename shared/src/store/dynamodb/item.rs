//! A webhook as items of the table, and back. [`super::message_item`] adds messages.
//!
//! | item | `p` | `s` |
//! |---|---|---|
//! | record or tombstone | `w/DAY/SHARD` | task id |
//! | record of a delivery, or its marker | the same, by its message | `TASK/ENDPOINT` |
//! | part of a content | `c/TASK/NAME` | part, from `0` |
//!
//! Attributes of a record:
//! - `v` revision, `d` the record's JSON, deflated, `st` status for people, `x` expiry
//! - `u` the URL, unless it is long
//! - `c` the content, deflated; or, if the content has items of its own, `ck` their name, `cn`
//!   their number and `ce` when they expire
//!
//! Index attributes of a record. An index holds only items that have both of its key attributes, so
//! each index is sparse:
//! - `i` and `j` put it into the index `work`, as `due/SHARD` by due time or as `dead/SHARD` by the
//!   time of archiving. [`places`] computes them. A record that is neither due nor a dead letter
//!   has none.
//! - `r` puts it into `reference`, `l` with `j` into `dead_reference`. Only a webhook whose caller
//!   gave the reference id has them.
//!
//! A delivery differs from a direct webhook:
//! - `k` is `d`. The audit reads all items that have a `k`.
//! - It is due in `due2/SHARD`, which older versions do not read.
//! - `l` is `{application}/{endpoint}`, so `dead_reference` also lists an endpoint's dead letters.
//! - It has no content. `ce` is when its message and their content expire at the earliest.
//! - `x` is 20 days after its expiry. Until then it occupies its key.
//!
//! A tombstone has `z` (why no webhook can be created under the id) and `x`. A part of a content
//! has `c` (deflated) and `x`. `DAY` counts from 1970-01-01. `SHARD` is [`shard()`] of the task id.
//! Times in `x` and `ce` are seconds, rounded up, as DynamoDB's time to live requires.
//!
//! **The content has items of its own** unless record and content fit into one write unit together,
//! even after the record has grown to its delivery. It is written before the record, under a name
//! that only this create knows. So either both exist, or the content is an orphan that no reader
//! finds and that its time to live deletes. That is why a content has a time to live from the
//! start; see `ce` in [`super::webhooks`].

use std::{collections::HashMap, fmt::Display};

use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};
use miniz_oxide::{deflate::compress_to_vec, inflate::decompress_to_vec_with_limit};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    applications::message::occupied_until,
    clock::Timestamp,
    id::{TaskId, WebhookId},
    model::{Content, InvalidRecord, Webhook},
    record::Record,
    store::{
        ListPosition, StoreError, Tombstone,
        shard::{self, SHARDS, ShardHash},
        tombstone_expires_at,
    },
};

/// An item of the table.
pub(super) type Item = HashMap<String, AttributeValue>;

/// The size that one write unit pays for.
pub(super) const WRITE_UNIT_BYTES: usize = 1024;

/// The room for a record's growth from its creation to its delivery at the first attempt: claim,
/// attempt, two steps of history, expiry. Deflated, these are about 110 bytes.
const GROWTH_BYTES: usize = 170;

/// Only the content holds a longer URL.
const MAX_URL_BYTES: usize = 256;

/// The part of a content in one item. DynamoDB limits an item to 400 KB.
const PART_BYTES: usize = 380 * 1024;

/// The size limit of an inflated content: a payload of 1 MiB, headers, URL.
const MAX_CONTENT_BYTES: usize = 2 * 1024 * 1024;

/// The size limit of an inflated record.
const MAX_RECORD_BYTES: usize = 1024 * 1024;

/// The level of compression: the smallest result for texts of this length, in a few microseconds.
const LEVEL: u8 = 8;

pub(super) fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

pub(super) fn number(value: impl std::fmt::Display) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

pub(super) fn blob(bytes: Vec<u8>) -> AttributeValue {
    AttributeValue::B(Blob::new(bytes))
}

/// The bytes, deflated.
pub(super) fn deflated(bytes: &[u8]) -> AttributeValue {
    blob(compress_to_vec(bytes, LEVEL))
}

/// The inflated bytes. `None` if the attribute is something else or too large.
pub(super) fn inflated(value: Option<&AttributeValue>, limit: usize) -> Option<Vec<u8>> {
    decompress_to_vec_with_limit(value?.as_b().ok()?.as_ref(), limit).ok()
}

pub(super) fn text_of<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name)?.as_s().ok().map(String::as_str)
}

pub(super) fn number_of(item: &Item, name: &str) -> Option<i64> {
    item.get(name)?.as_n().ok()?.parse().ok()
}

/// An item with this key and no other attribute.
pub(super) fn key(partition: impl Into<String>, sort: impl Into<String>) -> Item {
    HashMap::from([("p".to_owned(), text(partition)), ("s".to_owned(), text(sort))])
}

/// The day of a time, counted from 1970-01-01.
pub(super) fn day(time: Timestamp) -> i64 {
    time.as_millis().div_euclid(24 * 3600 * 1000)
}

/// The shard of a webhook.
pub(super) fn shard(task: TaskId) -> u8 {
    shard::shard(task.as_bytes(), ShardHash::Fnv1a, SHARDS)
}

pub(super) fn partition(day: i64, shard: u8) -> String {
    format!("w/{day}/{shard}")
}

/// The partition of the record with this task id.
pub(super) fn partition_of(task: TaskId) -> String {
    partition(day(task.created_at()), shard(task))
}

/// The key of a direct webhook or a message.
pub(super) fn record_key(task: TaskId) -> Item {
    key(partition_of(task), task.to_string())
}

/// The key of a webhook.
pub(super) fn webhook_key(id: &WebhookId) -> Item {
    key(partition_of(id.task), ListPosition::of(id).to_string())
}

/// The position in lists that an item's sort key is. `None`: the item has another kind of key.
pub(super) fn position_of(item: &Item) -> Option<ListPosition> {
    text_of(item, "s")?.parse().ok()
}

/// The time as a text that sorts in the order of times.
pub(super) fn sortable(time: Timestamp) -> String {
    format!("{:015}", time.as_millis().max(0))
}

/// The time in seconds, rounded up.
pub(super) fn seconds(time: Timestamp) -> i64 {
    (time.as_millis() + 999).div_euclid(1000)
}

/// The name of the due index's partition for a shard. Older versions read that of schema 1 only.
pub(super) fn due_partition(schema_2: bool, shard: u8) -> String {
    format!("{}/{shard}", if schema_2 { "due2" } else { "due" })
}

/// The index attributes that change during a webhook's life: `i`, `j` and `l`.
///
/// This makes the due index sparse: a write removes the attributes that are `None`, and an item
/// without `i` has no entry in `work`.
pub(super) fn places(webhook: &Webhook) -> [(&'static str, Option<String>); 3] {
    let shard = shard(webhook.id.task);
    if let Some(due_at) = webhook.due_at {
        let place = format!("{}/{}", sortable(due_at), webhook.id.reference);
        let part = due_partition(webhook.id.is_delivery(), shard);
        return [("i", Some(part)), ("j", Some(place)), ("l", None)];
    }
    if let Some(archived_at) = webhook.archived_at.filter(|_| webhook.is_dead_letter()) {
        let place = format!("{}/{}", sortable(archived_at), ListPosition::of(&webhook.id));
        let list = match (&webhook.application, webhook.id.endpoint) {
            (Some(application), Some(endpoint)) => Some(format!("{application}/{endpoint}")),
            _ => webhook.referenced.then(|| webhook.id.reference.to_string()),
        };
        return [("i", Some(format!("dead/{shard}"))), ("j", Some(place)), ("l", list)];
    }
    [("i", None), ("j", None), ("l", None)]
}

/// The attributes that every write of a record sets or removes.
pub(super) fn changing(webhook: &Webhook) -> Vec<(&'static str, Option<AttributeValue>)> {
    let is_delivery = webhook.id.is_delivery();
    let until = |at| if is_delivery { occupied_until(at) } else { at };
    let mut attributes = vec![
        ("v", Some(number(webhook.revision))),
        ("d", Some(deflated(webhook.to_json().as_bytes()))),
        ("st", Some(text(webhook.status.to_string()))),
        ("x", webhook.expires_at.map(|at| number(seconds(until(at))))),
    ];
    attributes.extend(places(webhook).into_iter().map(|(name, place)| (name, place.map(text))));
    attributes
}

/// The items of a new webhook: its record, and those of its content, if it has any. The latter are
/// written first.
pub(super) fn new_items(
    webhook: &Webhook,
    content: &Content,
    name: &str,
    content_expires: Timestamp,
) -> (Item, Vec<Item>) {
    let mut record = record_key(webhook.id.task);
    record.extend(
        changing(webhook).into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))),
    );
    if webhook.referenced {
        record.insert("r".to_owned(), text(webhook.id.reference.as_str()));
    }
    let parts = add_content(
        &mut record,
        webhook.id.task,
        content,
        name,
        content_expires,
        WRITE_UNIT_BYTES - GROWTH_BYTES,
    );
    if !parts.is_empty() && content.url.len() <= MAX_URL_BYTES {
        record.insert("u".to_owned(), text(&content.url));
    }
    (record, parts)
}

/// Adds the content to the item of its record if both fit into `limit` bytes together. Otherwise
/// returns the items of the content, whose name the record's item gets.
pub(super) fn add_content(
    record: &mut Item,
    task: TaskId,
    content: &Content,
    name: &str,
    content_expires: Timestamp,
    limit: usize,
) -> Vec<Item> {
    let whole = compress_to_vec(&written(content), LEVEL);
    if size(record) + whole.len() <= limit {
        record.insert("c".to_owned(), blob(whole));
        return Vec::new();
    }
    let expires = seconds(content_expires);
    let parts = whole.chunks(PART_BYTES).enumerate().map(|(index, part)| {
        let mut item = content_key(task, name, index);
        item.insert("c".to_owned(), blob(part.to_vec()));
        item.insert("x".to_owned(), number(expires));
        item
    });
    let parts: Vec<Item> = parts.collect();
    record.insert("ck".to_owned(), text(name));
    record.insert("ce".to_owned(), number(expires));
    if parts.len() > 1 {
        record.insert("cn".to_owned(), number(parts.len()));
    }
    parts
}

pub(super) fn content_key(task: TaskId, name: &str, part: usize) -> Item {
    key(format!("c/{task}/{name}"), part.to_string())
}

/// The keys of the content's items, if it has any.
pub(super) fn content_keys(record: &Item, task: TaskId) -> Vec<Item> {
    let Some(name) = text_of(record, "ck") else { return Vec::new() };
    let parts = number_of(record, "cn").unwrap_or(1).clamp(1, 16) as usize;
    (0..parts).map(|part| content_key(task, name, part)).collect()
}

/// The size of an item as DynamoDB bills it: names and values. A number takes about half a byte for
/// each digit, and one more.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html>
fn size(item: &Item) -> usize {
    let value_size = |value: &AttributeValue| match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::N(digits) => digits.len().div_ceil(2) + 1,
        AttributeValue::B(bytes) => bytes.as_ref().len(),
        _ => 1,
    };
    item.iter().map(|(name, value)| name.len() + value_size(value)).sum()
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    u: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    h: Vec<(String, String)>,
}

/// URL and headers as a line of JSON, then the payload's bytes.
fn written(content: &Content) -> Vec<u8> {
    let envelope = Envelope { u: content.url.clone(), h: content.headers.clone() };
    let mut bytes =
        serde_json::to_vec(&envelope).unwrap_or_else(|_| unreachable!("strings are JSON"));
    bytes.push(b'\n');
    bytes.extend_from_slice(content.payload.get().as_bytes());
    bytes
}

/// The content from its deflated parts, in order.
pub(super) fn content(id: &impl Display, parts: &[&[u8]]) -> Result<Content, StoreError> {
    let whole = match parts {
        [one] => decompress_to_vec_with_limit(one, MAX_CONTENT_BYTES),
        _ => decompress_to_vec_with_limit(&parts.concat(), MAX_CONTENT_BYTES),
    };
    let whole = whole.map_err(|_| StoreError::malformed(id, "its content is not deflated"))?;
    let text = String::from_utf8(whole)
        .map_err(|_| StoreError::malformed(id, "its content is not text"))?;
    let (envelope, payload) = text
        .split_once('\n')
        .ok_or_else(|| StoreError::malformed(id, "its content has no envelope"))?;
    let invalid = |source| StoreError::unreadable(id, InvalidRecord::Malformed(source));
    let envelope: Envelope = serde_json::from_str(envelope).map_err(invalid)?;
    let payload = RawValue::from_string(payload.to_owned()).map_err(invalid)?;
    Ok(Content { url: envelope.u, headers: envelope.h, payload })
}

/// The content in the record's item.
pub(super) fn inline_content(
    id: &impl Display,
    record: &Item,
) -> Option<Result<Content, StoreError>> {
    let bytes = record.get("c")?.as_b().ok()?;
    Some(content(id, &[bytes.as_ref()]))
}

/// The record of an item.
pub(super) fn record(item: &Item) -> Result<Record, InvalidRecord> {
    let malformed = |why: &str| InvalidRecord::Malformed(serde::de::Error::custom(why));
    let json =
        inflated(item.get("d"), MAX_RECORD_BYTES).ok_or_else(|| malformed("it is not deflated"))?;
    Record::from_json(std::str::from_utf8(&json).map_err(|_| malformed("it is not text"))?)
}

/// The webhook of an item that was read by this id. `None`: the record is a message.
pub(super) fn webhook_of(id: &WebhookId, item: &Item) -> Result<Option<Webhook>, StoreError> {
    match record(item) {
        Ok(Record::Webhook(webhook)) => Ok(Some(*webhook)),
        Ok(Record::Message(_)) => Ok(None),
        Err(source) => Err(StoreError::unreadable(id, source)),
    }
}

/// The item of a day with webhooks.
pub(super) fn day_item(day: i64) -> Item {
    key("days", format!("{day:08}"))
}

/// The day of such an item.
pub(super) fn day_of(item: &Item) -> Option<i64> {
    text_of(item, "s")?.parse().ok()
}

/// The tombstone item. It takes the place of the record.
pub(super) fn tombstone_item(task: TaskId, why: Tombstone) -> Item {
    let mut item = record_key(task);
    item.insert("z".to_owned(), text(why.as_str()));
    item.insert("x".to_owned(), number(seconds(tombstone_expires_at(task))));
    item
}

/// The tombstone of this item, if it is one.
pub(super) fn tombstone(item: &Item) -> Option<Tombstone> {
    text_of(item, "z").map(Tombstone::from_stored)
}

/// The record of a list's entry, unless the item is a tombstone or unreadable.
pub(super) fn readable(item: &Item) -> Option<Record> {
    if tombstone(item).is_some() {
        return None;
    }
    record(item)
        .inspect_err(|error| {
            let key = text_of(item, "s");
            tracing::warn!(key, %error, "Skipped a record that cannot be read");
        })
        .ok()
}

/// The webhook of a list's entry, unless the item is another one or unreadable.
pub(super) fn readable_webhook(item: &Item) -> Option<Webhook> {
    match readable(item)? {
        Record::Webhook(webhook) => Some(*webhook),
        Record::Message(_) => None,
    }
}
