//! `simulate` as a command-line tool.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "these are tests: their panics are verdicts"
)]

use std::{path::Path, process::Command};

use harness::habits::{check_colour, check_help, check_wrong_usage, piped, text};
use serde_json::Value;

const SIMULATE: &str = env!("CARGO_BIN_EXE_simulate");

fn simulate() -> Command {
    Command::new(SIMULATE)
}

#[test]
fn it_has_the_habits_of_every_tool() {
    let program = Path::new(SIMULATE);
    check_help("simulate", program);
    check_wrong_usage("simulate", program);
    check_colour("simulate", program);
}

#[test]
fn the_json_output_parses() {
    let output = piped(simulate().args(["--json", "--seeds", "3"]));
    let found: Value = serde_json::from_str(&text(&output.stdout)).unwrap();
    assert_eq!(
        (output.status.code(), &found["seeds"], &found["failure"]),
        (Some(0), &3.into(), &Value::Null),
        "{found:#}"
    );
    let output = piped(simulate().args(["--json", "--seed", "0", "--bug", "FailedNotHeld"]));
    let found: Value = serde_json::from_str(&text(&output.stdout)).unwrap();
    assert_eq!((output.status.code(), &found["seed"]), (Some(1), &0.into()));
    assert!(
        found["violation"].is_string() && found["trace"].as_array().unwrap().len() > 10,
        "{found:#}"
    );
}
