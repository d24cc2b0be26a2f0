//! The conformance suite against a Redis server and a Redis Cluster of its own, each case with a prefix of its own, the second handle with
//! a connection of its own as another process has it. On the server, store and queue are in two databases; the cluster has only one.

#![allow(clippy::unwrap_used, reason = "a backend that does not start fails its case")]

use std::{process::ExitCode, sync::Arc};

use async_trait::async_trait;
use posthaste_tests::{
    conformance::{self, Backend, TestClock},
    redis_server::{RedisCluster, RedisServer, RedisServerError},
};
use redis::{Cmd, FromRedisValue, cluster::ClusterClient, cmd};
use shared::{
    config::RedisUrl,
    id::WebhookId,
    queue::{Queue, redis::RedisQueue},
    redis::Connection,
    store::{Store, redis::RedisStore},
};

const QUEUE_DATABASE: u32 = 1;
const STATUS_DATABASE: u32 = 2;

/// Into how many shards the store divides its webhooks.
const SHARDS: usize = 16;

fn main() -> ExitCode {
    match servers() {
        Ok((server, cluster)) => {
            let (queue, status) = (server.url(QUEUE_DATABASE), server.url(STATUS_DATABASE));
            let mut trials = conformance::trials("redis", start(queue, status));
            trials.extend(conformance::trials("redis_cluster", start(cluster.url(), cluster.url())));
            conformance::report(trials)
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn servers() -> Result<(RedisServer, RedisCluster), RedisServerError> {
    Ok((RedisServer::start()?, RedisCluster::start()?))
}

fn start(queue: String, status: String) -> impl Fn() -> std::future::Ready<Box<dyn Backend>> {
    move || std::future::ready(Box::new(Redis::new(&queue, &status)) as Box<dyn Backend>)
}

#[derive(Debug)]
struct Redis {
    queue: RedisUrl,
    status: RedisUrl,
    prefix: String,
    clock: Arc<TestClock>,
}

impl Redis {
    fn new(queue: &str, status: &str) -> Self {
        let prefix = format!("case-{:016x}", rand::random::<u64>());
        Self { queue: RedisUrl::parse(queue).unwrap(), status: RedisUrl::parse(status).unwrap(), prefix, clock: Arc::default() }
    }

    /// A command behind the store's back.
    async fn raw<T: FromRedisValue>(&self, command: &Cmd) -> T {
        if self.status.is_cluster() {
            let mut connection = ClusterClient::new(self.status.nodes()).unwrap().get_async_connection().await.unwrap();
            return command.query_async(&mut connection).await.unwrap();
        }
        let client = redis::Client::open(self.status.secret()).unwrap();
        command.query_async(&mut client.get_multiplexed_async_connection().await.unwrap()).await.unwrap()
    }

    /// The webhook's key of this kind, in whichever shard it is.
    async fn key(&self, kind: &str, id: &WebhookId) -> Option<String> {
        for shard in 0..SHARDS {
            let key = format!("{{{}-status-{shard}}}:{kind}:{}", self.prefix, id.task);
            if self.raw(cmd("EXISTS").arg(&key)).await {
                return Some(key);
            }
        }
        None
    }
}

#[async_trait]
impl Backend for Redis {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(RedisStore::new(Connection::new(&self.status, &self.prefix, "status").unwrap(), self.clock()))
    }

    fn queue(&self) -> Arc<dyn Queue> {
        Arc::new(RedisQueue::new(Connection::new(&self.queue, &self.prefix, "queue").unwrap(), self.clock()))
    }

    fn clock(&self) -> Arc<TestClock> {
        Arc::clone(&self.clock)
    }

    async fn second_store(&self) -> Arc<dyn Store> {
        self.store()
    }

    async fn second_queue(&self) -> Arc<dyn Queue> {
        self.queue()
    }

    async fn plant_record(&self, id: &WebhookId, json: &str) {
        let key = self.key("w", id).await.unwrap();
        let added: u64 = self.raw(cmd("HSET").arg(&key).arg("r").arg(json)).await;
        assert_eq!(added, 0, "there is a record");
        let _: u64 = self.raw(cmd("HINCRBY").arg(&key).arg("v").arg(1)).await;
    }

    async fn has_content(&self, id: &WebhookId) -> bool {
        self.key("c", id).await.is_some()
    }
}
