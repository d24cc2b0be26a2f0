//! Store or queue down, slow, or silent after they did their work. Health and metrics meanwhile.

use std::time::Duration;

use api::Access;
use serde_json::json;
use shared::{
    circuit::Settings,
    model::{ErrorKind, LastError, Transition, Why},
    status::Status,
    store::{Activity, DestinationActivity, SweepReport, Unindexed},
    traffic::target::{Target, TargetKey},
};

use crate::{
    faulty::Fault,
    harness::{Answer, Stack, URL, ids},
};

fn body() -> String {
    json!({"url": URL, "payload": 1}).to_string()
}

#[tokio::test]
async fn without_the_store_every_call_is_a_503_that_says_nothing_of_the_inside() {
    let stack = Stack::start().await;
    let id = stack.accept(json!({})).await;
    stack.faults.store_down();
    let mut answers = vec![
        stack.post("/webhooks", body()).await,
        stack.post(&format!("/test-webhook?webhook_url={URL}"), "1").await,
        stack.delete(&format!("/webhook-status/{id}")).await,
        stack.delete("/webhook-statuses?status=failed").await,
    ];
    for path in ["/webhook-statuses", "/dead-letters", "/destinations", "/metrics"] {
        answers.push(stack.get(path).await);
    }
    for path in [
        format!("/webhook-status/{id}"),
        format!("/webhooks/{id}/explain"),
        format!("/dead-letters/{id}"),
    ] {
        answers.push(stack.get(&path).await);
    }
    for path in [
        format!("/webhooks/{id}/resend"),
        "/webhook-cleanup?status=failed".to_owned(),
        "/dead-letters/redrive".to_owned(),
    ] {
        answers.push(stack.post(&path, "").await);
    }
    for answer in answers {
        answer.problem(503);
        assert!(answer.header("retry-after").is_some());
        assert!(!answer.text.contains("internal detail"), "{}", answer.text);
    }
    // Invalid requests still get their errors.
    stack.post("/webhooks", "{}").await.problem(422);
    stack.faults.heal();
    stack.get(&format!("/webhook-status/{id}")).await.json(200);
}

/// The response is still a 202. The webhook is due now, so the next sweep sends its message.
#[tokio::test]
async fn without_the_queue_a_webhook_is_accepted_and_due() {
    for fault in [Fault::Down, Fault::AnswerLost] {
        let stack = Stack::start().await;
        stack.faults.set("send", fault);
        let id = stack.accept(json!({})).await;
        let record = stack.record(&id).await;
        assert_eq!((record.status, record.due_at), (Status::Pending, Some(record.created_at)));
        let step = record.history.last().unwrap();
        assert_eq!((step.transition, step.why), (Transition::Adopt, Some(Why::Unsent)));
    }
}

/// Neither the queue nor the due index has the webhook. It still exists, and the audit finds
/// it.
#[tokio::test]
async fn a_webhook_without_a_holder_is_accepted_all_the_same() {
    let stack = Stack::start().await;
    stack.faults.set("send", Fault::Down);
    stack.faults.set("write", Fault::Down);
    let id = stack.accept(json!({})).await;
    let record = stack.record(&id).await;
    let end = record.created_at.plus(Duration::from_millis(1));
    let list_unindexed =
        stack.context.store.list_unindexed(record.created_at, end, None).await.unwrap();
    assert_eq!(list_unindexed.items, [Unindexed::Webhook(Box::new(record))]);
}

#[tokio::test]
async fn a_resend_whose_message_is_refused_is_due_now() {
    let stack = Stack::start().await;
    let (sent, letter) = (stack.accept(json!({})).await, stack.accept(json!({})).await);
    stack.conclude(&sent, 200).await;
    stack.bury(&letter).await;
    stack.faults.set("send", Fault::Down);
    stack.post(&format!("/webhooks/{sent}/resend"), "").await.json(202);
    assert_eq!(stack.post("/dead-letters/redrive", "").await.json(202)["redriven"], 1);
    for id in [sent, letter] {
        let record = stack.record(&id).await;
        assert_eq!(
            (record.status, record.due_at),
            (Status::Pending, Some(stack.context.clock.now()))
        );
    }
}

fn swept(stack: &Stack, lag_ms: u64) -> SweepReport {
    SweepReport {
        ran_at: stack.context.clock.now(),
        lag_ms,
        counts: [1, 0, 0, 4, 2],
        ..SweepReport::default()
    }
}

/// Health after the reused findings have expired.
async fn later(stack: &Stack) -> Answer {
    stack.clock.advance(Duration::from_secs(1));
    stack.get("/health").await
}

