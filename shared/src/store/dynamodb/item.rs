//! A webhook as items of the table, and back.
//!
//! | item | `p` | `s` |
//! |---|---|---|
//! | record | `w/DAY/SHARD` | task id |
//! | tombstone | `w/DAY/SHARD` | task id |
//! | content | `c/TASK/NAME` | part, from `0` |
//!
//! - A **record** has `v`, its revision; `d`, the record as deflated JSON; `st`, the status for
//!   people; `x`, its expiry; `u`, the URL unless it is long. `c` is the content, deflated. If the
//!   content has items of its own, `ck` is their name, `cn` their number, and `ce` their expiry.
//! - A **tombstone** has `z`, the reason why no webhook is created with this id, and `x`.
//! - A **content** item has `c`, a part of the deflated content, and `x`.
//!
//! Index attributes of a record: `i` and `j` put it into the index `work` (`due/SHARD` by due time,
//! `dead/SHARD` by the time of archiving), `r` into `reference`, `l` with `j` into
//! `dead_reference`. `DAY` counts from 1970-01-01. Times in `x` and `ce` are seconds, rounded up,
//! as DynamoDB's time to live wants them.
//!
//! **The content stands apart** unless record and content fit into one write unit together, also
//! after the growth of a happy life. Apart, it is written before the record, under a name that only
//! this create knows: so record and content exist together or the content is an orphan that nobody
//! sees, and which goes by its time to live. That is why a content has one from the start; see `ce`
//! in [`super::webhooks`].

use std::collections::HashMap;

use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};
use miniz_oxide::{deflate::compress_to_vec, inflate::decompress_to_vec_with_limit};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    clock::Timestamp,
    id::{TaskId, WebhookId},
    model::{Content, InvalidRecord, Webhook},
    store::{
        StoreError, Tombstone,
        shard::{self, SHARDS, ShardHash},
        tombstone_expires_at,
    },
};

/// An item of the table.
pub(super) type Item = HashMap<String, AttributeValue>;

/// What one write unit pays for.
const WRITE_UNIT_BYTES: usize = 1024;

/// How much a record grows from its creation to its delivery at the first attempt: claim, attempt,
/// two steps of history, expiry. Deflated, about 110 bytes.
const GROWTH_BYTES: usize = 170;

/// Longer URLs stand with the content only.
const MAX_URL_BYTES: usize = 256;

/// What one content item holds; an item may have 400 KB in all.
const PART_BYTES: usize = 380 * 1024;

/// The most that a content can be when inflated: a payload of 1 MiB, headers, URL.
const MAX_CONTENT_BYTES: usize = 2 * 1024 * 1024;

/// The most that a record can be when inflated.
const MAX_RECORD_BYTES: usize = 1024 * 1024;

/// Best by size for texts of this length, at a few microseconds each.
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

/// Deflated, as it is stored.
pub(super) fn deflated(bytes: &[u8]) -> AttributeValue {
    blob(compress_to_vec(bytes, LEVEL))
}

/// The inverse; `None` if it is something else or too large.
pub(super) fn inflated(value: Option<&AttributeValue>, limit: usize) -> Option<Vec<u8>> {
    decompress_to_vec_with_limit(value?.as_b().ok()?.as_ref(), limit).ok()
}

pub(super) fn text_of<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name)?.as_s().ok().map(String::as_str)
}

pub(super) fn number_of(item: &Item, name: &str) -> Option<i64> {
    item.get(name)?.as_n().ok()?.parse().ok()
}

/// A key of the table.
pub(super) fn key(partition: impl Into<String>, sort: impl Into<String>) -> Item {
    HashMap::from([("p".to_owned(), text(partition)), ("s".to_owned(), text(sort))])
}

/// The day that a time is in.
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

pub(super) fn record_key(task: TaskId) -> Item {
    key(partition(day(task.created_at()), shard(task)), task.to_string())
}

/// The time so that texts sort as times do.
pub(super) fn sortable(time: Timestamp) -> String {
    format!("{:015}", time.as_millis().max(0))
}

/// The time in seconds, rounded up.
pub(super) fn seconds(time: Timestamp) -> i64 {
    (time.as_millis() + 999).div_euclid(1000)
}

