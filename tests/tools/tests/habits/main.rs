//! Habits that every program of this project has: help with its exit codes, usage errors, colour on
//! a terminal only, JSON that parses.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "these are tests: their panics are verdicts"
)]

mod json;
mod terminal;

use std::{collections::BTreeSet, path::PathBuf, process::Command};

use harness::{
    binaries::{binary, workspace},
    habits::{check_help, check_wrong_usage, piped, text},
};

/// The tools of this build.
const TOOLS: [(&str, &str); 8] = [
    ("cost", env!("CARGO_BIN_EXE_cost")),
    ("load", env!("CARGO_BIN_EXE_load")),
    ("startup", env!("CARGO_BIN_EXE_startup")),
    ("test-webhook-dlq", env!("CARGO_BIN_EXE_test-webhook-dlq")),
    ("test-webhook-dlq-simple", env!("CARGO_BIN_EXE_test-webhook-dlq-simple")),
    ("test-webhook-failure", env!("CARGO_BIN_EXE_test-webhook-failure")),
    ("traffic", env!("CARGO_BIN_EXE_traffic")),
    ("webhook-receiver", env!("CARGO_BIN_EXE_webhook-receiver")),
];

/// Every program that a user starts by name.
fn programs() -> Vec<(&'static str, PathBuf)> {
    let tools = TOOLS.map(|(name, path)| (name, PathBuf::from(path)));
    tools.into_iter().chain([("local", binary("local").unwrap())]).collect()
}

fn tool(name: &str) -> Command {
    Command::new(TOOLS.into_iter().find(|(tool, _)| *tool == name).unwrap().1)
}

#[test]
fn no_tool_is_forgotten_here() {
    let sources = std::fs::read_dir(workspace().join("tests/tools/src/bin")).unwrap();
    let there: BTreeSet<String> = sources
        .map(|source| source.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(there, TOOLS.map(|(name, _)| name.to_owned()).into());
}

#[test]
fn help_tells_the_exit_codes() {
    for (name, path) in programs() {
        check_help(name, &path);
    }
}

#[test]
fn wrong_usage_exits_with_2_and_names_what_is_wrong() {
    for (name, path) in programs() {
        check_wrong_usage(name, &path);
    }
}

/// Nobody answers at the port that they are sent to, or what they need is not there: that is
/// another exit code than a verdict.
#[test]
fn what_could_not_run_exits_with_3_and_says_why() {
    let closed_port = "http://127.0.0.1:1";
    for name in ["test-webhook-dlq", "test-webhook-dlq-simple", "test-webhook-failure"] {
        let output =
            piped(tool(name).args(["--api-url", closed_port, "--receiver-url", closed_port]));
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(3), "{name}: {said}");
        assert!(
            said.contains("stopped: ") && said.contains("http://127.0.0.1:1 ("),
            "{name}: {said}"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let in_folder = |name| {
        let mut command = tool(name);
        command.current_dir(folder.path());
        command
    };
    for (output, why) in [
        (
            piped(in_folder("load").args(["--api-url", closed_port, "--webhooks", "1"])),
            "127.0.0.1:1",
        ),
        (piped(in_folder("load").arg("--spawn=no-such-binary")), "no-such-binary"),
        (piped(in_folder("traffic").arg("--spawn=no-such-binary")), "no-such-binary"),
        (piped(in_folder("startup").args(["--binaries", "no-such-folder"])), "no-such-folder"),
        (
            piped(in_folder("webhook-receiver").args([
                "--port",
                "0",
                "--log-file",
                "no-such-folder/x",
            ])),
            "no-such-folder",
        ),
        (
            piped(
                Command::new(binary("local").unwrap())
                    .current_dir(folder.path())
                    .env("BATCH_SIZE", "many"),
            ),
            "BATCH_SIZE",
        ),
    ] {
        let complained = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{complained}");
        assert!(complained.contains(why), "{complained}");
    }
}
