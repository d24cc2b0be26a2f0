//! The local stack with its store, its queue, or both on Redis: all paths of webhooks, and crashes
//! of the stack.

use std::{sync::Arc, time::Duration};

use harness::{
    client::ApiClient,
    crash::{crash_under_load, recover, rounds},
    ledger, life,
    receiver::Receiver,
    redis_server::{RedisCluster, RedisServer},
    stack::{Launch, Stack},
};
use serde_json::json;
use shared::{
    clock::{Clock, SystemClock},
    config::RedisUrl,
    queue::{Queue, redis::RedisQueue, sqlite::SqliteQueue},
    redis::Connection,
    sqlite::{DATABASE_FILE, Database},
    store::{Store, redis::RedisStore, sqlite::SqliteStore},
};

pub(crate) const BOUND: Duration = Duration::from_secs(60);

/// The prefix of messages, for a cluster that also stores webhooks.
const QUEUE_PREFIX: &str = "posthaste-messages";

/// A stack with short times, and the URLs of its store and queue. A part without a URL is on the
/// embedded file.
pub(crate) struct Parts {
    pub(crate) launch: Launch,
    status: Option<RedisUrl>,
    queue: Option<RedisUrl>,
}

impl Parts {
    /// A stack cannot know whether it is alone on a server, so leases expire at their time. Hidden
    /// messages become visible after six function timeouts of four thirds of a lease each: 8 s.
    pub(crate) fn on(status: Option<&str>, queue: Option<&str>) -> Self {
        let backend = |url: Option<&str>| if url.is_some() { "redis" } else { "sqlite" };
        let launch = [
            ("STATUS_BACKEND", backend(status)),
            ("QUEUE_BACKEND", backend(queue)),
            ("STATUS_REDIS_URL", status.unwrap_or_default()),
            ("QUEUE_REDIS_URL", queue.unwrap_or_default()),
            ("QUEUE_REDIS_PREFIX", QUEUE_PREFIX),
            ("DELIVERY_TIMEOUT_MS", "600"),
            ("LEASE_MS", "1000"),
            ("RETRY_BASE_DELAY_MS", "50"),
            ("CIRCUIT_FAILURES", "0"),
            ("RUST_LOG", "warn"),
        ]
        .into_iter()
        .fold(Launch::fresh().unwrap(), |launch, (variable, value)| launch.set(variable, value));
        let url = |url: Option<&str>| url.map(|url| RedisUrl::parse(url).unwrap());
        Self { launch, status: url(status), queue: url(queue) }
    }

    /// Sets another setting.
    pub(crate) fn set(self, variable: &str, value: &str) -> Self {
        Self { launch: self.launch.set(variable, value), ..self }
    }

    /// Both on one server, in two databases.
    pub(crate) fn on_one(server: &RedisServer) -> Self {
        Self::on(Some(&server.url(2)), Some(&server.url(1)))
    }

    /// Stops the stack and checks that nothing is left.
    pub(crate) async fn close(&self, api: &ApiClient, stack: Stack) {
        ledger::end(api, stack).await;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let file = || Database::open(&self.launch.data_dir().join(DATABASE_FILE)).unwrap();
        let store: Arc<dyn Store> = match &self.status {
            Some(url) => Arc::new(RedisStore::new(
                Connection::new(url, "posthaste", "status").unwrap(),
                Arc::clone(&clock),
            )),
            None => Arc::new(SqliteStore::new(file(), Arc::clone(&clock))),
        };
        let queue: Arc<dyn Queue> = match &self.queue {
            Some(url) => Arc::new(RedisQueue::new(
                Connection::new(url, QUEUE_PREFIX, "queue").unwrap(),
                clock,
            )),
            None => Arc::new(SqliteQueue::new(file(), clock)),
        };
        ledger::assert_nothing_left(&*store, &*queue).await;
    }
}

/// All paths of a webhook work, and health reports store and queue separately without a warning. No
/// process dies, so the times are long: a timeout on a busy machine would be another attempt.
async fn delivery_retry_dead_letter_and_redrive(parts: Parts) {
    let parts = parts.set("DELIVERY_TIMEOUT_MS", "10000").set("LEASE_MS", "20000");
    let stack = parts.launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let mut health: serde_json::Value =
        api.health().await.unwrap().expect(http::StatusCode::OK).unwrap();
    let name = |url: &Option<RedisUrl>| if url.is_some() { "redis" } else { "sqlite" };
    // The size of the disk is the machine's. Only the embedded file has one.
    let disk = health["store"].as_object_mut().unwrap().remove("disk");
    assert_eq!(disk.is_some(), parts.status.is_none(), "{disk:?}");
    assert_eq!(health["store"], json!({"status": "healthy", "backend": name(&parts.status)}));
    assert_eq!(
        (&health["status"], &health["queue"]["backend"]),
        (&json!("healthy"), &json!(name(&parts.queue)))
    );
    life::live(&api, BOUND).await;
    parts.close(&api, stack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_webhook_paths_work_on_one_server() {
    let server = RedisServer::durable().unwrap();
    delivery_retry_dead_letter_and_redrive(Parts::on_one(&server)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_webhook_paths_work_on_a_cluster() {
    let cluster = RedisCluster::durable().unwrap();
    delivery_retry_dead_letter_and_redrive(Parts::on(Some(&cluster.url()), Some(&cluster.url())))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_webhook_paths_work_with_only_the_store_on_redis() {
    let server = RedisServer::durable().unwrap();
    delivery_retry_dead_letter_and_redrive(Parts::on(Some(&server.url(2)), None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_webhook_paths_work_with_only_the_queue_on_redis() {
    let server = RedisServer::durable().unwrap();
    delivery_retry_dead_letter_and_redrive(Parts::on(None, Some(&server.url(1)))).await;
}

/// `kill -9` of the stack under load loses no webhook with a 202, and each duplicate is explained.
/// The test kills the stack at random moments. Interrupted webhooks resume after their leases and
/// visibility timeouts. A webhook that was created but not yet queued had no 202 and waits for the
/// audit.
#[tokio::test(flavor = "multi_thread")]
async fn no_webhook_is_lost_when_the_stack_is_killed_on_redis() {
    let server = RedisServer::start().unwrap();
    let receiver = Receiver::start().await.unwrap();
    let parts = Parts::on_one(&server);
    let accepted = crash_under_load(&parts.launch, &receiver, rounds()).await;
    let (api, stack) =
        recover("local stack on Redis", &parts.launch, &receiver, &accepted, BOUND).await;
    parts.close(&api, stack).await;
}

/// Webhooks and messages in one database, or under one prefix of a cluster, stop the start with an
/// error.
#[test]
fn sharing_a_database_is_refused_at_start() {
    let (server, cluster) = ("redis://127.0.0.1:1/3", "redis+cluster://127.0.0.1:1");
    for (url, reason) in [(server, "the same database"), (cluster, "the prefix is all that keeps")]
    {
        let parts = Parts::on(Some(url), Some(url)).set("QUEUE_REDIS_PREFIX", "posthaste");
        let error = parts.launch.start().unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}
