//! The embedded file under a running stack: a full disk, files that are gone, others that read it,
//! damage, and backups. Real processes, a real small file system, real HTTP.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "these are tests: their panics are verdicts"
)]

mod backup;
mod damage;
mod full_disk;
mod lost_files;
mod readers;

use std::{
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use http::{Method, StatusCode};
use posthaste_tests::{binaries::binary, client::ApiClient, ledger, stack::Launch};
use serde_json::{Value, json};
use tokio::time::sleep;

/// For what takes milliseconds on a machine with nothing else to do.
const BOUND: Duration = Duration::from_secs(60);

const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A stack whose retries come soon, and whose circuits stay closed.
fn launch() -> Launch {
    let launch =
        Launch::fresh().unwrap().set("RETRY_BASE_DELAY_MS", "50").set("CIRCUIT_FAILURES", "0");
    launch.set("RETRY_MAX_ATTEMPTS", "50").set("RUST_LOG", "warn")
}

/// `local` with these arguments on a data folder, run to its end.
fn local(data_dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary("local").unwrap());
    command.args(arguments).arg("--data-dir").arg(data_dir).output().unwrap()
}

/// What it printed, if it did what it was told.
fn printed(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}: {text}{}", output.status, refusal(output));
    text
}

fn refusal(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Health as it is now: what is told holds for a second.
async fn fresh_health(api: &ApiClient) -> (StatusCode, Value) {
    let asked = Instant::now();
    let first = checked_at(&health(api).await.1);
    loop {
        let (status, body) = health(api).await;
        if checked_at(&body) != first {
            return (status, body);
        }
        assert!(asked.elapsed() < BOUND, "health stays the same");
        sleep(POLL_INTERVAL).await;
    }
}

async fn health(api: &ApiClient) -> (StatusCode, Value) {
    let answer = api.health().await.unwrap();
    (answer.status, serde_json::from_str(&answer.body).unwrap())
}

fn checked_at(health: &Value) -> Value {
    health["checked_at"].clone()
}

/// Waits until health says this, and returns all that it says.
async fn wait_for_health(api: &ApiClient, word: &str) -> Value {
    let started = Instant::now();
    loop {
        let (_, health) = health(api).await;
        if health["status"] == word {
            return health;
        }
        assert!(started.elapsed() < BOUND, "not {word}: {health}");
        sleep(POLL_INTERVAL).await;
    }
}

/// Posts a webhook with a payload of so many bytes: its id, or that it was refused with 503.
async fn post(api: &ApiClient, url: &str, bytes: usize) -> Result<String, StatusCode> {
    let body = json!({"url": url, "payload": "x".repeat(bytes)}).to_string();
    let answer = api.call(Method::POST, &["webhooks"], &[], Some(body)).await.unwrap();
    match answer.status {
        StatusCode::SERVICE_UNAVAILABLE => Err(answer.status),
        _ => Ok(answer
            .expect::<posthaste_tests::client::Accepted>(StatusCode::ACCEPTED)
            .unwrap()
            .webhook_id),
    }
}

fn warnings(health: &Value) -> String {
    health["store"]["warnings"].to_string()
}

/// The commands of the runbook's block that holds this.
fn runbook_block(text: &str) -> String {
    let file = posthaste_tests::binaries::workspace().join("docs/operating.md");
    let runbook = std::fs::read_to_string(file).unwrap();
    let mut blocks = runbook.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks
        .find(|block| block.contains(text))
        .unwrap_or_else(|| panic!("no block with {text}"))
        .to_owned()
}
