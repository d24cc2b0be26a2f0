//! The due index: in each shard a sorted set of ids of direct webhooks, by due time and then by id,
//! and another one of ids of messages and deliveries, which earlier versions do not read.

use ::redis::RedisResult;
use futures_util::future::try_join_all;

use super::{MAX_READ, SCRIPTS, keys::SHARDS};
use crate::{
    clock::Timestamp,
    redis::Connection,
    store::{DueCursor, DueEntry, DueId, DuePage, DuePlace},
};

/// The names of the sorted sets. The cursor has a part for each shard of the first one, then of the
/// second one.
const NAMES: [&str; 2] = ["due", "due2"];

/// Reads every part that was not read to its end.
pub(super) async fn read(
    connection: &Connection,
    until: Timestamp,
    after: Option<&DueCursor>,
    limit: usize,
) -> RedisResult<DuePage> {
    let limit = limit.clamp(1, MAX_READ);
    let read = async |part| {
        let keys = [connection.key_of_shard(part % SHARDS, NAMES[part / SHARDS])];
        let mut call = SCRIPTS.due.on(&keys);
        call.arg(until.as_millis()).arg(limit);
        match after.map(|cursor| cursor.part(part)).unwrap_or_default() {
            DuePlace::Start => {}
            DuePlace::After { due_at, name } => {
                call.arg(due_at.as_millis()).arg(name);
            }
            DuePlace::End => return Ok(Vec::new()),
        }
        connection.run::<Vec<(String, f64)>>(&call).await
    };
    let parts = try_join_all((0..NAMES.len() * SHARDS).map(read)).await?;
    let mut page = DuePage::default();
    let mut places = Vec::with_capacity(parts.len());
    for (index, part) in parts.into_iter().enumerate() {
        let more = part.len() == limit;
        let last =
            part.last().map(|(id, due_at)| (Timestamp::from_millis(*due_at as i64), id.clone()));
        places.push(DuePlace::after(last, more));
        for (id, due_at) in part {
            let named = if index < SHARDS {
                id.parse().ok().map(DueId::Webhook)
            } else {
                DueId::of_schema_2(&id)
            };
            if let Some(id) = named {
                page.entries.push(DueEntry { id, due_at: Timestamp::from_millis(due_at as i64) });
            } else {
                tracing::warn!(id, "Skipped an entry of the due index that names no webhook");
                page.nameless += 1;
            }
        }
    }
    page.next = DueCursor::new(places).unfinished();
    Ok(page)
}