/// Where a record stands in the indexes that change during its life: `i`, `j` and `l`.
pub(super) fn places(webhook: &Webhook) -> [(&'static str, Option<String>); 3] {
    let shard = shard(webhook.id.task);
    if let Some(due_at) = webhook.due_at {
        let place = format!("{}/{}", sortable(due_at), webhook.id.reference);
        return [("i", Some(format!("due/{shard}"))), ("j", Some(place)), ("l", None)];
    }
    if let Some(archived_at) = webhook.archived_at.filter(|_| webhook.is_dead_letter()) {
        let place = format!("{}/{}", sortable(archived_at), webhook.id.task);
        let reference = webhook.referenced.then(|| webhook.id.reference.to_string());
        return [("i", Some(format!("dead/{shard}"))), ("j", Some(place)), ("l", reference)];
    }
    [("i", None), ("j", None), ("l", None)]
}

/// What every write of a record puts in place.
pub(super) fn changing(webhook: &Webhook) -> Vec<(&'static str, Option<AttributeValue>)> {
    let mut attributes = vec![
        ("v", Some(number(webhook.revision))),
        ("d", Some(deflated(webhook.to_json().as_bytes()))),
        ("st", Some(text(webhook.status.to_string()))),
        ("x", webhook.expires_at.map(|at| number(seconds(at)))),
    ];
    attributes.extend(places(webhook).into_iter().map(|(name, place)| (name, place.map(text))));
    attributes
}

/// The items of a new webhook: its record, and its content's if that stands apart, to be written
/// first.
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
    let whole = compress_to_vec(&written(content), LEVEL);
    if size(&record) + whole.len() + GROWTH_BYTES <= WRITE_UNIT_BYTES {
        record.insert("c".to_owned(), blob(whole));
        return (record, Vec::new());
    }
    if content.url.len() <= MAX_URL_BYTES {
        record.insert("u".to_owned(), text(&content.url));
    }
    let expires = seconds(content_expires);
    let parts = whole.chunks(PART_BYTES).enumerate().map(|(index, part)| {
        let mut item = content_key(webhook.id.task, name, index);
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
    (record, parts)
}

pub(super) fn content_key(task: TaskId, name: &str, part: usize) -> Item {
    key(format!("c/{task}/{name}"), part.to_string())
}

/// Where the content of a record stands, if it stands apart.
pub(super) fn content_keys(record: &Item, task: TaskId) -> Vec<Item> {
    let Some(name) = text_of(record, "ck") else { return Vec::new() };
    let parts = number_of(record, "cn").unwrap_or(1).clamp(1, 16) as usize;
    (0..parts).map(|part| content_key(task, name, part)).collect()
}

/// The size of an item as DynamoDB bills it: names and values; a number takes about half a byte a
/// digit, and one more.
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
pub(super) fn content(id: &WebhookId, parts: &[&[u8]]) -> Result<Content, StoreError> {
    let whole = match parts {
        [one] => decompress_to_vec_with_limit(one, MAX_CONTENT_BYTES),
        _ => decompress_to_vec_with_limit(&parts.concat(), MAX_CONTENT_BYTES),
    };
    let whole = whole.map_err(|_| malformed(id, "its content is not deflated"))?;
    let text = String::from_utf8(whole).map_err(|_| malformed(id, "its content is not text"))?;
    let (envelope, payload) =
        text.split_once('\n').ok_or_else(|| malformed(id, "its content has no envelope"))?;
    let invalid = |source| StoreError::Unreadable {
        id: id.to_string(),
        source: InvalidRecord::Malformed(source),
    };
    let envelope: Envelope = serde_json::from_str(envelope).map_err(invalid)?;
    let payload = RawValue::from_string(payload.to_owned()).map_err(invalid)?;
    Ok(Content { url: envelope.u, headers: envelope.h, payload })
}

/// The content that stands with the record.
pub(super) fn inline_content(id: &WebhookId, record: &Item) -> Option<Result<Content, StoreError>> {
    let bytes = record.get("c")?.as_b().ok()?;
    Some(content(id, &[bytes.as_ref()]))
}

/// The record of an item.
pub(super) fn record(item: &Item) -> Result<Webhook, InvalidRecord> {
    let malformed = |why: &str| InvalidRecord::Malformed(serde::de::Error::custom(why));
    let json =
        inflated(item.get("d"), MAX_RECORD_BYTES).ok_or_else(|| malformed("it is not deflated"))?;
    Webhook::from_json(std::str::from_utf8(&json).map_err(|_| malformed("it is not text"))?)
}

/// The record of an item that was asked for by its id.
pub(super) fn record_of(id: &WebhookId, item: &Item) -> Result<Webhook, StoreError> {
    record(item).map_err(|source| StoreError::Unreadable { id: id.to_string(), source })
}

/// What stands in the place of a record of which there is none and will be none.
pub(super) fn tombstone_item(task: TaskId, why: Tombstone) -> Item {
    let mut item = record_key(task);
    item.insert("z".to_owned(), text(why.as_str()));
    item.insert("x".to_owned(), number(seconds(tombstone_expires_at(task))));
    item
}

/// Why there is no record, if this stands in its place.
pub(super) fn tombstone(item: &Item) -> Option<Tombstone> {
    text_of(item, "z").map(Tombstone::from_stored)
}

/// The record of a list, unless there is none any more or it cannot be read.
pub(super) fn readable(item: &Item) -> Option<Webhook> {
    if tombstone(item).is_some() {
        return None;
    }
    record(item)
        .inspect_err(|error| {
            tracing::warn!(key = text_of(item, "s"), %error,
                "Skipped a webhook that cannot be read");
        })
        .ok()
}

pub(super) fn malformed(id: &WebhookId, why: &str) -> StoreError {
    StoreError::Unreadable {
        id: id.to_string(),
        source: InvalidRecord::Malformed(serde::de::Error::custom(why)),
    }
}
