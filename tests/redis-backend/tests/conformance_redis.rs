//! The conformance suite on a Redis server and a Redis Cluster. Each case has its own prefix, and
//! the second handle has its own connection, as in another process. On the server, store and queue
//! use two databases. The cluster has only one.

#![allow(clippy::unwrap_used, reason = "a backend that does not start fails its case")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the output is for the person who runs the test"
)]

use std::{process::ExitCode, sync::Arc};

use async_trait::async_trait;
use conformance::{self, Backend, TestClock};
use harness::redis_server::{Behind, RedisCluster, RedisServer, RedisServerError};
use redis::cmd;
use shared::{
    applications::id::ApplicationId,
    clock::Timestamp,
    config::RedisUrl,
    id::WebhookId,
    queue::{Queue, redis::RedisQueue},
    redis::Connection,
    store::{ListPosition, Store, redis::RedisStore},
    traffic::target::TargetKey,
};

const QUEUE_DATABASE: u32 = 1;
const STATUS_DATABASE: u32 = 2;

fn main() -> ExitCode {
    match servers() {
        Ok((server, cluster)) => {
            let (queue, status) = (server.url(QUEUE_DATABASE), server.url(STATUS_DATABASE));
            let mut trials = conformance::trials("redis", start(queue, status));
            trials
                .extend(conformance::trials("redis_cluster", start(cluster.url(), cluster.url())));
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
    status: Behind,
    clock: Arc<TestClock>,
}

impl Redis {
    fn new(queue: &str, status: &str) -> Self {
        let prefix = format!("case-{:016x}", rand::random::<u64>());
        let status = Behind { url: RedisUrl::parse(status).unwrap(), prefix };
        Self { queue: RedisUrl::parse(queue).unwrap(), status, clock: Arc::default() }
    }
}

#[async_trait]
impl Backend for Redis {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(RedisStore::new(
            Connection::new(&self.status.url, &self.status.prefix, "status").unwrap(),
            self.clock(),
        ))
    }

    fn queue(&self) -> Arc<dyn Queue> {
        Arc::new(RedisQueue::new(
            Connection::new(&self.queue, &self.status.prefix, "queue").unwrap(),
            self.clock(),
        ))
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
        let key = self.status.key("w", ListPosition::of(id)).await.unwrap().unwrap();
        let added: u64 = self.status.ask(cmd("HSET").arg(&key).arg("r").arg(json)).await.unwrap();
        assert_eq!(added, 0, "the record exists");
        let _: u64 = self.status.ask(cmd("HINCRBY").arg(&key).arg("v").arg(1)).await.unwrap();
    }

    async fn plant_application(&self, id: &ApplicationId, json: &str) {
        let key = self.status.key("app", id).await.unwrap().unwrap();
        let added: u64 = self.status.ask(cmd("HSET").arg(&key).arg("r").arg(json)).await.unwrap();
        assert_eq!(added, 0, "the document exists");
        let _: u64 = self.status.ask(cmd("HINCRBY").arg(&key).arg("v").arg(1)).await.unwrap();
    }

    async fn plant_target(&self, key: &TargetKey, json: &str) {
        let targets = format!("{{{}-status}}:targets", self.status.prefix);
        let plant = cmd("HSET").arg(targets).arg(key.as_str()).arg(json).clone();
        assert_eq!(self.status.ask::<u64>(&plant).await.unwrap(), 0, "the target exists");
    }

    async fn has_content(&self, id: &WebhookId) -> bool {
        self.status.key("c", id.task).await.unwrap().is_some()
    }

    async fn plant_older_position(&self, at: Timestamp) {
        let key = format!("{{{}-status}}:sweep", self.status.prefix);
        let plant = cmd("HSET").arg(key).arg("audited_until").arg(at.as_millis()).clone();
        let _: u64 = self.status.ask(&plant).await.unwrap();
    }

    async fn older_position(&self) -> Option<Timestamp> {
        let key = format!("{{{}-status}}:sweep", self.status.prefix);
        let read = cmd("HGET").arg(key).arg("audited_until").clone();
        let millis: Option<i64> = self.status.ask(&read).await.unwrap();
        millis.map(Timestamp::from_millis)
    }
}
