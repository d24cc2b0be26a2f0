//! The example receivers of `docs/receiving.md`, one per language: real processes that real
//! webhooks are delivered to.
//!
//! Needs python3 with venv, node and npm; what is missing fails the test and is named.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "these are tests: their panics are verdicts"
)]

mod example;

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use harness::{
    client::{ApiClient, http_client},
    ledger,
    receiver::Receiver,
    stack::Launch,
};
use http::{HeaderMap, Method, StatusCode};
use serde_json::Value;
use standardwebhooks::Webhook;
use tempfile::TempDir;

use crate::example::{BOUND, Example, Language};

/// As a sender may well write it: whoever parses it and writes it anew has other bytes, and no
/// valid signature.
const PAYLOAD: &str =
    r#"{ "amount": 1.50, "currency":"EUR",  "name": "Zo\u00eb \ud83d\udcee", "note": "Zoë" }"#;

/// How long an answer may take: it must not wait for the work.
const MAX_ANSWER: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn the_python_example_receives() {
    receives(Language::Python).await;
    refuses(Language::Python).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_typescript_example_receives() {
    receives(Language::TypeScript).await;
    refuses(Language::TypeScript).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_example_receives() {
    receives(Language::Rust).await;
    refuses(Language::Rust).await;
}

fn secret() -> String {
    format!("whsec_{}", STANDARD.encode(rand::random::<[u8; 24]>()))
}

/// A webhook is delivered, kept byte for byte and handled; the same one sent again is answered 2xx
/// and handled no second time, also not by a process that was started anew; what was kept and not
/// handled when the process was killed is handled at its next start. The stack is in the middle of
/// a rotation: it signs with a new secret too, which the receiver does not know yet.
async fn receives(language: Language) {
    let (old, new, inbox) = (secret(), secret(), TempDir::new().unwrap());
    let command = || language.command();
    let mut example = Example::start(command(), 0, &old, inbox.path());
    let launch = Launch::fresh()
        .unwrap()
        .set("WEBHOOK_HMAC_SECRET", &format!("{new} {old}"))
        .set("RETRY_BASE_DELAY_MS", "50");
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();

    let first = send(&api, &example.url()).await;
    assert_delivered(&api, &first, 1).await;
    assert_eq!(std::fs::read_to_string(kept(inbox.path(), &first)).unwrap(), PAYLOAD);
    example.wait_for(&format!("handled {first}"));
    api.resend(&first).await.unwrap();
    assert_delivered(&api, &first, 2).await;
    // It works on them in the order in which they came, so once this one was handled, so would the
    // doubled one be.
    let second = send(&api, &example.url()).await;
    assert_delivered(&api, &second, 1).await;
    example.wait_for(&format!("handled {second}"));
    assert_eq!(example.count(&format!("handled {first}")), 1);

    let port = example.port();
    drop(example);
    std::fs::remove_file(inbox.path().join(format!("{second}.done"))).unwrap();
    let mut example = Example::start(command(), port, &old, inbox.path());
    example.wait_for(&format!("handled {second}"));
    api.resend(&first).await.unwrap();
    assert_delivered(&api, &first, 3).await;
    let third = send(&api, &example.url()).await;
    example.wait_for(&format!("handled {third}"));
    assert_eq!(example.count(&format!("handled {first}")), 0);

    let ledger = ledger::settle(&api, &[first, second, third], BOUND).await;
    assert_eq!(ledger.statuses, [("delivered".to_owned(), 3)].into());
    ledger::close(&api, stack, &launch).await;
}

/// A delivery of the stack's, caught on its way, is taken as it is; tampered with, signed by
/// another sender, too old, or mangled, it is answered 4xx and not kept.
async fn refuses(language: Language) {
    let (secret, inbox, way) =
        (secret(), TempDir::new().unwrap(), Receiver::start().await.unwrap());
    let mut example = Example::start(language.command(), 0, &secret, inbox.path());
    let launch = Launch::fresh().unwrap().set("WEBHOOK_HMAC_SECRET", &secret);
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let id = send(&api, &way.url("/x")).await;
    let caught = way.wait_for(1, BOUND).await.unwrap()[0].clone();
    let (headers, body) = (&caught.headers, PAYLOAD.to_owned());

    let with = |name: &'static str, value: &str| {
        let mut headers = headers.clone();
        headers.insert(name, value.parse().unwrap());
        headers
    };
    let mut bare = headers.clone();
    bare.remove("webhook-signature");
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let stranger = signed(&self::secret(), &id, seconds, headers);
    let old = signed(&secret, &id, seconds - 600, headers);
    let early = signed(&secret, &id, seconds + 600, headers);
    let refused = [
        ("a tampered amount", headers.clone(), body.replace("1.50", "9.50")),
        ("other white space", headers.clone(), body.replace("  ", " ")),
        ("another webhook's id", with("webhook-id", &format!("{id}0")), body.clone()),
        ("another time", with("webhook-timestamp", &(seconds + 1).to_string()), body.clone()),
        ("no time", with("webhook-timestamp", "soon"), body.clone()),
        ("no signature", bare, body.clone()),
        ("no base64", with("webhook-signature", "v1,%%%"), body.clone()),
        ("no version", with("webhook-signature", "garbage"), body.clone()),
        ("an unknown version", with("webhook-signature", "v9,AAAA"), body.clone()),
        ("a stranger's signature", stranger, body.clone()),
        ("ten minutes old", old, body.clone()),
        ("ten minutes early", early, body.clone()),
    ];
    for (what, headers, body) in refused {
        assert_eq!(post(&example, headers, body).await, StatusCode::UNAUTHORIZED, "{what}");
        assert_eq!(std::fs::read_dir(inbox.path()).unwrap().count(), 0, "{what} was kept");
    }
    let large = "x".repeat(1024 * 1024 + 1);
    // It may hang up on who is still writing, instead of an answer.
    assert!(
        try_post(&example, headers.clone(), large)
            .await
            .is_none_or(|status| status == StatusCode::PAYLOAD_TOO_LARGE)
    );
    assert_eq!(std::fs::read_dir(inbox.path()).unwrap().count(), 0);
    // So it was neither the headers nor the way of sending them that was refused.
    assert_eq!(post(&example, headers.clone(), body.clone()).await, StatusCode::NO_CONTENT);
    assert_eq!(post(&example, headers.clone(), body).await, StatusCode::NO_CONTENT);
    example.wait_for(&format!("handled {id}"));
    assert_eq!(std::fs::read(kept(inbox.path(), &id)).unwrap(), *caught.body);
    ledger::close(&api, stack, &launch).await;
}

/// These headers, signed anew at this time.
fn signed(secret: &str, id: &str, seconds: i64, headers: &HeaderMap) -> HeaderMap {
    let signature = Webhook::new(secret).unwrap().sign(id, seconds, PAYLOAD.as_bytes()).unwrap();
    let mut headers = headers.clone();
    headers.insert("webhook-timestamp", seconds.into());
    headers.insert("webhook-signature", signature.parse().unwrap());
    headers
}

async fn post(example: &Example, headers: HeaderMap, body: String) -> StatusCode {
    try_post(example, headers, body).await.unwrap()
}

async fn try_post(example: &Example, mut headers: HeaderMap, body: String) -> Option<StatusCode> {
    // The client's own.
    for name in ["host", "content-length", "connection"] {
        headers.remove(name);
    }
    let request = http_client().unwrap().post(example.url()).headers(headers).body(body);
    Some(request.send().await.ok()?.status())
}

async fn send(api: &ApiClient, url: &str) -> String {
    let body = format!(r#"{{"url":"{url}","payload":{PAYLOAD}}}"#);
    let answer = api.call(Method::POST, &["webhooks"], &[], Some(body)).await.unwrap();
    let accepted: Value = answer.expect(StatusCode::ACCEPTED).unwrap();
    accepted["webhook_id"].as_str().unwrap().to_owned()
}

/// It is delivered with so many attempts in all, each answered soon.
async fn assert_delivered(api: &ApiClient, id: &str, attempts: usize) {
    let ledger = ledger::settle(api, &[id.to_owned()], BOUND).await;
    assert_eq!(ledger.statuses, [("delivered".to_owned(), 1)].into());
    let webhook = api.webhook(id).await.unwrap();
    let answers: Vec<_> =
        webhook.attempts.iter().map(|attempt| (attempt.status_code, &*attempt.outcome)).collect();
    assert_eq!(answers, vec![(Some(204), "delivered"); attempts]);
    assert!(
        webhook
            .attempts
            .iter()
            .all(|attempt| Duration::from_millis(attempt.duration_ms) < MAX_ANSWER)
    );
}

fn kept(inbox: &Path, id: &str) -> PathBuf {
    inbox.join(format!("{id}.json"))
}
