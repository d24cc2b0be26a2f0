//! `cargo lambda watch` from the root of the workspace, as a user has it, driven by `local
//! --functions`.

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

use external::cargo_lambda::Watch;
use harness::{client::ApiClient, ledger, life, receiver::Receiver, stack::Launch};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

/// Cargo looks at everything that they are built from before it starts a function.
const BOUND: Duration = Duration::from_secs(180);

/// As in `functions.rs`: leases run their course, and hidden messages come back after 8 s.
const SETTINGS: [(&str, &str); 4] = [
    ("DELIVERY_TIMEOUT_MS", "600"),
    ("LEASE_MS", "1000"),
    ("RETRY_BASE_DELAY_MS", "50"),
    ("CIRCUIT_FAILURES", "0"),
];

/// Every way of a webhook works under cargo-lambda, with the environment and the feature that the
/// workspace's metadata name: delivered, retried, failed, redriven. Then everything is killed with
/// an attempt in flight; it is made again after the restart, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn webhooks_live_and_survive_a_crash_under_cargo_lambda() {
    let launch = SETTINGS
        .iter()
        .fold(Launch::fresh().unwrap(), |launch, (variable, value)| launch.set(variable, value));
    let data_dir = launch.data_dir().to_string_lossy().into_owned();
    let environment: Vec<(&str, &str)> =
        SETTINGS.into_iter().chain([("DATA_DIR", &*data_dir)]).collect();
    let log = launch.folder().join("watch.log");
    let watch = Watch::start(&environment, &log).unwrap();
    let port = watch.endpoint().rsplit(':').next().unwrap().parse().unwrap();
    let launch = launch.instead("--functions", watch.endpoint()).ready_within(BOUND);
    let stack = launch
        .start()
        .unwrap_or_else(|error| panic!("{error}\n{}", std::fs::read_to_string(&log).unwrap()));
    let api = ApiClient::new(&stack.url(), None).unwrap();
    life::live(&api, BOUND).await;
    assert_web_pages_are_refused(watch.endpoint()).await;

    let receiver = Receiver::start().await.unwrap();
    let mut accepted = Vec::new();
    let mut kept = Some(watch);
    for number in 0..40 {
        accepted.push(
            api.test_webhook(&receiver.url("/x"), &json!({"number": number}))
                .await
                .unwrap()
                .webhook_id,
        );
        if number == 20 {
            // `api` has just accepted one, and `deliver` is at work on it or on those before.
            let watch = kept.take().unwrap();
            assert!(watch.pid("deliver").is_some() && watch.pid("api").is_some());
            watch.crash();
            let refused = api.health().await.unwrap().status;
            assert_eq!(refused, http::StatusCode::SERVICE_UNAVAILABLE);
            kept = Some(Watch::start_at(port, &environment, &log).unwrap());
            let started = Instant::now();
            while api.health().await.map_or(0, |answer| answer.status.as_u16()) != 200 {
                assert!(started.elapsed() < BOUND, "{}", std::fs::read_to_string(&log).unwrap());
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    let ledger = ledger::settle(&api, &accepted, BOUND).await;
    assert_eq!(ledger.statuses, [("delivered".to_owned(), accepted.len())].into());
    harness::crash::assert_explained(&receiver, &accepted, &ledger);
    ledger::close(&api, stack, &launch).await;
}

/// What a web page that a developer has open can make the browser send to the function URL changes
/// nothing. A program can send it.
async fn assert_web_pages_are_refused(endpoint: &str) {
    let client = ApiClient::new(&format!("{endpoint}/lambda-url/api"), None).unwrap();
    let accepted = client.test_webhook("http://127.0.0.1:1/", &json!({})).await.unwrap();
    client.delete_webhook(&accepted.webhook_id).await.unwrap();
    let address = endpoint.trim_start_matches("http://");
    for (headers, status) in [
        (
            format!(
                "host: {address}\r\norigin: https://evil.example\r\ncontent-type: application/json"
            ),
            "403",
        ),
        (
            format!(
                "host: {address}\r\nsec-fetch-site: cross-site\r\ncontent-type: application/json"
            ),
            "403",
        ),
        ("host: evil.example\r\ncontent-type: application/json".to_owned(), "403"),
        (format!("host: {address}\r\ncontent-type: text/plain"), "415"),
        (format!("host: {address}"), "415"),
    ] {
        let mut connection = TcpStream::connect(address).await.unwrap();
        let path = "/lambda-url/api/test-webhook?webhook_url=http%3A%2F%2F127.0.0.1%3A1%2F";
        let request = format!(
            "POST {path} HTTP/1.1\r\n{headers}\r\ncontent-length: 2\r\nconnection: \
             close\r\n\r\n{{}}"
        );
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(BOUND, connection.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer.split(' ').nth(1), Some(status), "{headers}: {answer}");
    }
}
