//! The OpenAPI document judged by others' tools, and the API by the document. That it is what the
//! code says, and has every route, is shown in `functions/api/tests/http/openapi.rs`.

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

use std::time::{Duration, Instant};

use external::openapi::{exercise, validate};
use harness::{client::ApiClient, ledger, receiver::Receiver, stack::Launch};

const KEY: &str = "a-key-for-schemathesis";

const BOUND: Duration = Duration::from_secs(60);

/// It is OpenAPI 3.1, and each of its examples is what its schema says.
#[tokio::test(flavor = "multi_thread")]
async fn the_served_document_is_valid() {
    let launch = Launch::fresh().unwrap();
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let answer = api.call(http::Method::GET, &["openapi.json"], &[], None).await.unwrap();
    let file = launch.folder().join("openapi.json");
    std::fs::write(&file, &answer.body).unwrap();
    validate(&file).unwrap();

    // The judge does judge: an example that is none, and a document that is none.
    let mut broken: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    broken["components"]["schemas"]["Accepted"]["examples"][0]["status"] = "lost".into();
    std::fs::write(&file, broken.to_string()).unwrap();
    let error = validate(&file).unwrap_err().to_string();
    assert!(error.contains("lost") && error.contains("schemas/Accepted"), "{error}");
    broken["paths"]["/webhooks"]["post"]["responses"] = "none".into();
    std::fs::write(&file, broken.to_string()).unwrap();
    assert!(validate(&file).is_err());
    ledger::end(&api, stack).await;
}

/// Whatever Schemathesis makes of the document, valid and not, the API answers as the document
/// says. A stack that asks for a key.
#[tokio::test(flavor = "multi_thread")]
async fn the_api_does_as_its_document_says() {
    let receiver = Receiver::start().await.unwrap();
    let launch = Launch::fresh()
        .unwrap()
        .set("API_KEYS", KEY)
        .set("RETRY_BASE_DELAY_MS", "10")
        .set("CIRCUIT_FAILURES", "0");
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), Some(KEY)).unwrap();
    let document = launch.folder().join("openapi.json");
    let answer = api.call(http::Method::GET, &["openapi.json"], &[], None).await.unwrap();
    std::fs::write(&document, answer.body).unwrap();
    let (url, destination) = (stack.url(), receiver.url(""));
    let started = Instant::now();
    let run = tokio::task::spawn_blocking(move || {
        exercise(&document, &url, KEY, destination.trim_end_matches('/'), BOUND)
    });
    let said = run.await.unwrap().unwrap_or_else(|error| panic!("{error}"));
    println!(
        "{said}\nin {:.1} s, {} webhooks arrived",
        started.elapsed().as_secs_f64(),
        receiver.received().len()
    );
    assert!(!receiver.received().is_empty(), "some were accepted and delivered");
    assert!(!launch.log().contains("panicked"), "{}", launch.log());
    ledger::end(&api, stack).await;
}
