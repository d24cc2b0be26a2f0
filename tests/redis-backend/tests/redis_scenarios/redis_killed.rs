//! `kill -9` of functions under load. No webhook with a 202 is lost, and only attempts without a
//! recorded outcome are repeated. The webhooks of a dead process resume when their leases and
//! visibility timeouts end.

use harness::{
    crash::{BOUND, Settings, kill_functions, launch, settings, times},
    publishing,
    redis_server::RedisServer,
};

#[tokio::test(flavor = "multi_thread")]
async fn no_webhook_is_lost_when_functions_are_killed_on_redis() {
    let server = RedisServer::start().unwrap();
    kill_functions("Redis", on(&server)).await;
}

/// Every planned delivery of every accepted message ends, while endpoints change.
#[tokio::test(flavor = "multi_thread")]
async fn no_delivery_is_lost_when_functions_are_killed_on_redis() {
    let server = RedisServer::start().unwrap();
    let all = publishing::with_endpoints(on(&server));
    publishing::kill_functions("Redis", all, BOUND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_delivery_is_lost_when_the_stack_is_killed_on_redis() {
    let server = RedisServer::start().unwrap();
    let all = publishing::with_endpoints(on(&server));
    publishing::kill_stack("messages on Redis", &launch(&all), BOUND).await;
}

fn on(server: &RedisServer) -> Settings {
    let (status, queue) = (server.url(2), server.url(1));
    let mut all = times("600", "1000");
    all.extend(settings(&[
        ("STATUS_BACKEND", "redis"),
        ("QUEUE_BACKEND", "redis"),
        ("STATUS_REDIS_URL", &status),
        ("QUEUE_REDIS_URL", &queue),
    ]));
    all
}