/// However many callers poll it, store and queue are probed once a second, and all callers get the
/// same findings.
#[tokio::test]
async fn health_probes_at_most_once_a_second() {
    let stack = Stack::start().await;
    let asked = |calls: Vec<(&str, usize)>| {
        calls.iter().find(|(call, _)| *call == "ping").map_or(0, |(_, count)| *count)
    };
    let answers = futures_util::future::join_all((0..20).map(|_| stack.get("/health"))).await;
    assert_eq!(asked(stack.faults.take_calls()), 1);
    stack.clock.advance(Duration::from_millis(999));
    stack.faults.store_down();
    assert_eq!(stack.get("/health").await.text, answers[0].text, "it still counts");
    assert_eq!(asked(stack.faults.take_calls()), 0);
    stack.clock.advance(Duration::from_millis(1));
    let down = stack.get("/health").await;
    assert_eq!(
        (down.json(503)["status"].as_str(), down.header("retry-after")),
        (Some("unhealthy"), Some("1"))
    );
    assert_eq!(asked(stack.faults.take_calls()), 1);
}

#[tokio::test]
async fn health_follows_store_queue_and_sweep() {
    let stack = Stack::start().await;
    stack.accept(json!({})).await;
    let well = later(&stack).await.json(200);
    assert_eq!((&well["status"], &well["sweep"]["status"]), (&"healthy".into(), &"unknown".into()));
    assert_eq!(
        well["queue"]["depths"]["webhooks"],
        json!({"ready": 1, "in_flight": 0, "delayed": 0})
    );
    assert_eq!((&well["store"]["backend"], &well["circuits"]), (&"sqlite".into(), &json!([])));

    stack.clock.advance(Duration::from_secs(181));
    assert_eq!(later(&stack).await.json(200)["status"], "degraded");
    let report = swept(&stack, 5);
    stack.context.store.report_sweep(&report).await.unwrap();
    let well = later(&stack).await.json(200);
    let sweep = json!({"status": "healthy", "last_run_at": report.ran_at.to_string(), "lag_ms": 5});
    assert_eq!((&well["status"], &well["sweep"]), (&"healthy".into(), &sweep));
    stack.context.store.report_sweep(&swept(&stack, 300_001)).await.unwrap();
    let behind = later(&stack).await.json(200);
    assert_eq!(
        (&behind["status"], &behind["sweep"]["status"]),
        (&"degraded".into(), &"behind".into())
    );
    stack.context.store.report_sweep(&swept(&stack, 0)).await.unwrap();

    stack.faults.set("depth", Fault::Down);
    let degraded = later(&stack).await.json(200);
    assert_eq!(
        (&degraded["status"], &degraded["queue"]["status"]),
        (&"degraded".into(), &"unhealthy".into())
    );
    stack.faults.store_down();
    let down = later(&stack).await;
    assert_eq!(down.json(503)["status"], "unhealthy");
    assert!(!down.text.contains("internal detail"));
}

/// A store that may lose acknowledged writes warns of it: health is degraded and contains the
/// warning. Without an answer about warnings, the store counts as healthy.
#[tokio::test]
async fn health_contains_the_store_s_warnings() {
    let stack = Stack::start().await;
    assert_eq!(
        later(&stack).await.json(200)["store"],
        json!({"status": "healthy", "backend": "sqlite"})
    );
    stack.faults.warnings.lock().unwrap().push("persistence is off".to_owned());
    let health = later(&stack).await.json(200);
    assert_eq!(health["status"], "degraded");
    let warned =
        json!({"status": "degraded", "backend": "sqlite", "warnings": ["persistence is off"]});
    assert_eq!(health["store"], warned);
    stack.faults.set("warnings", Fault::Down);
    assert_eq!(later(&stack).await.json(200)["status"], "healthy");
}

/// A probe times out after two seconds of the clock.
#[tokio::test]
async fn health_does_not_wait_for_a_silent_store_or_queue() {
    let stack = Stack::start().await;
    stack.faults.set("ping", Fault::Silent);
    let health = stack.get("/health");
    let moved = async {
        // The call is counted before it stalls, so its timeout has started, or starts at this time.
        while !stack.faults.take_calls().iter().any(|(call, _)| *call == "targets") {
            tokio::task::yield_now().await;
        }
        stack.clock.advance(Duration::from_secs(2));
    };
    let (health, ()) = tokio::join!(health, moved);
    assert_eq!(health.json(503)["store"]["status"], "unhealthy");
}

async fn with_an_open_circuit(stack: &Stack) {
    let (store, now) = (&stack.context.store, stack.context.clock.now());
    let settings = Settings { failures: 2, ..Settings::default() };
    let idle = |origin| Target::idle(TargetKey::origin(origin));
    let failing = idle("https://receiver.example:443").failed(1, &settings, now);
    store.write_target(None, &failing).await.unwrap();
    let open = failing.failed(1, &settings, now);
    store.write_target(Some(failing.revision), &open).await.unwrap();
    let closed = idle("https://fine.example:443").failed(1, &settings, now);
    store.write_target(None, &closed).await.unwrap();
    let error = LastError {
        kind: ErrorKind::HttpStatus,
        status_code: Some(503),
        message: "busy".to_owned(),
    };
    let activity =
        DestinationActivity { delivered: 1, failed: 3, waiting: 2, last_error: Some((now, error)) };
    let counters = [("deliveries.delivered".to_owned(), 1)].into();
    let destinations = [("https://receiver.example:443".to_owned(), activity)].into();
    store.add_activity(&Activity { counters, destinations }, now).await.unwrap();
}

