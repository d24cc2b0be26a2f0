//! `GET /health` while the sweep is down, and after it has resumed with due webhooks.

use std::time::Duration;

use api::Access;
use harness::client::ApiClient;
use http::StatusCode;
use serde_json::Value;
use shared::model::{Function, Why};

use crate::world::World;

/// The overall status and the sweep's part of the response.
async fn health(api: &ApiClient) -> (Value, Value) {
    let health: Value = api.health().await.unwrap().expect(StatusCode::OK).unwrap();
    (health["status"].clone(), health["sweep"].clone())
}

/// A missing sweep degrades health within minutes. The next run reports how long webhooks have been
/// due, until it has queued them. Tested with the real API over real HTTP.
#[tokio::test]
async fn health_follows_a_sweep_that_stops_and_resumes() {
    let world = World::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = ApiClient::new(&format!("http://{}", listener.local_addr().unwrap()), None).unwrap();
    let router = api::router(world.context.clone(), Access::Loopback);
    let server = tokio::spawn(async move { axum::serve(listener, router).await });

    world.run_sweep().await;
    let (overall, sweep) = health(&api).await;
    assert_eq!(
        (overall, &sweep["status"], &sweep["lag_ms"]),
        ("healthy".into(), &"healthy".into(), &0.into())
    );

    let webhook = world.accepted().await;
    let due = world
        .context
        .rules
        .adopt(&webhook, world.now(), (Function::Api, Why::Unsent), world.now())
        .unwrap();
    world.put(&webhook, due).await;
    world.clock.advance(Duration::from_secs(400));
    let (overall, sweep) = health(&api).await;
    assert_eq!(
        (overall, &sweep["status"]),
        ("degraded".into(), &"late".into()),
        "no run for 400 s"
    );

    assert_eq!(world.run_sweep().await.requeued, 1);
    world.clock.advance(Duration::from_secs(1));
    let (overall, sweep) = health(&api).await;
    let lag_ms = sweep["lag_ms"].as_u64().unwrap();
    assert!((400_000..460_000).contains(&lag_ms), "{sweep}");
    assert_eq!((overall, &sweep["status"]), ("degraded".into(), &"behind".into()));

    world.run_sweep().await;
    world.clock.advance(Duration::from_secs(1));
    let (overall, sweep) = health(&api).await;
    assert_eq!(
        (overall, &sweep["status"], &sweep["lag_ms"]),
        ("healthy".into(), &"healthy".into(), &0.into())
    );
    server.abort();
}

/// Unreadable due webhooks and a clock that was ahead degrade health, each with a warning. Tested
/// with the real API.
#[tokio::test]
async fn health_reports_unreadable_webhooks_and_a_clock_that_was_ahead() {
    let world = World::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = ApiClient::new(&format!("http://{}", listener.local_addr().unwrap()), None).unwrap();
    let router = api::router(world.context.clone(), Access::Loopback);
    let server = tokio::spawn(async move { axum::serve(listener, router).await });

    let webhook = world.accepted().await;
    let due = world
        .context
        .rules
        .adopt(&webhook, world.now(), (Function::Api, Why::Unsent), world.now())
        .unwrap();
    let due = world.put(&webhook, due).await;
    world.plant_newer(std::slice::from_ref(&due));
    world.run_sweep().await;
    let (overall, sweep) = health(&api).await;
    assert_eq!(
        (overall, &sweep["status"], &sweep["unreadable"]),
        ("degraded".into(), &"degraded".into(), &1.into())
    );
    assert!(
        sweep["warnings"][0].as_str().unwrap().starts_with("1 due webhooks cannot be read"),
        "{sweep}"
    );

    world.plant_back(&[due]);
    world.clock.set_ahead(Duration::from_secs(7200));
    world.run_sweep().await;
    world.clock.set_ahead(Duration::ZERO);
    world.clock.advance(Duration::from_secs(2));
    let (overall, sweep) = health(&api).await;
    assert_eq!((overall, &sweep["unreadable"]), ("degraded".into(), &Value::Null));
    assert!(
        sweep["warnings"][0].as_str().unwrap().contains("s ahead of this function's"),
        "{sweep}"
    );

    world.run_sweep().await;
    world.clock.advance(Duration::from_secs(2));
    let (overall, sweep) = health(&api).await;
    assert_eq!(overall, "degraded");
    assert!(sweep["warnings"][0].as_str().unwrap().contains("A clock was"), "{sweep}");
    world.clock.advance(Duration::from_secs(24 * 3600));
    world.run_sweep().await;
    world.clock.advance(Duration::from_secs(2));
    assert_eq!(health(&api).await.1["warnings"], Value::Null, "a day later");
    server.abort();
}
