//! `kill -9` of functions under load. No webhook with a 202 is lost, and only attempts without a
//! recorded outcome are repeated. The webhooks of a dead process resume when their leases and
//! visibility timeouts end.

use harness::{
    crash::{kill_functions, settings, times},
    redis_server::RedisServer,
};

#[tokio::test(flavor = "multi_thread")]
async fn no_webhook_is_lost_when_functions_are_killed_on_redis() {
    let server = RedisServer::start().unwrap();
    let (status, queue) = (server.url(2), server.url(1));
    let mut all = times("600", "1000");
    all.extend(settings(&[
        ("STATUS_BACKEND", "redis"),
        ("QUEUE_BACKEND", "redis"),
        ("STATUS_REDIS_URL", &status),
        ("QUEUE_REDIS_URL", &queue),
    ]));
    kill_functions("Redis", all).await;
}