#[tokio::test]
async fn open_circuits_are_shown_and_bad_destinations_come_first() {
    let stack = Stack::start().await;
    with_an_open_circuit(&stack).await;
    let health = stack.get("/health").await.json(200);
    assert_eq!(health["circuits"].as_array().map(Vec::len), Some(1), "{health}");
    assert_eq!(
        (&health["circuits"][0]["state"], &health["status"]),
        (&"open".into(), &"healthy".into())
    );
    let worst = stack.get("/destinations").await.json(200)["items"][0].clone();
    let now = stack.context.clock.now();
    let expected = json!({
        "destination": "https://receiver.example:443", "application_id": null,
        "endpoint_id": null, "host": "receiver.example",
        "circuit": "open",
        "open_until": now.plus(Duration::from_secs(30)).to_string(), "rate_limit": null,
        "success_share": 0.25,
        "attempts": 4, "failed": 3,
        "waiting": 2,
        "last_error": {"kind": "http_status", "status_code": 503, "message": "busy",
            "at": now.to_string()},
        "targets": [{
            "target": "https://receiver.example:443", "circuit": "open",
            "open_until": now.plus(Duration::from_secs(30)).to_string(), "retries_only": false,
            "paused_until": null, "paused_by": null, "learned_rate": null, "waiting": 0,
        }],
    });
    assert_eq!(worst, expected);
}

#[tokio::test]
async fn metrics_are_prometheus_text_and_can_be_disabled() {
    let stack = Stack::start().await;
    with_an_open_circuit(&stack).await;
    stack.accept(json!({})).await;
    let counted = stack.get("/metrics").await;
    assert_eq!(counted.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    for line in [
        r#"webhook_delivery_total{status="delivered",worker_id="deliver"} 1"#,
        r#"circuit_breaker_status{service="https://receiver.example:443"} 2"#,
        r#"redis_webhook_keys{status="pending"} 1"#,
    ] {
        assert!(
            counted.text.lines().any(|have| have == line),
            "{line} is missing in\n{}",
            counted.text
        );
    }
    stack.context.store.report_sweep(&swept(&stack, 0)).await.unwrap();
    assert!(
        stack.get("/metrics").await.text.contains(r#"redis_webhook_keys{status="delivered"} 4"#)
    );
    let off = Stack::with(&[("ENABLE_PROMETHEUS", "false")], Access::Loopback).await;
    off.get("/metrics").await.problem(404);
}

/// The second port of the local stack serves nothing but metrics.
#[tokio::test]
async fn the_metrics_port_serves_metrics_only() {
    let mut port = Stack::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    port.base = format!("http://{}", listener.local_addr().unwrap());
    let router = api::metrics_router(port.context.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    assert!(port.get("/metrics").await.text.contains("webhook_delivery_total"));
    assert_eq!(port.get("/webhook-statuses").await.status.as_u16(), 404);
    assert_eq!(port.post("/metrics", "").await.status.as_u16(), 405);
    port.faults.store_down();
    assert_eq!(port.get("/metrics").await.status.as_u16(), 503);
}

/// No call finds an expired webhook.
#[tokio::test]
async fn an_expired_webhook_is_gone() {
    let stack = Stack::start().await;
    let id = stack.accept(json!({})).await;
    stack.conclude(&id, 200).await;
    stack.clock.advance(Duration::from_secs(30 * 24 * 3600));
    stack.get(&format!("/webhook-status/{id}")).await.problem(404);
    stack.get(&format!("/webhooks/{id}/explain")).await.problem(404);
    stack.post(&format!("/webhooks/{id}/resend"), "").await.problem(404);
    assert!(ids(&stack.get("/webhook-statuses").await.json(200)).is_empty());
}

/// The client disconnects during the create. The webhook exists then, so its message is sent all
/// the same.
#[tokio::test]
async fn a_client_that_disconnects_does_not_prevent_the_send() {
    let stack = Stack::start().await;
    stack.faults.set("create", Fault::Held);
    let request = stack
        .request(http::Method::POST, "/webhooks")
        .header("content-type", "application/json")
        .body(body());
    let client = tokio::spawn(request.send());
    while stack.faults.take_calls().iter().all(|(call, _)| *call != "create") {
        tokio::task::yield_now().await;
    }
    client.abort();
    assert!(client.await.is_err_and(|error| error.is_cancelled()));
    stack.faults.heal();
    let sent = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            let messages = stack.take_messages().await;
            if !messages.is_empty() {
                return messages;
            }
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(sent.await.expect("its message is sent").len(), 1);
}

/// A panic is a 500, and the next request works.
#[tokio::test]
async fn a_panic_is_a_500_without_details() {
    let stack = Stack::start().await;
    stack.faults.set("create", Fault::Panic);
    stack.faults.set("list", Fault::Panic);
    for answer in [stack.post("/webhooks", body()).await, stack.get("/webhook-statuses").await] {
        answer.problem(500);
        assert!(!answer.text.contains("told to"), "{}", answer.text);
    }
    stack.faults.heal();
    stack.accept(json!({})).await;
}
