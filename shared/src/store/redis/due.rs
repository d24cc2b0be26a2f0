//! The due index: in each shard a sorted set of ids, by due time and then by id.

use ::redis::RedisResult;
use futures_util::future::try_join_all;

use super::{MAX_READ, SCRIPTS, keys::SHARDS};
use crate::{
    clock::Timestamp,
    redis::Connection,
    store::{DueCursor, DueEntry, DueId, DuePage, DuePlace},
};

/// Reads every shard that was not read to its end.
pub(super) async fn read(
    connection: &Connection,
    until: Timestamp,
    after: Option<&DueCursor>,
    limit: usize,
) -> RedisResult<DuePage> {
    let limit = limit.clamp(1, MAX_READ);
    let read = async |shard| {
        let keys = [connection.key_of_shard(shard, "due")];
        let mut call = SCRIPTS.due.on(&keys);
        call.arg(until.as_millis()).arg(limit);
        match after.map(|cursor| cursor.part(shard)).unwrap_or_default() {
            DuePlace::Start => {}
            DuePlace::After { due_at, name } => {
                call.arg(due_at.as_millis()).arg(name);
            }
            DuePlace::End => return Ok(Vec::new()),
        }
        connection.run::<Vec<(String, f64)>>(&call).await
    };
    let parts = try_join_all((0..SHARDS).map(read)).await?;
    let mut page = DuePage::default();
    let mut places = Vec::with_capacity(parts.len());
    for part in parts {
        let more = part.len() == limit;
        let last =
            part.last().map(|(id, due_at)| (Timestamp::from_millis(*due_at as i64), id.clone()));
        places.push(DuePlace::after(last, more));
        for (id, due_at) in part {
            if let Ok(id) = id.parse() {
                let id = DueId::Webhook(id);
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
