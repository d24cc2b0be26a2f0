//! What a Prometheus server makes of the metrics of a local stack.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "these are tests: their panics are verdicts"
)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what a test prints is read by who runs it"
)]

use std::{collections::BTreeSet, time::Duration};

use external::prometheus::{Prometheus, check_metrics};
use harness::{
    client::ApiClient,
    ledger,
    receiver::{Receiver, Reply},
    stack::Launch,
    wait::wait_until,
};
use serde_json::json;

const BOUND: Duration = Duration::from_secs(30);

/// Every series of the contract: its name, its labels besides the scrape's own, and how many of it
/// there are in this test.
const SERIES: [(&str, &[&str], usize); 11] = [
    ("webhook_delivery_total", &["status", "worker_id"], 3),
    ("webhook_delivery_seconds_bucket", &["le", "worker_id"], 15),
    ("webhook_delivery_seconds_count", &["worker_id"], 1),
    ("task_processing_total", &["mode", "status", "worker_id"], 6),
    ("task_processing_seconds_bucket", &["le", "mode", "worker_id"], 45),
    ("task_processing_seconds_sum", &["mode", "worker_id"], 3),
    // The circuit that opened, and the closed one of the paused URL.
    ("circuit_breaker_status", &["service"], 2),
    ("webhook_target_paused", &["service"], 1),
    ("webhook_target_rate", &["service"], 1),
    ("webhook_target_waiting", &["service"], 1),
    ("redis_webhook_keys", &["status"], 5),
];

const KINDS: [(&str, &str); 9] = [
    ("webhook_delivery_total", "counter"),
    ("webhook_delivery_seconds", "histogram"),
    ("task_processing_total", "counter"),
    ("task_processing_seconds", "histogram"),
    ("circuit_breaker_status", "gauge"),
    ("webhook_target_paused", "gauge"),
    ("webhook_target_rate", "gauge"),
    ("webhook_target_waiting", "gauge"),
    ("redis_webhook_keys", "gauge"),
];

/// What the scrape adds.
const OF_THE_SCRAPE: [&str; 3] = ["__name__", "instance", "job"];

/// A real server scrapes both places, finds every series with its labels and types, and the figures
/// that this test made; promtool has nothing to say against the text, before the first webhook and
/// after.
#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_server_finds_every_series() {
    let receiver = Receiver::builder().script(|request| match request.uri.path() {
        "/well" => Reply::status(200),
        "/busy" => Reply::status(429).header("retry-after", "600"),
        _ => Reply::status(500),
    });
    let receiver = receiver.start().await.unwrap();
    // The circuit stays open until the last scrape, however slow the machine is.
    let launch = Launch::fresh()
        .unwrap()
        .set("CIRCUIT_FAILURES", "1")
        .set("CIRCUIT_OPEN_MS", "600000")
        .set("RETRY_MAX_ATTEMPTS", "1");
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    check_metrics(&api.call(http::Method::GET, &["metrics"], &[], None).await.unwrap().body)
        .unwrap();

    let mut ids = Vec::new();
    for path in ["/well", "/well", "/ill"] {
        ids.push(api.test_webhook(&receiver.url(path), &json!({"n": 1})).await.unwrap().webhook_id);
        // One after the other: the open circuit would keep the others waiting.
        ledger::settle(&api, &ids, BOUND).await;
    }
    // Refused with a pause. Its URL stays paused after the webhook is deleted.
    let refused =
        api.test_webhook(&receiver.url("/busy"), &json!({"n": 1})).await.unwrap().webhook_id;
    let is_refused = async || api.webhook(&refused).await.unwrap().status == "retrying";
    wait_until("the webhook is refused", BOUND, is_refused).await;
    api.delete_webhook(&refused).await.unwrap();
    let in_api = format!("{}/metrics", stack.url());
    let prometheus =
        Prometheus::start(&[("api", &in_api), ("port", &stack.metrics_url())]).await.unwrap();
    for job in ["api", "port"] {
        for (name, labels, count) in SERIES {
            let series = prometheus
                .wait_for(&format!("{name}{{job=\"{job}\"}}"), |found| found.len() >= count)
                .await
                .unwrap();
            assert_eq!(series.len(), count, "{name} of {job}: {series:?}");
            for one in &series {
                let found: BTreeSet<&str> = one.metric.keys().map(String::as_str).collect();
                assert_eq!(
                    found,
                    labels.iter().copied().chain(OF_THE_SCRAPE).collect(),
                    "{name} of {job}"
                );
            }
        }
        let value = |query: String, wanted: &'static str| {
            let prometheus = &prometheus;
            async move {
                let as_wanted = |found: &[external::prometheus::Series]| {
                    found.len() == 1 && found[0].value.1 == wanted
                };
                prometheus.wait_for(&query, as_wanted).await.unwrap();
            }
        };
        value(format!("webhook_delivery_total{{job=\"{job}\",status=\"delivered\"}}"), "2").await;
        value(format!("webhook_delivery_seconds_count{{job=\"{job}\"}}"), "4").await;
        value(
            format!("task_processing_total{{job=\"{job}\",mode=\"dlq\",status=\"success\"}}"),
            "1",
        )
        .await;
        value(format!("redis_webhook_keys{{job=\"{job}\",status=\"failed\"}}"), "1").await;
        value(format!("circuit_breaker_status{{job=\"{job}\"}} > 0"), "2").await;
        value(format!("webhook_target_paused{{job=\"{job}\"}}"), "1").await;
        value(format!("webhook_target_rate{{job=\"{job}\"}}"), "1").await;
        value(format!("webhook_target_waiting{{job=\"{job}\"}}"), "1").await;
    }
    for (name, kind) in KINDS {
        assert_eq!(prometheus.kind(name).await.unwrap().as_deref(), Some(kind), "{name}");
    }
    check_metrics(&api.call(http::Method::GET, &["metrics"], &[], None).await.unwrap().body)
        .unwrap();
    // The message of the deleted webhook still waits for the end of the pause.
    stack.stop().unwrap();
}

/// The judge does judge.
#[test]
fn a_text_that_is_no_metrics_is_refused() {
    assert!(check_metrics("webhook_delivery_total{status=} 1\n").is_err());
    assert!(
        check_metrics("# TYPE webhook_deliveries counter\nwebhook_deliveries 1\n").is_err(),
        "a counter ends in _total"
    );
}
