//! The deletion of expired webhooks and messages. An entry of the expiry index names all index
//! entries of its webhook or message, so they can be deleted even if the record is gone.
//!
//! A delivery goes in two steps. Once it has expired, a mark replaces its record and occupies its
//! key, as a marker of a deleted delivery does. Once the key was occupied long enough, the mark
//! goes.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use ::redis::{RedisResult, cmd};
use futures_util::future::try_join_all;

use super::{
    SCRIPTS,
    keys::{self, SHARDS},
};
use crate::{
    applications::message::KEY_OCCUPIED,
    clock::Timestamp,
    id::MessageId,
    redis::{Call, Connection},
    store::ListPosition,
};

/// The most expired webhooks that one purge deletes in each shard.
const MAX_PER_SHARD: usize = super::MAX_READ / SHARDS;

/// After what time housekeeping looks again at an expired message that a delivery holds.
const AGAIN: Duration = Duration::from_secs(24 * 3600);

/// The expired entries that creates found, by shard. The next create in the shard deletes them. If
/// this is lost, another create finds them again.
#[derive(Debug, Default)]
pub(super) struct Seen([Mutex<Vec<String>>; SHARDS]);

impl Seen {
    pub(super) fn put(&self, shard: usize, entries: Vec<String>) {
        *self.0[shard].lock().unwrap_or_else(PoisonError::into_inner) = entries;
    }

    pub(super) fn take(&self, shard: usize) -> Vec<String> {
        std::mem::take(&mut *self.0[shard].lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Deletes the direct webhooks of these entries of one shard, unless a resend has extended their
/// time.
pub(super) async fn forget(
    connection: &Connection,
    shard: usize,
    entries: &[String],
    now: Timestamp,
) -> RedisResult<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let (mut keys, mut arguments) = (keys::index_keys(connection, shard), Vec::new());
    add_all(entries, |entry| own_keys(connection, entry), &mut keys, &mut arguments);
    let mut call = SCRIPTS.forget.on(&keys);
    call.arg(now.as_millis()).arg(arguments);
    connection.run::<u64>(&call).await.map(drop)
}

/// Does the same with messages, deliveries, and what occupies the key of a delivery.
pub(super) async fn forget_of_schema_2(
    connection: &Connection,
    shard: usize,
    entries: &[String],
    now: Timestamp,
) -> RedisResult<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let (mut keys, mut arguments) = (keys::index_keys_of_schema_2(connection, shard), Vec::new());
    let own_keys = |entry: &str| own_keys_of_schema_2(connection, entry).unwrap_or_default();
    add_all(entries, own_keys, &mut keys, &mut arguments);
    let mut call: Call<'_> = SCRIPTS.forget_schema_2.on(&keys);
    call.arg(now.as_millis())
        .arg(KEY_OCCUPIED.as_millis() as u64)
        .arg(AGAIN.as_millis() as u64)
        .arg(arguments);
    connection.run::<()>(&call).await
}

/// Adds the keys of each entry, and the arguments: their number, and the entry.
fn add_all(
    entries: &[String],
    own_keys: impl Fn(&str) -> Vec<String>,
    keys: &mut Vec<String>,
    arguments: &mut Vec<String>,
) {
    for entry in entries {
        let own = own_keys(entry);
        arguments.push(own.len().to_string());
        arguments.push(entry.clone());
        keys.extend(own);
    }
}

/// The keys of the webhook of an entry `task|status|archived_at|reference|id`. Another text has
/// none: only the entry itself is deleted.
fn own_keys(connection: &Connection, entry: &str) -> Vec<String> {
    let parts: Vec<&str> = entry.split('|').collect();
    let [task, _, _, reference, _] = parts[..] else { return Vec::new() };
    let Ok(task) = task.parse() else { return Vec::new() };
    keys::own_keys(connection, task, Some(reference).filter(|reference| !reference.is_empty()))
}

/// The keys of an entry `place|status|archived_at|application|id` of a delivery, or
/// `task|m|b|application|id` of a message. Another text has none.
fn own_keys_of_schema_2(connection: &Connection, entry: &str) -> Option<Vec<String>> {
    let parts: Vec<&str> = entry.split('|').collect();
    let [place, _, _, application, id] = parts[..] else { return None };
    let ListPosition { task, endpoint } = place.parse().ok()?;
    if let Some(endpoint) = endpoint {
        return Some(keys::own_keys_of_delivery(connection, task, endpoint));
    }
    let (application, id) = (application.parse().ok()?, id.parse::<MessageId>().ok()?);
    Some(keys::own_keys_of_message(connection, task, &application, &id.reference))
}

/// Deletes what has expired in all shards, as much as one call may.
pub(super) async fn purge(connection: &Connection, now: Timestamp) -> RedisResult<()> {
    let expired = async |shard, index| {
        let mut command = cmd("ZRANGE");
        command
            .arg(connection.key_of_shard(shard, index))
            .arg("-inf")
            .arg(now.as_millis())
            .arg("BYSCORE");
        command.arg("LIMIT").arg(0).arg(MAX_PER_SHARD);
        connection.ask::<Vec<String>>(&command).await
    };
    let purge = async |shard| {
        forget(connection, shard, &expired(shard, "expiry").await?, now).await?;
        forget_of_schema_2(connection, shard, &expired(shard, "expiry2").await?, now).await
    };
    try_join_all((0..SHARDS).map(purge)).await.map(drop)
}
