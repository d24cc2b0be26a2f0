//! The conformance suite against a Redis server of its own: store and queue in two databases, each case with a prefix of its own, the
//! second handle with a connection of its own as another process has it.

#![allow(clippy::unwrap_used, reason = "a backend that does not start fails its case")]

use std::{process::ExitCode, sync::Arc};

use async_trait::async_trait;
use posthaste_tests::{
    conformance::{self, Backend, TestClock},
    redis_server::RedisServer,
};
use redis::{AsyncCommands, aio::MultiplexedConnection};
use shared::{
    config::RedisUrl,
    id::WebhookId,
    queue::{Queue, redis::RedisQueue},
    redis::Connection,
    store::{Store, redis::RedisStore},
};

const QUEUE_DATABASE: u32 = 1;
const STATUS_DATABASE: u32 = 2;

fn main() -> ExitCode {
    let server = match RedisServer::start() {
        Ok(server) => server,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let (queue, status) = (server.url(QUEUE_DATABASE), server.url(STATUS_DATABASE));
    conformance::run("redis", move || {
        let backend = Redis::new(&queue, &status);
        async move { Box::new(backend) as Box<dyn Backend> }
    })
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

    /// A connection behind the store's back.
    async fn raw(&self) -> MultiplexedConnection {
        redis::Client::open(self.status.secret()).unwrap().get_multiplexed_async_connection().await.unwrap()
    }

    fn key(&self, kind: &str, id: &WebhookId) -> String {
        format!("{{{}-status}}:{kind}:{}", self.prefix, id.task)
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
        let key = self.key("w", id);
        let mut raw = self.raw().await;
        let added: u64 = raw.hset(&key, "r", json).await.unwrap();
        assert_eq!(added, 0, "there is a record");
        let _: u64 = raw.hincr(&key, "v", 1).await.unwrap();
    }

    async fn has_content(&self, id: &WebhookId) -> bool {
        self.raw().await.exists(self.key("c", id)).await.unwrap()
    }
}
