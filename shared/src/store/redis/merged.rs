//! An index that is divided among the shards, read as one.

use ::redis::{FromRedisValue, RedisResult, cmd};
use futures_util::future::try_join_all;

use super::{MAX_READ, keys::SHARDS};
use crate::{id::TaskId, redis::Connection};

/// What is read of each shard's part at a time, so that no call reads more than [`MAX_READ`]
/// entries.
const PART: usize = MAX_READ / SHARDS;

/// The length of a task id, with which each member ends.
const TASK_CHARS: usize = 36;

/// In which order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Ascending,
    Descending,
}

/// A stretch of the index, without gaps.
pub(super) struct Stretch {
    /// In order.
    pub(super) members: Vec<String>,
    /// Where it goes on: the place after this member. `None` at the end.
    pub(super) next: Option<String>,
}

/// Reads from the bound `from` to the bound `to` (as `ZRANGE … BYLEX` takes them), as far as every
/// shard's part could be read.
pub(super) async fn read(
    connection: &Connection,
    index: &str,
    from: &str,
    to: &str,
    order: Order,
) -> RedisResult<Stretch> {
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
    // A part that was not read to its end may have more right after its last member: nothing from
    // there on is known to be next.
    let cut_off = parts.iter().filter(|part| part.len() == PART).filter_map(|part| part.last());
    let next = cut_off.reduce(|a, b| if is_before(b, a) { b } else { a }).cloned();
    let mut members: Vec<String> = parts.into_iter().flatten().collect();
    members.retain(|member| next.as_ref().is_none_or(|next| !is_before(next, member)));
    members.sort_unstable();
    if order == Order::Descending {
        members.reverse();
    }
    Ok(Stretch { members, next })
}

/// The webhook that a member stands for; what somebody else entered stands for none.
pub(super) fn task(member: &str) -> Option<TaskId> {
    member.get(member.len().checked_sub(TASK_CHARS)?..)?.parse().ok()
}

/// What a command answers in each of the shards.
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
