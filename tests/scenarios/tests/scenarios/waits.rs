//! Waits: an attempt never starts early, and starts soon after its time. `Retry-After` is honored,
//! and a scheduled webhook starts at its time.

use std::time::{Duration, SystemTime};

use harness::{
    client::ApiClient,
    ledger,
    receiver::{Receiver, Reply},
    stack::Launch,
};
use http::Method;
use serde_json::json;

const BOUND: Duration = Duration::from_secs(30);

/// The maximum median lateness. The slowest attempts depend on the machine.
const MEDIAN_LATENESS_BOUND: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread")]
async fn retries_start_on_time() {
    // Ten webhooks fail twice, with waits of about 1 and 2 s from deliver's own queueing. The test
    // compares each attempt's start with the time in the record.
    let receiver = Receiver::builder()
        .script(|request| Reply::status(if request.attempt() == Some(3) { 200 } else { 500 }))
        .start()
        .await
        .unwrap();
    let launch =
        Launch::fresh().unwrap().set("RETRY_BASE_DELAY_MS", "1000").set("CIRCUIT_FAILURES", "0");
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(api.test_webhook(&receiver.url("/x"), &json!({})).await.unwrap().webhook_id);
    }
    ledger::settle(&api, &ids, BOUND).await;
    let mut lateness = Vec::new();
    for id in &ids {
        let explained = api.explain(id).await.unwrap();
        let attempts = api.webhook(id).await.unwrap().attempts;
        let scheduled: Vec<jiff::Timestamp> = explained["steps"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|step| step["next_attempt_at"].as_str()?.parse().ok())
            .collect();
        assert_eq!((scheduled.len(), attempts.len()), (2, 3), "{explained}");
        for (allowed_at, attempt) in scheduled.iter().zip(&attempts[1..]) {
            let late = attempt.started_at.duration_since(*allowed_at);
            assert!(
                late.as_millis() >= 0,
                "attempt {} of {id} started {late:?} after its time",
                attempt.number
            );
            lateness.push(Duration::try_from(late).unwrap());
        }
        let wait_ms = |n: usize| {
            attempts[n + 1].started_at.duration_since(attempts[n].ended_at()).as_millis()
        };
        assert!(
            (800..2000).contains(&wait_ms(0)) && (1600..3500).contains(&wait_ms(1)),
            "{} and {} ms",
            wait_ms(0),
            wait_ms(1)
        );
    }
    lateness.sort();
    println!("lateness of attempts: median {:?}, worst {:?}", lateness[10], lateness[19]);
    assert!(lateness[10] <= MEDIAN_LATENESS_BOUND, "{lateness:?}");
    ledger::close(&api, stack, &launch).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_attempt_starts_before_its_retry_after() {
    let seconds = |name: &str, value: String| Reply::status(503).header(name, &value);
    let receiver = Receiver::builder()
        .script(move |request| match (request.path(), request.attempt()) {
            (_, Some(2)) => Reply::status(200),
            ("/seconds", _) => seconds("retry-after", "2".to_owned()),
            ("/date", _) => seconds(
                "retry-after",
                httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(3)),
            ),
            _ => seconds("retry-after", "soon".to_owned()),
        })
        .start()
        .await
        .unwrap();
    let launch =
        Launch::fresh().unwrap().set("RETRY_BASE_DELAY_MS", "10").set("CIRCUIT_FAILURES", "0");
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let mut ids = Vec::new();
    for path in ["/seconds", "/date", "/garbage"] {
        ids.push(api.test_webhook(&receiver.url(path), &json!({})).await.unwrap().webhook_id);
    }
    ledger::settle(&api, &ids, BOUND).await;
    let mut waits = Vec::new();
    for id in &ids {
        let requests = receiver.wait_for_webhook(id, 2, BOUND).await.unwrap();
        waits.push(requests[1].at - requests[0].at);
    }
    // An HTTP date has whole seconds, so a date 3 s from now is at least 2 s away.
    let least = [2000, 2000, 8].map(Duration::from_millis);
    assert!(waits.iter().zip(least).all(|(wait, least)| *wait >= least), "{waits:?}");
    assert!(waits[2] < Duration::from_secs(2), "garbage is not ignored: {waits:?}");
    ledger::close(&api, stack, &launch).await;
}

/// Neither the webhook nor the receiver requests a wait. The minimum delay limits the request rate.
#[tokio::test(flavor = "multi_thread")]
async fn failed_attempts_keep_the_minimum_delay() {
    let receiver = Receiver::builder()
        .script(|_| Reply::status(429).header("retry-after", "0"))
        .start()
        .await
        .unwrap();
    let launch =
        Launch::fresh().unwrap().set("MIN_RETRY_DELAY_MS", "1000").set("CIRCUIT_FAILURES", "0");
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let mut ids = Vec::new();
    for retry in [json!({"max_attempts": 4, "base_delay_ms": 0}), json!({"schedule_ms": [0, 0, 0]})]
    {
        let body = json!({"url": receiver.url("/x"), "payload": 1, "retry": retry}).to_string();
        let answer = api.call(Method::POST, &["webhooks"], &[], Some(body)).await.unwrap();
        let accepted: serde_json::Value = answer.expect(http::StatusCode::ACCEPTED).unwrap();
        ids.push(accepted["webhook_id"].as_str().unwrap().to_owned());
    }
    ledger::settle(&api, &ids, BOUND).await;
    for id in &ids {
        let requests = receiver.wait_for_webhook(id, 4, BOUND).await.unwrap();
        let waits: Vec<Duration> =
            requests.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
        assert!(
            waits.len() == 3 && waits.iter().all(|wait| *wait >= Duration::from_secs(1)),
            "{waits:?}"
        );
    }
    ledger::close(&api, stack, &launch).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_webhook_starts_on_time_after_a_crash() {
    let receiver = Receiver::start().await.unwrap();
    let launch = Launch::fresh().unwrap();
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let deliver_at = jiff::Timestamp::now() + Duration::from_secs(3);
    let body =
        json!({"url": receiver.url("/x"), "payload": 1, "deliver_at": deliver_at.to_string()})
            .to_string();
    let answer = api.call(Method::POST, &["webhooks"], &[], Some(body)).await.unwrap();
    let accepted: serde_json::Value = answer.expect(http::StatusCode::ACCEPTED).unwrap();
    let ids = [accepted["webhook_id"].as_str().unwrap().to_owned()];
    assert_eq!(api.webhook(&ids[0]).await.unwrap().attempt_count, 0);
    stack.crash().unwrap();
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    ledger::settle(&api, &ids, BOUND).await;
    let attempt = api.webhook(&ids[0]).await.unwrap().attempts.remove(0);
    // The API keeps milliseconds, and the test has a finer time.
    assert!(
        attempt.started_at.duration_since(deliver_at).as_millis() >= -1,
        "{attempt:?}, wanted {deliver_at}"
    );
    ledger::close(&api, stack, &launch).await;
}
