//! The identifiers that follow a webhook from the call to the destination and the log: correlation
//! id, W3C Trace Context, log sentences.

use std::{collections::BTreeSet, time::Duration};

use harness::{
    client::{ApiClient, http_client},
    ledger,
    receiver::{Receiver, Reply},
    stack::Launch,
};
use http::StatusCode;
use serde_json::{Value, json};

const BOUND: Duration = Duration::from_secs(30);

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// Creates a webhook with these request headers and returns its id.
async fn accept(api: &ApiClient, body: &Value, headers: &[(&str, &str)]) -> String {
    let mut request = http_client().unwrap().post(format!("{}/webhooks", api.base()));
    request = request.header("content-type", "application/json").body(body.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    let correlation_id = answer.headers()["x-correlation-id"].to_str().unwrap().to_owned();
    if let Some((_, given)) = headers.iter().find(|(name, _)| *name == "x-correlation-id") {
        assert_eq!(&correlation_id, given, "the caller's id is returned");
    }
    let accepted: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!(accepted["correlation_id"], correlation_id);
    accepted["webhook_id"].as_str().unwrap().to_owned()
}

/// The call and all attempts share one correlation id and one trace, and each attempt has its own
/// span. The log contains the documented sentences with the trace, and without the URL's query.
#[tokio::test(flavor = "multi_thread")]
async fn correlation_id_and_trace_reach_the_destination_and_the_log() {
    let receiver =
        Receiver::builder().script(|request| match (request.uri.path(), request.attempt()) {
            ("/later", Some(2..)) => Reply::status(200),
            ("/gone", _) => Reply::status(410),
            _ => Reply::status(503),
        });
    let receiver = receiver.start().await.unwrap();
    let launch =
        Launch::fresh().unwrap().set("RETRY_BASE_DELAY_MS", "20").set("CIRCUIT_FAILURES", "0");
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let body = json!({"url": receiver.url("/later?token=secret"), "payload": 1,
        "reference_id": "order-1"});
    let headers = [
        ("x-correlation-id", "call-1"),
        ("traceparent", &*parent),
        ("tracestate", "vendor=a"),
        ("tracestate", "other=b"),
    ];
    let id = accept(&api, &body, &headers).await;
    let gone = json!({"url": receiver.url("/gone"), "payload": 1, "reference_id": "order-2"});
    let gone = accept(&api, &gone, &[("x-correlation-id", "call-2")]).await;
    ledger::settle(&api, &[id.clone(), gone.clone()], BOUND).await;

    let attempts = receiver.wait_for_webhook(&id, 2, BOUND).await.unwrap();
    let mut spans = BTreeSet::from(["00f067aa0ba902b7".to_owned()]);
    for attempt in &attempts {
        assert_eq!(attempt.header("x-correlation-id"), Some("call-1"));
        assert_eq!(attempt.header("tracestate"), Some("vendor=a,other=b"));
        let sent: Vec<&str> = attempt.header("traceparent").unwrap().split('-').collect();
        assert_eq!((sent.len(), sent[0], sent[1], sent[3]), (4, "00", TRACE, "01"));
        assert!(sent[2].len() == 16 && spans.insert(sent[2].to_owned()), "a new span: {sent:?}");
    }
    assert!(
        receiver.wait_for_webhook(&gone, 1, BOUND).await.unwrap()[0]
            .header("traceparent")
            .is_none(),
        "the call had no trace"
    );
    assert_eq!(api.webhook(&id).await.unwrap().correlation_id, "call-1");
    ledger::close(&api, stack, &launch).await;

    let log = launch.log();
    let url = receiver.url("/later");
    for sentence in [
        format!("[call-1] Sending webhook notification to {url} for reference_id=order-1"),
        "[call-1] Webhook delivery failed with status 503".to_owned(),
        "[call-1] Retrying webhook delivery for reference_id=order-1".to_owned(),
        "[call-1] Successfully delivered webhook for reference_id=order-1".to_owned(),
        "[call-2] Webhook delivery failed with status 410".to_owned(),
        "[call-2] Moved failed webhook to dead letter queue".to_owned(),
    ] {
        let line = log
            .lines()
            .find(|line| line.contains(&sentence))
            .unwrap_or_else(|| panic!("'{sentence}' is missing in\n{log}"));
        let webhook = if sentence.starts_with("[call-1]") { &id } else { &gone };
        assert!(line.contains(&format!("webhook_id={webhook}")), "{line}");
        assert_eq!(line.contains(TRACE), sentence.starts_with("[call-1]"), "{line}");
    }
    for span in spans.iter().filter(|span| *span != "00f067aa0ba902b7") {
        assert!(log.contains(span), "the attempt's span is not in the log");
    }
    assert!(!log.contains("token=secret"));
}

/// An invalid `traceparent` is ignored, and the webhook is accepted. A `traceparent` in the
/// webhook's own headers takes precedence.
#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_trace_is_ignored_and_a_webhook_s_own_header_is_kept() {
    let receiver = Receiver::start().await.unwrap();
    let launch = Launch::fresh().unwrap();
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let mut ids = Vec::new();
    let body = json!({"url": receiver.url("/x"), "payload": 1});
    for parent in [
        "garbage",
        &format!("ff-{TRACE}-00f067aa0ba902b7-01"),
        &format!("00-{TRACE}-0000000000000000-01"),
    ] {
        let id = accept(&api, &body, &[("traceparent", parent), ("tracestate", "a=1")]).await;
        let request = receiver.wait_for_webhook(&id, 1, BOUND).await.unwrap().remove(0);
        assert_eq!(
            (request.header("traceparent"), request.header("tracestate")),
            (None, None),
            "{parent}"
        );
        ids.push(id);
    }
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-00");
    let id = accept(&api, &body, &[("traceparent", &parent), ("tracestate", "not a state")]).await;
    let request = receiver.wait_for_webhook(&id, 1, BOUND).await.unwrap().remove(0);
    assert!(
        request
            .header("traceparent")
            .is_some_and(|sent| sent.starts_with(&format!("00-{TRACE}-")) && sent.ends_with("-00"))
    );
    assert_eq!(request.header("tracestate"), None);
    ids.push(id);
    let own = json!({"url": receiver.url("/x"), "payload": 1,
        "headers": {"TraceParent": "as the webhook has it"}});
    let id = accept(&api, &own, &[("traceparent", &parent)]).await;
    let request = receiver.wait_for_webhook(&id, 1, BOUND).await.unwrap().remove(0);
    assert_eq!(request.header("traceparent"), Some("as the webhook has it"));
    ids.push(id);
    ledger::settle(&api, &ids, BOUND).await;
    ledger::close(&api, stack, &launch).await;
}
