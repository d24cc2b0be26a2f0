//! Every hostile receiver of the catalog, several webhooks each, in batches with good receivers.
//! Each attempt ends in time, is recorded correctly, uses little memory and affects no other
//! webhook.

use std::time::Duration;

use harness::{
    client::{ApiClient, Webhook},
    hostile::{
        HostileReceiver, Step, Transport,
        catalogue::{self, Recorded},
        certificates::Authority,
    },
    ledger,
    receiver::Receiver,
    stack::{Launch, Stack},
    wait::wait_until,
};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tools::load::machine::usage;

/// Webhooks for each receiver.
const EACH: usize = 3;

/// The deadline of an attempt.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(4);

/// The time that an attempt may exceed its deadline on a busy machine. No hostile receiver ends an
/// attempt by itself.
const LATENESS_BOUND: Duration = Duration::from_secs(4);

/// The longest `Retry-After`. It is short, so that a test sees the attempt that follows, and longer
/// than the shortest pause on a busy machine.
const RETRY_AFTER_CAP: Duration = Duration::from_secs(6);

/// The pause after a refusal that asks for no wait.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// The bound until all webhooks are finished. The attempts of a batch run concurrently.
const BOUND: Duration = Duration::from_secs(120);

/// The maximum growth of the stack's peak memory: for each of 128 concurrent attempts, 64 KiB of a
/// response's body and 400 KiB for its head. An unlimited body or header list, or a decompressed
/// bomb, would exceed it at once.
const GROWTH_BOUND_KIB: u64 = 128 * (64 + 400);

/// Sends one webhook to each of the URLs, in batches of a hundred. Returns their IDs in order.
async fn submit(api: &ApiClient, urls: &[String]) -> Vec<String> {
    let mut ids = Vec::new();
    for urls in urls.chunks(100) {
        let webhooks: Vec<Value> =
            urls.iter().map(|url| json!({"url": url, "payload": {"to": url}})).collect();
        let body = json!({"webhooks": webhooks}).to_string();
        let answer = api.call(Method::POST, &["webhooks", "batch"], &[], Some(body)).await.unwrap();
        let answer: Value = answer.expect(StatusCode::ACCEPTED).unwrap();
        let results = answer["results"].as_array().unwrap().clone();
        ids.extend(results.iter().map(|result| {
            result["webhook_id"].as_str().unwrap_or_else(|| panic!("{result}")).to_owned()
        }));
    }
    ids
}

fn peak_kib(stack: &Stack) -> u64 {
    usage(&[stack.pid()]).unwrap().peak_kib
}

