//! The deletion of expired webhooks. An entry of the expiry index names all index entries of its
//! webhook, so they can be deleted even if the record is gone.

use std::sync::{Mutex, PoisonError};

use ::redis::{RedisResult, cmd};
use futures_util::future::try_join_all;

use super::{
    SCRIPTS,
    keys::{self, SHARDS},
};
use crate::{clock::Timestamp, redis::Connection};

/// The most expired webhooks that one purge deletes in each shard.
const MAX_PER_SHARD: usize = super::MAX_READ / SHARDS;

/// The expired webhooks that creates found, by shard. The next create in the shard deletes them. If
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

/// Deletes the webhooks of these entries of one shard, unless a resend has extended their time.
pub(super) async fn forget(
    connection: &Connection,
    shard: usize,
    entries: &[String],
    now: Timestamp,
) -> RedisResult<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let mut keys = keys::index_keys(connection, shard);
    let mut arguments = Vec::with_capacity(2 * entries.len());
    for entry in entries {
        let own = own_keys(connection, entry);
        arguments.push(own.len().to_string());
        arguments.push(entry.clone());
        keys.extend(own);
    }
    let mut call = SCRIPTS.forget.on(&keys);
    call.arg(now.as_millis()).arg(arguments);
    connection.run::<u64>(&call).await.map(drop)
}

/// The keys of the webhook of an entry `task|status|archived_at|reference|id`. Another text has
/// none: only the entry itself is deleted.
fn own_keys(connection: &Connection, entry: &str) -> Vec<String> {
    let parts: Vec<&str> = entry.split('|').collect();
    let [task, _, _, reference, _] = parts[..] else { return Vec::new() };
    let Ok(task) = task.parse() else { return Vec::new() };
    keys::own_keys(connection, task, Some(reference).filter(|reference| !reference.is_empty()))
}

/// Deletes expired webhooks in all shards, as many as one call may.
pub(super) async fn purge(connection: &Connection, now: Timestamp) -> RedisResult<()> {
    let purge = async |shard| {
        let mut command = cmd("ZRANGE");
        command
            .arg(connection.key_of_shard(shard, "expiry"))
            .arg("-inf")
            .arg(now.as_millis())
            .arg("BYSCORE");
        command.arg("LIMIT").arg(0).arg(MAX_PER_SHARD);
        let entries: Vec<String> = connection.ask(&command).await?;
        forget(connection, shard, &entries, now).await
    };
    try_join_all((0..SHARDS).map(purge)).await.map(drop)
}
