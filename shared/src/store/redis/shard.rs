//! Which slot holds what: see the table in the parent module.

use sha2::{Digest, Sha256};

use crate::{
    id::{ReferenceId, TaskId},
    redis::Connection,
};

/// Into how many shards webhooks are divided, for ever: another number, and nobody finds what is
/// stored.
pub(super) const SHARDS: usize = 16;

/// The indexes that the scripts about one webhook take first, in the order of `prelude.lua`.
const INDEXES: [&str; 6] = ["time", "status", "due", "dead", "expiry", "counts"];

pub(super) fn of(task: TaskId) -> usize {
    of_bytes(task.as_bytes())
}

/// Of anything that is named by text.
pub(super) fn of_name(name: &str) -> usize {
    of_bytes(name.as_bytes())
}

/// By a hash, since the ids of a batch are made of each other, and names are the callers'.
fn of_bytes(bytes: &[u8]) -> usize {
    usize::from(Sha256::digest(bytes)[0]) % SHARDS
}

pub(super) fn record_key(connection: &Connection, task: TaskId) -> String {
    connection.key_of_shard(of(task), &format!("w:{task}"))
}

pub(super) fn content_key(connection: &Connection, task: TaskId) -> String {
    connection.key_of_shard(of(task), &format!("c:{task}"))
}

/// Those that have everything of a shard in them.
pub(super) fn index_keys(connection: &Connection, shard: usize) -> Vec<String> {
    INDEXES.iter().map(|name| connection.key_of_shard(shard, name)).collect()
}

/// Those that are one webhook's, and with a reference id those that list all of it in this shard:
/// as the scripts take them after the indexes.
pub(super) fn own_keys(
    connection: &Connection,
    task: TaskId,
    reference: Option<&str>,
) -> Vec<String> {
    let mut keys = vec![record_key(connection, task), content_key(connection, task)];
    if let Some(reference) = reference {
        keys.push(connection.key_of_shard(of(task), &format!("ref:{reference}")));
        keys.push(connection.key_of_shard(of(task), &format!("dead:{reference}")));
    }
    keys
}

/// All keys that a change of one webhook can touch.
pub(super) fn keys(
    connection: &Connection,
    task: TaskId,
    reference: Option<&ReferenceId>,
) -> Vec<String> {
    let mut keys = index_keys(connection, of(task));
    keys.extend(own_keys(connection, task, reference.map(ReferenceId::as_str)));
    keys
}
