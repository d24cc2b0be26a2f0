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
use jiff::Timestamp;
use serde_json::{Value, json};

const BOUND: Duration = Duration::from_secs(30);

/// The maximum median lateness of a round. The slowest attempts depend on the machine.
const MEDIAN_LATENESS_BOUND: Duration = Duration::from_millis(300);

/// The pause after a refusal lasts for at least a second. It is longer than this from request to
/// request, because it begins with the answer. Times are stored in milliseconds.
const SHORTEST_PAUSE: Duration = Duration::from_millis(999);

/// The rounds, one of which must be on time. A pause of the machine delays the attempts of a round,
/// and a stack that starts attempts late delays those of every round.
const ROUNDS: usize = 5;

const WEBHOOKS: usize = 10;

/// The planned waits: from the end of each failed attempt to the earliest time of the next one, and
/// that time.
fn planned(explained: &Value) -> Vec<(Duration, Timestamp)> {
    let time = |step: &Value, name: &str| step[name].as_str()?.parse::<Timestamp>().ok();
    let wait = |step: &Value| {
        let next = time(step, "next_attempt_at")?;
        Some((Duration::try_from(next.duration_since(time(step, "at")?)).ok()?, next))
    };
    explained["steps"].as_array().unwrap().iter().filter_map(wait).collect()
}

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
    let mut medians = Vec::new();
    while medians.last().is_none_or(|median| *median > MEDIAN_LATENESS_BOUND) {
        assert!(medians.len() < ROUNDS, "no round was on time: {medians:?}");
        let mut ids = Vec::new();
        for _ in 0..WEBHOOKS {
            ids.push(api.test_webhook(&receiver.url("/x"), &json!({})).await.unwrap().webhook_id);
        }
        ledger::settle(&api, &ids, BOUND).await;
        let mut lateness = Vec::new();
        for id in &ids {
            lateness.extend(lateness_of_retries(&api, id).await);
        }
        lateness.sort();
        let (median, worst) = (lateness[WEBHOOKS], lateness[2 * WEBHOOKS - 1]);
        println!("lateness of attempts: median {median:?}, worst {worst:?}");
        medians.push(median);
    }
    ledger::close(&api, stack, &launch).await;
}

/// How late the two retries started. Checks that the waits are planned as the policy says, and that
/// neither retry started early.
async fn lateness_of_retries(api: &ApiClient, id: &str) -> Vec<Duration> {
    let explained = api.explain(id).await.unwrap();
    let attempts = api.webhook(id).await.unwrap().attempts;
    let planned = planned(&explained);
    assert_eq!((planned.len(), attempts.len()), (2, 3), "{explained}");
    let in_policy = [(800, 1200), (1600, 2400)]
        .map(|(least, most)| Duration::from_millis(least)..=Duration::from_millis(most));
    let mut lateness = Vec::new();
    for (n, ((wait, allowed_at), in_policy)) in planned.iter().zip(in_policy).enumerate() {
        assert!(in_policy.contains(wait), "wait {n} of {id} is {wait:?}");
        let late = attempts[n + 1].started_at.duration_since(*allowed_at);
        let waited = attempts[n + 1].started_at.duration_since(attempts[n].ended_at());
        assert!(
            late.as_millis() >= 0 && Duration::try_from(waited).unwrap() >= *in_policy.start(),
            "retry {n} of {id} started {late:?} after its time and {waited:?} after attempt {n}"
        );
        lateness.push(Duration::try_from(late).unwrap());
    }
    lateness
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
    let garbage = planned(&api.explain(&ids[2]).await.unwrap());
    assert!(
        garbage.iter().all(|(wait, _)| *wait < Duration::from_secs(1)) && garbage.len() == 1,
        "garbage is not ignored: {garbage:?}"
    );
    ledger::close(&api, stack, &launch).await;
}

/// Neither the webhook nor the receiver requests a wait. The minimum delay limits the request rate.
#[tokio::test(flavor = "multi_thread")]
async fn failed_attempts_keep_the_minimum_delay() {
    let receiver = Receiver::builder()
        .script(|_| Reply::status(500).header("retry-after", "0"))
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

/// A receiver that refuses every request, and asks for no wait, gets at most one request a second.
/// The refusals spend no attempt: the webhook is delivered as soon as the receiver accepts it.
#[tokio::test(flavor = "multi_thread")]
async fn refused_attempts_keep_the_shortest_pause_and_are_not_spent() {
    const REFUSALS: u32 = 4;
    let receiver = Receiver::builder()
        .script(|request| match request.attempt() {
            Some(attempt) if attempt <= REFUSALS => Reply::status(429).header("retry-after", "0"),
            _ => Reply::status(200),
        })
        .start()
        .await
        .unwrap();
    let launch = Launch::fresh().unwrap().set("CIRCUIT_FAILURES", "0");
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let retry = json!({"max_attempts": 2, "base_delay_ms": 0});
    let body = json!({"url": receiver.url("/x"), "payload": 1, "retry": retry}).to_string();
    let answer = api.call(Method::POST, &["webhooks"], &[], Some(body)).await.unwrap();
    let accepted: serde_json::Value = answer.expect(http::StatusCode::ACCEPTED).unwrap();
    let ids = [accepted["webhook_id"].as_str().unwrap().to_owned()];
    assert_eq!(
        ledger::settle(&api, &ids, BOUND).await.statuses,
        [("delivered".to_owned(), 1)].into()
    );
    let requests = receiver.received();
    let waits: Vec<Duration> = requests.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    assert!(
        waits.len() == REFUSALS as usize && waits.iter().all(|wait| *wait >= SHORTEST_PAUSE),
        "{waits:?}"
    );
    ledger::close(&api, stack, &launch).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_webhook_starts_on_time_after_a_crash() {
    let receiver = Receiver::start().await.unwrap();
    let launch = Launch::fresh().unwrap();
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    // Far enough in the future for the requests before the crash, on a busy machine.
    let deliver_at = Timestamp::now() + Duration::from_secs(6);
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
