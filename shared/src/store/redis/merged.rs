//! An index over all shards, read as one.

use ::redis::{FromRedisValue, RedisResult, cmd};
use futures_util::future::try_join_all;

use super::{MAX_READ, keys::SHARDS};
use crate::{id::TaskId, redis::Connection};

/// The entries that one call reads from each shard, so it reads at most [`MAX_READ`] in all.
const PART: usize = MAX_READ / SHARDS;

/// The length of a task id. Every member ends with one.
const TASK_CHARS: usize = 36;

/// The order of reading.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Ascending,
    Descending,
}

/// A range of the index without gaps.
pub(super) struct IndexRange {
    /// In order.
    pub(super) members: Vec<String>,
    /// The member after which the next range begins. `None` at the end.
    pub(super) next: Option<String>,
}

/// Reads from the bound `from` to the bound `to` (as `ZRANGE … BYLEX` takes them), as far as all
/// shards were read.
pub(super) async fn read(
    connection: &Connection,
    index: &str,
    from: &str,
    to: &str,
    order: Order,
) -> RedisResult<IndexRange> {
    let read = |shard| {
        let mut command = cmd("ZRANGE");
        command.arg(connection.key_of_shard(shard, index)).arg(from).arg(to).arg("BYLEX");
        if order == Order::Descending {
            command.arg("REV");
        }
        command.arg("LIMIT").arg(0).arg(PART);
        async move { connection.ask::<Vec<String>>(&command).await }
    };
    let parts = try_join_all((0..SHARDS).map(read)).await?;
    let is_before = |a: &String, b: &String| if order == Order::Ascending { a < b } else { a > b };
    // A shard that was not read to its end may have more members after its last one. So members
    // beyond that one may not be the next in order.
    let cut_off = parts.iter().filter(|part| part.len() == PART).filter_map(|part| part.last());
    let next = cut_off.reduce(|a, b| if is_before(b, a) { b } else { a }).cloned();
    let mut members: Vec<String> = parts.into_iter().flatten().collect();
    members.retain(|member| next.as_ref().is_none_or(|next| !is_before(next, member)));
    members.sort_unstable();
    if order == Order::Descending {
        members.reverse();
    }
    Ok(IndexRange { members, next })
}

/// The webhook of a member. `None` for a member that another program wrote.
pub(super) fn task(member: &str) -> Option<TaskId> {
    member.get(member.len().checked_sub(TASK_CHARS)?..)?.parse().ok()
}

/// The result of a command in each shard.
pub(super) async fn of_each_shard<T: FromRedisValue>(
    connection: &Connection,
    command: impl Fn(usize) -> ::redis::Cmd,
) -> RedisResult<Vec<T>> {
    let ask = |shard| {
        let command = command(shard);
        async move { connection.ask(&command).await }
    };
    try_join_all((0..SHARDS).map(ask)).await
}
