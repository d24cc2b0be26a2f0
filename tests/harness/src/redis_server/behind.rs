//! Direct access to the Redis server of a store, without the store.

use std::fmt::Display;

use redis::{Cmd, FromRedisValue, RedisResult, cluster::ClusterClient, cmd};
use shared::config::RedisUrl;

/// Number of shards of the store.
const SHARDS: usize = 16;

/// The server or cluster of a store.
#[derive(Clone, Debug)]
pub struct Behind {
    /// Its URL.
    pub url: RedisUrl,
    /// Prefix of the store's keys.
    pub prefix: String,
}

impl Behind {
    /// Sends a command on a new connection.
    pub async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        if self.url.is_cluster() {
            return command
                .query_async(
                    &mut ClusterClient::new(self.url.nodes())?.get_async_connection().await?,
                )
                .await;
        }
        command
            .query_async(
                &mut redis::Client::open(self.url.secret())?
                    .get_multiplexed_async_connection()
                    .await?,
            )
            .await
    }

    /// The key of a record (`w`) or content (`c`). `name` is a task id, or the `TASK/ep-…` of a
    /// delivery.
    pub async fn key(&self, kind: &str, name: impl Display) -> RedisResult<Option<String>> {
        for shard in 0..SHARDS {
            let key = format!("{{{}-status-{shard}}}:{kind}:{name}", self.prefix);
            if self.ask(cmd("EXISTS").arg(&key)).await? {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }
}
