//! `kill -9` of functions under load: nothing that was
//! answered with a 202 is lost, and what comes twice is at most what had an attempt without a
//! recorded answer. Nobody takes anything over: what a dead process held comes back when leases and
//! visibility timeouts are over.

use harness::{
    crash::{kill_functions, settings, times},
    redis_server::RedisServer,
};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_functions_are_killed_on_redis() {
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
