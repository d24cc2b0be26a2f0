//! `traffic` at small sizes, on a real stack: it measures each of its figures, and its exit code
//! tells whether the targets are met.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "these are tests: their panics are verdicts"
)]

use std::process::Command;

use harness::{
    binaries::binary,
    habits::{piped, text},
};
use serde_json::{Value, json};

/// Settings that permit one attempt.
const ONE_ATTEMPT: [(&str, &str); 2] =
    [("RETRY_MAX_ATTEMPTS", "1"), ("RETRY_CLIENT_ERROR_MAX_ATTEMPTS", "1")];

fn traffic(arguments: &[&str], settings: &[(&str, &str)]) -> (Option<i32>, Value) {
    let folder = tempfile::tempdir().unwrap();
    let spawn = format!("--spawn={}", binary("local").unwrap().display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_traffic"));
    command.current_dir(folder.path()).args(["--json", &spawn]).args(arguments);
    let output = piped(command.envs(settings.iter().copied()));
    let report = serde_json::from_str(&text(&output.stdout))
        .unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)));
    (output.status.code(), report)
}

/// The value of a figure.
fn value(result: &Value, name: &str) -> f64 {
    let figures = result["figures"].as_array().unwrap();
    let found = figures.iter().find(|figure| figure["name"] == name);
    found.unwrap_or_else(|| panic!("{name}: {result:#}"))["value"].as_f64().unwrap()
}

/// The value of a figure that counts something.
fn count(result: &Value, name: &str) -> u64 {
    value(result, name) as u64
}

/// With one attempt each, a refusal that spent one would make a dead letter.
#[test]
fn a_receiver_that_refuses_requests_gets_all_webhooks() {
    let (exit, report) = traffic(&["throttled", "--throttled", "6@2"], &ONE_ATTEMPT);
    assert_eq!(exit, Some(0), "{report:#}");
    let case = &report["throttled"][0];
    assert_eq!((count(case, "delivered"), count(case, "dead letters")), (6, 0), "{report:#}");
    assert!(value(case, "requests per webhook") >= 1.0, "{report:#}");
    assert!(value(case, "seconds until the last delivery") >= 1.0, "{report:#}");
    assert!(report["isolation"] == json!([]) && report["limit"].is_null(), "{report:#}");
}

/// The ratio of so few webhooks says nothing, so the exit code may be 1.
#[test]
fn healthy_webhooks_beside_a_broken_path_are_all_delivered() {
    assert_isolated("isolation", "paths");
}

/// Each of the application's 100 endpoints hangs.
#[test]
fn messages_beside_an_application_that_hangs_are_all_delivered() {
    assert_isolated("applications", "applications");
}

fn assert_isolated(name: &str, case: &str) {
    let (exit, report) = traffic(&[name, "--seconds", "2", "--pairs", "2", "--rate", "10"], &[]);
    let result = &report["isolation"][0];
    assert_eq!(result["case"], case, "{report:#}");
    assert_eq!(count(result, "healthy webhooks delivered"), 40, "{report:#}");
    let pairs = result["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), 2, "{report:#}");
    assert!(pairs.iter().all(|pair| pair["alone"]["count"] == 20), "{report:#}");
    assert!(pairs.iter().all(|pair| pair["broken_requests"].as_u64() > Some(0)), "{report:#}");
    let is_met = result["figures"].as_array().unwrap().iter().all(|one| one["is_met"] == true);
    assert_eq!(exit, Some(i32::from(!is_met)), "{report:#}");
}

#[test]
fn a_configured_rate_is_kept_and_used() {
    let (exit, report) = traffic(&["limit", "--seconds", "5", "--limit", "10"], &[]);
    let result = &report["limit"];
    assert_eq!((&result["processes"], &result["webhooks"]), (&1.into(), &100.into()));
    assert_eq!(count(result, "delivered"), 100, "{report:#}");
    assert!(value(result, "most requests in one second") <= 30.0, "{report:#}");
    assert!(value(result, "most over R(w+10)+burst+1 in any w seconds") <= 0.0, "{report:#}");
    assert_eq!(exit, Some(0), "{report:#}");
}

/// Without waits and with one attempt, each refused webhook becomes a dead letter.
#[test]
fn a_missed_target_exits_with_1_and_dead_letters_are_counted() {
    let settings = [("MAX_DEFER_MS", "0"), ONE_ATTEMPT[0], ONE_ATTEMPT[1]];
    let arguments = ["throttled", "--throttled", "6@2", "--timeout-seconds", "1"];
    let (exit, report) = traffic(&arguments, &settings);
    let case = &report["throttled"][0];
    let (delivered, failed) = (count(case, "delivered"), count(case, "dead letters"));
    assert!(failed >= 1 && delivered + failed == 6, "{report:#}");
    assert_eq!(exit, Some(1), "{report:#}");
}
