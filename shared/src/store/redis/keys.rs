//! The keys of the store: which hash tag, and so which slot, holds what. The table in the parent
//! module has the overview.

use crate::{
    id::{ReferenceId, TaskId},
    redis::Connection,
    store::shard::{self, ShardHash},
};

/// The shards that webhooks are divided into.
pub(super) const SHARDS: usize = shard::SHARDS as usize;

/// The indexes that the scripts about one webhook take first, in the order of `prelude.lua`.
const INDEXES: [&str; 6] = ["time", "status", "due", "dead", "expiry", "counts"];

/// The shard of a webhook.
pub(super) fn shard_of(task: TaskId) -> usize {
    shard_of_bytes(task.as_bytes())
}

/// The shard of an idempotency key.
pub(super) fn shard_of_name(name: &str) -> usize {
    shard_of_bytes(name.as_bytes())
}

fn shard_of_bytes(bytes: &[u8]) -> usize {
    usize::from(shard::shard(bytes, ShardHash::Sha256, shard::SHARDS))
}

/// The key of a webhook's record.
pub(super) fn record_key(connection: &Connection, task: TaskId) -> String {
    connection.key_of_shard(shard_of(task), &format!("w:{task}"))
}

/// The key of a webhook's content.
pub(super) fn content_key(connection: &Connection, task: TaskId) -> String {
    connection.key_of_shard(shard_of(task), &format!("c:{task}"))
}

/// The indexes over all webhooks of a shard.
pub(super) fn index_keys(connection: &Connection, shard: usize) -> Vec<String> {
    INDEXES.iter().map(|name| connection.key_of_shard(shard, name)).collect()
}

/// The keys of one webhook and, with a reference id, the indexes of that reference id in its shard.
/// The scripts take them after the indexes of the shard.
pub(super) fn own_keys(
    connection: &Connection,
    task: TaskId,
    reference: Option<&str>,
) -> Vec<String> {
    let mut keys = vec![record_key(connection, task), content_key(connection, task)];
    if let Some(reference) = reference {
        keys.push(connection.key_of_shard(shard_of(task), &format!("ref:{reference}")));
        keys.push(connection.key_of_shard(shard_of(task), &format!("dead:{reference}")));
    }
    keys
}

/// All keys that a change of one webhook can touch.
pub(super) fn keys(
    connection: &Connection,
    task: TaskId,
    reference: Option<&ReferenceId>,
) -> Vec<String> {
    let mut keys = index_keys(connection, shard_of(task));
    keys.extend(own_keys(connection, task, reference.map(ReferenceId::as_str)));
    keys
}
