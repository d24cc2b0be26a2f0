//! The keys of the store: which hash tag, and so which slot, holds what. The table in the parent
//! module has the overview.

use crate::{
    applications::id::{ApplicationId, EndpointId},
    id::{ReferenceId, TaskId, WebhookId},
    redis::Connection,
    store::{
        ListPosition,
        shard::{self, ShardHash},
    },
};

/// The shards that webhooks and messages are divided into.
pub(super) const SHARDS: usize = shard::SHARDS as usize;

/// The indexes that the scripts about one direct webhook take first, in the order of `prelude.lua`.
const INDEXES: [&str; 6] = ["time", "status", "due", "dead", "expiry", "counts"];

/// The indexes in their places for messages and deliveries.
const INDEXES_OF_SCHEMA_2: [&str; 6] = ["time", "status2", "due2", "dead2", "expiry2", "counts"];

/// The ids of applications.
pub(super) const APPLICATIONS: &str = "applications";

/// The shard of a webhook or message. A delivery is in its message's shard.
pub(super) fn shard_of(task: TaskId) -> usize {
    shard_of_bytes(task.as_bytes())
}

/// The shard of an idempotency key or an application.
pub(super) fn shard_of_name(name: &str) -> usize {
    shard_of_bytes(name.as_bytes())
}

fn shard_of_bytes(bytes: &[u8]) -> usize {
    usize::from(shard::shard(bytes, ShardHash::Sha256, shard::SHARDS))
}

/// The key of the record of a webhook or message.
pub(super) fn record_key(connection: &Connection, at: ListPosition) -> String {
    connection.key_of_shard(shard_of(at.task), &format!("w:{at}"))
}

/// The key of the content of a direct webhook or message.
pub(super) fn content_key(connection: &Connection, task: TaskId) -> String {
    connection.key_of_shard(shard_of(task), &format!("c:{task}"))
}

/// The key of an application's document.
pub(super) fn application_key(connection: &Connection, id: &ApplicationId) -> String {
    connection.key_of_shard(shard_of_name(id.as_str()), &format!("app:{id}"))
}

/// The index of an application's messages in each shard.
pub(super) fn messages_of(application: &ApplicationId) -> String {
    format!("messages:{application}")
}

/// The index of an application's messages with a reference id in each shard. No reference id
/// contains `/`, so it is no index of direct webhooks.
pub(super) fn messages_with(application: &ApplicationId, reference: &ReferenceId) -> String {
    format!("ref:{application}/{reference}")
}

/// The index of an endpoint's dead letters in each shard.
pub(super) fn dead_letters_of(endpoint: EndpointId) -> String {
    format!("dead2:{endpoint}")
}

/// The indexes over all direct webhooks of a shard.
pub(super) fn index_keys(connection: &Connection, shard: usize) -> Vec<String> {
    INDEXES.iter().map(|name| connection.key_of_shard(shard, name)).collect()
}

/// The indexes over all messages and deliveries of a shard.
pub(super) fn index_keys_of_schema_2(connection: &Connection, shard: usize) -> Vec<String> {
    INDEXES_OF_SCHEMA_2.iter().map(|name| connection.key_of_shard(shard, name)).collect()
}

/// The keys of one direct webhook and, with a reference id, the indexes of that reference id in its
/// shard. The scripts take them after the indexes of the shard.
pub(super) fn own_keys(
    connection: &Connection,
    task: TaskId,
    reference: Option<&str>,
) -> Vec<String> {
    let mut keys =
        vec![record_key(connection, ListPosition::at(task)), content_key(connection, task)];
    if let Some(reference) = reference {
        keys.push(connection.key_of_shard(shard_of(task), &format!("ref:{reference}")));
        keys.push(connection.key_of_shard(shard_of(task), &format!("dead:{reference}")));
    }
    keys
}

/// The keys of one delivery, its message's, and the index of its endpoint's dead letters.
pub(super) fn own_keys_of_delivery(
    connection: &Connection,
    task: TaskId,
    endpoint: EndpointId,
) -> Vec<String> {
    let message = ListPosition::at(task);
    vec![
        record_key(connection, ListPosition { endpoint: Some(endpoint), ..message }),
        content_key(connection, task),
        record_key(connection, message),
        connection.key_of_shard(shard_of(task), &dead_letters_of(endpoint)),
    ]
}

/// The keys of one message, and the indexes of its application that may name it.
pub(super) fn own_keys_of_message(
    connection: &Connection,
    task: TaskId,
    application: &ApplicationId,
    reference: &ReferenceId,
) -> Vec<String> {
    let shard = shard_of(task);
    vec![
        record_key(connection, ListPosition::at(task)),
        content_key(connection, task),
        connection.key_of_shard(shard, &messages_of(application)),
        connection.key_of_shard(shard, &messages_with(application, reference)),
    ]
}

/// All keys that a change of one webhook can touch. `is_referenced`: of a direct webhook, also the
/// indexes of its reference id.
pub(super) fn keys(connection: &Connection, id: &WebhookId, is_referenced: bool) -> Vec<String> {
    let shard = shard_of(id.task);
    if let Some(endpoint) = id.endpoint {
        let mut keys = index_keys_of_schema_2(connection, shard);
        keys.extend(own_keys_of_delivery(connection, id.task, endpoint));
        return keys;
    }
    let mut keys = index_keys(connection, shard);
    keys.extend(own_keys(connection, id.task, is_referenced.then_some(id.reference.as_str())));
    keys
}