/// The recorded result of the only attempt.
fn recorded(webhook: &Webhook) -> (Option<&str>, Option<u16>) {
    let [attempt] = webhook.attempts.as_slice() else { panic!("one attempt: {webhook:?}") };
    (attempt.error.as_ref().map(|error| error.kind.as_str()), attempt.status_code)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_attempt_is_bounded_and_recorded_and_affects_no_other() {
    let _turn = crate::turn_alone().await;
    let authority = Authority::new().unwrap();
    let behaviours = catalogue::all(&authority).unwrap();
    let mut receivers = Vec::new();
    for behaviour in &behaviours {
        receivers
            .push(HostileReceiver::start(&behaviour.transport, &behaviour.steps).await.unwrap());
    }
    let good = Receiver::start().await.unwrap();
    let launch = Launch::fresh().unwrap();
    let roots = launch.folder().join("roots.pem");
    std::fs::write(&roots, authority.pem()).unwrap();
    // One attempt each, which the record then shows. The circuit breaker is off, so every receiver
    // gets an attempt. No lease expires during an attempt that ends late.
    let launch = launch
        .set("WEBHOOK_CA_FILE", roots.to_str().unwrap())
        .set("DELIVERY_TIMEOUT_MS", &DELIVERY_TIMEOUT.as_millis().to_string())
        .set("LEASE_MS", "20000")
        .set("RETRY_MAX_ATTEMPTS", "1")
        .set("RETRY_CLIENT_ERROR_MAX_ATTEMPTS", "1")
        .set("CIRCUIT_FAILURES", "0")
        .set("RUST_LOG", "warn");
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let before = submit(&api, &vec![good.url("/before"); behaviours.len()]).await;
    ledger::settle(&api, &before, BOUND).await;
    let before_kib = peak_kib(&stack);

    // Good and hostile receivers alternate, which puts both into every batch.
    let rounds = (0..EACH).flat_map(|_| &receivers);
    let urls: Vec<String> =
        rounds.flat_map(|receiver| [receiver.url(), good.url("/beside")]).collect();
    let ids = submit(&api, &urls).await;
    ledger::settle(&api, &ids, BOUND).await;
    let growth_kib = peak_kib(&stack) - before_kib;

    let (mut wrong, mut slowest) = (Vec::new(), Duration::ZERO);
    for (index, id) in ids.iter().enumerate() {
        let webhook = api.webhook(id).await.unwrap();
        let took = Duration::from_millis(webhook.attempts[0].duration_ms);
        slowest = slowest.max(took);
        if index % 2 == 1 {
            assert_eq!(recorded(&webhook), (None, Some(200)), "a good receiver: {webhook:?}");
            assert!(took < DELIVERY_TIMEOUT, "a good receiver took {took:?}");
            continue;
        }
        let behaviour = &behaviours[index / 2 % behaviours.len()];
        let Recorded { kind, status_code } = behaviour.expected;
        if recorded(&webhook) != (kind, status_code) || took > DELIVERY_TIMEOUT + LATENESS_BOUND {
            let message = webhook.last_error.as_ref().and_then(|error| error.message.clone());
            wrong.push(format!(
                "{}: {:?} after {took:?} ({message:?}), expected {:?}",
                behaviour.name,
                recorded(&webhook),
                behaviour.expected
            ));
        }
    }
    println!(
        "{} hostile receivers, {} webhooks to them and as many to a good one: the slowest \
         attempt took {slowest:?} of {DELIVERY_TIMEOUT:?}; the stack's peak memory grew by {:.1} \
         MiB from {:.1} MiB",
        behaviours.len(),
        ids.len() / 2,
        growth_kib as f64 / 1024.0,
        before_kib as f64 / 1024.0,
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(growth_kib < GROWTH_BOUND_KIB, "{growth_kib} KiB");
    // The attempts reached the receivers once each: there were no hidden retries.
    for (behaviour, receiver) in behaviours.iter().zip(&receivers) {
        assert!(
            (1..=EACH).contains(&receiver.connections()),
            "{}: {} connections",
            behaviour.name,
            receiver.connections()
        );
    }
    ledger::close(&api, stack, &launch).await;
}

/// The sender does not follow redirects to a private address.
#[tokio::test(flavor = "multi_thread")]
async fn no_redirect_to_a_private_address_is_followed() {
    let _turn = crate::turn().await;
    let inside = HostileReceiver::start(&Transport::Plain, &[Step::Stall]).await.unwrap();
    let mut urls = Vec::new();
    let mut receivers = Vec::new();
    for code in [300, 301, 302, 303, 307, 308] {
        let answer = format!(
            "HTTP/1.1 {code} Away\r\nlocation: {}\r\nrefresh: 0;url={0}\r\ncontent-length: \
             0\r\n\r\n",
            inside.url()
        );
        let steps = [Step::Read, Step::Write(answer.into_bytes()), Step::Stall];
        receivers.push(HostileReceiver::start(&Transport::Plain, &steps).await.unwrap());
        urls.push(receivers.last().unwrap().url());
    }
    let launch = Launch::fresh()
        .unwrap()
        .set("RETRY_CLIENT_ERROR_MAX_ATTEMPTS", "1")
        .set("RUST_LOG", "warn");
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let ids = submit(&api, &urls).await;
    assert_eq!(
        ledger::settle(&api, &ids, BOUND).await.statuses,
        [("failed".to_owned(), urls.len())].into()
    );
    assert!(receivers.iter().all(|receiver| receiver.connections() == 1));
    assert_eq!(inside.connections(), 0);
    ledger::close(&api, stack, &launch).await;
}

/// A year is capped at `RETRY_AFTER_CAP_MS`: the next attempt starts then. A past date is no wait.
/// A negative number and garbage are ignored.
#[tokio::test(flavor = "multi_thread")]
async fn no_retry_after_holds_a_webhook_for_longer_than_the_cap() {
    const YEARS: [&str; 3] =
        ["31536000", "99999999999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"];
    const PAST: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const NOTHING: [&str; 5] = ["-1", "soon", "1e9", "", "\u{663}"];
    let _turn = crate::turn().await;
    let launch = Launch::fresh()
        .unwrap()
        .set("RETRY_BASE_DELAY_MS", "10")
        .set("RETRY_AFTER_CAP_MS", &RETRY_AFTER_CAP.as_millis().to_string())
        .set("CIRCUIT_FAILURES", "0")
        .set("RUST_LOG", "warn");
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let mut receivers = Vec::new();
    for value in YEARS.iter().chain([&PAST]).chain(&NOTHING) {
        let answer =
            format!("HTTP/1.1 503 Busy\r\nretry-after: {value}\r\ncontent-length: 0\r\n\r\n");
        let steps = [Step::Read, Step::Write(answer.into_bytes())];
        receivers.push(HostileReceiver::start(&Transport::Plain, &steps).await.unwrap());
    }
    let urls: Vec<String> = receivers.iter().map(HostileReceiver::url).collect();
    let ids = submit(&api, &urls).await;
    let (paused, nothing) = ids.split_at(YEARS.len() + 1);
    assert_eq!(
        ledger::settle(&api, nothing, BOUND).await.statuses,
        [("failed".to_owned(), NOTHING.len())].into()
    );
    for (id, value) in paused.iter().zip(YEARS.iter().chain([&PAST])) {
        let webhook = refused_twice(&api, id).await;
        let wait = webhook.attempts[1].started_at.duration_since(webhook.attempts[0].ended_at());
        let wait = Duration::try_from(wait).unwrap();
        let least = if *value == PAST { SHORTEST_PAUSE } else { RETRY_AFTER_CAP };
        // Durations are rounded to milliseconds.
        let range = least.saturating_sub(Duration::from_millis(2))..=least + LATENESS_BOUND;
        assert!(range.contains(&wait), "{value}: {wait:?}");
    }
    for id in paused {
        // One that is being attempted cannot be deleted.
        let delete = async || api.delete_webhook(id).await.is_ok();
        wait_until("the webhook is deleted", BOUND, delete).await;
    }
    assert_eq!(
        ledger::settle(&api, paused, BOUND).await.statuses,
        [("deleted".to_owned(), paused.len())].into()
    );
    ledger::close(&api, stack, &launch).await;
}

/// Waits until two attempts of the webhook are listed.
async fn refused_twice(api: &ApiClient, id: &str) -> Webhook {
    let mut webhook = api.webhook(id).await.unwrap();
    wait_until("two attempts", BOUND, async || {
        webhook = api.webhook(id).await.unwrap();
        webhook.attempts.len() >= 2
    })
    .await;
    webhook
}

/// The receiver returns 200 with an error in the body. `RESPONSE_EXCERPTS=all` shows it.
#[tokio::test(flavor = "multi_thread")]
async fn the_response_to_a_delivery_is_shown_on_request() {
    const BODY: &str = r#"{"ok": false, "error": "no such order"}"#;
    let _turn = crate::turn().await;
    let answer =
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{BODY}", BODY.len()).into_bytes();
    let receiver =
        HostileReceiver::start(&Transport::Plain, &[Step::Read, Step::Write(answer), Step::Again])
            .await
            .unwrap();
    for (setting, expected) in [("failures", Value::Null), ("all", json!(BODY))] {
        let launch =
            Launch::fresh().unwrap().set("RESPONSE_EXCERPTS", setting).set("RUST_LOG", "warn");
        let stack = launch.start().unwrap();
        let api = ApiClient::new(&stack.url(), None).unwrap();
        let ids = submit(&api, &[receiver.url()]).await;
        assert_eq!(
            ledger::settle(&api, &ids, BOUND).await.statuses,
            [("delivered".to_owned(), 1)].into()
        );
        let shown = api.call(Method::GET, &["webhook-status", &ids[0]], &[], None).await.unwrap();
        let shown: Value = shown.expect(StatusCode::OK).unwrap();
        assert_eq!(shown["attempts"][0]["response_excerpt"], expected, "{shown}");
        ledger::close(&api, stack, &launch).await;
    }
}
