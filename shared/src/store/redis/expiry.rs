//! Forgetting what has expired: its entry in the index of what expires says which others it has, so
//! its record may be gone by itself.

use std::sync::{Mutex, PoisonError};

use ::redis::{RedisResult, cmd};
use futures_util::future::try_join_all;

use super::{
    SCRIPTS,
    keys::{self, SHARDS},
};
use crate::{clock::Timestamp, redis::Connection};

/// Expired webhooks that one sweep forgets in each shard.
const MAX_PER_SHARD: usize = super::MAX_READ / SHARDS;

/// What creates have seen expired, in each shard, and the next create there takes along. Losing it
/// costs nothing: it is seen again.
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

/// Forgets the webhooks of these entries of one shard, unless they have been given more time since.
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

/// The keys of the webhook of `task|status|archived_at|reference|id`. What is no such entry has
/// none, and only goes itself.
fn own_keys(connection: &Connection, entry: &str) -> Vec<String> {
    let parts: Vec<&str> = entry.split('|').collect();
    let [task, _, _, reference, _] = parts[..] else { return Vec::new() };
    let Ok(task) = task.parse() else { return Vec::new() };
    keys::own_keys(connection, task, Some(reference).filter(|reference| !reference.is_empty()))
}

/// Forgets what has expired in all shards, as much as one call may.
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
