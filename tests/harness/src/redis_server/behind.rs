//! A look behind the store's back.

use redis::{Cmd, FromRedisValue, RedisResult, cluster::ClusterClient, cmd};
use shared::{config::RedisUrl, id::TaskId};

/// Into how many shards the store divides its webhooks.
const SHARDS: usize = 16;

/// The server or cluster of a store, asked without it.
#[derive(Clone, Debug)]
pub struct Behind {
    /// Where it is.
    pub url: RedisUrl,
    /// What the store's keys begin with.
    pub prefix: String,
}

impl Behind {
    /// Asks it over a connection made for that.
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

    /// The webhook's key of this kind (`w` its record, `c` its content), in whichever shard it is.
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
