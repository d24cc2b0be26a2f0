//! Direct access to the Redis server of a store, without the store.

use redis::{Cmd, FromRedisValue, RedisResult, cluster::ClusterClient, cmd};
use shared::{config::RedisUrl, id::TaskId};

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

    /// The key of a webhook's record (`w`) or content (`c`).
    pub async fn key(&self, kind: &str, task: TaskId) -> RedisResult<Option<String>> {
        for shard in 0..SHARDS {
            let key = format!("{{{}-status-{shard}}}:{kind}:{task}", self.prefix);
            if self.ask(cmd("EXISTS").arg(&key)).await? {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }
}
