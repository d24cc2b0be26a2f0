//! `tests/run` runs every test target of the workspace.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "these are tests: their panics are verdicts"
)]

use std::process::Command;

use harness::binaries::workspace;
use serde_json::Value;

#[test]
fn no_test_target_is_forgotten() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version=1", "--offline"])
        .current_dir(workspace())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let script = std::fs::read_to_string(workspace().join("tests/run")).unwrap();
    let words: Vec<&str> = script.split([' ', ';', '\n']).collect();
    let targets = metadata["packages"].as_array().unwrap().iter().flat_map(|package| {
        package["targets"].as_array().unwrap().iter().filter(|target| target["kind"][0] == "test")
    });
    let names: Vec<&str> = targets.map(|target| target["name"].as_str().unwrap()).collect();
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        let runs = words.windows(2).any(|pair| pair == ["--test", name]);
        assert!(runs, "no part of tests/run runs `--test {name}`");
    }
}
