//! Indexes over all shards, read as one.

use ::redis::{FromRedisValue, RedisResult, cmd};
use futures_util::future::try_join_all;

use super::{MAX_READ, keys::SHARDS};
use crate::{id::TaskId, redis::Connection, store::ListPosition};

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
/// shards of all these indexes were read: at most [`MAX_READ`] entries.
pub(super) async fn read(
    connection: &Connection,
    indexes: &[&str],
    from: &str,
    to: &str,
    order: Order,
) -> RedisResult<IndexRange> {
    let part = MAX_READ / (SHARDS * indexes.len().max(1));
    let read = |(shard, index): (usize, &&str)| {
        let mut command = cmd("ZRANGE");
        command.arg(connection.key_of_shard(shard, index)).arg(from).arg(to).arg("BYLEX");
        if order == Order::Descending {
            command.arg("REV");
        }
        command.arg("LIMIT").arg(0).arg(part);
        async move { connection.ask::<Vec<String>>(&command).await }
    };
    let all = (0..SHARDS).flat_map(|shard| indexes.iter().map(move |index| (shard, index)));
    let parts = try_join_all(all.map(read)).await?;
    let is_before = |a: &String, b: &String| if order == Order::Ascending { a < b } else { a > b };
    // A part that was not read to its end may have more members after its last one. So members
    // beyond that one may not be the next in order.
    let cut_off = parts.iter().filter(|found| found.len() == part).filter_map(|found| found.last());
    let next = cut_off.reduce(|a, b| if is_before(b, a) { b } else { a }).cloned();
    let mut members: Vec<String> = parts.into_iter().flatten().collect();
    members.retain(|member| next.as_ref().is_none_or(|next| !is_before(next, member)));
    members.sort_unstable();
    if order == Order::Descending {
        members.reverse();
    }
    Ok(IndexRange { members, next })
}

/// The webhook or message of a member, which ends with its position, after a `:` if other parts
/// come first. `None` for a member that another program wrote.
pub(super) fn position(member: &str) -> Option<ListPosition> {
    member.rsplit(':').next()?.parse().ok()
}

/// The task id of a member.
pub(super) fn task(member: &str) -> Option<TaskId> {
    position(member).map(|position| position.task)
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
